#pragma once

#include <string>

#include "llama_cpp/gguf_model.hpp"
#include "llama_server/server_client.hpp"

namespace cachecard::llama_server {

struct TargetModelOptions {
  std::string model;         ///< GGUF file, for a server whose own path is not readable here
  std::string cache_folder;  ///< of model digests; empty: none
};

/// The model that a server runs: from the file of /props where it can be read here, else from
/// options.model; with the adapters and the build that the server names.
struct TargetModel {
  std::string path;
  llama_cpp::ModelFacts facts;
};

/// Errors: identity_unknown (no readable file), and read_model's
Result<TargetModel> target_model(ServerClient& client, const ServerFacts& server,
                                 const TargetModelOptions& options);

}  // namespace cachecard::llama_server
