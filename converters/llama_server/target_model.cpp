#include "llama_server/target_model.hpp"

#include <unistd.h>

#include "cachecard/digest.hpp"

namespace cachecard::llama_server {
namespace {

/// A relative path is relative to the server's working folder, which is not known here.
bool readable_here(const std::string& path) {
  return path.starts_with('/') && ::access(path.c_str(), R_OK) == 0;
}

}  // namespace

Result<TargetModel> target_model(ServerClient& client, const ServerFacts& server,
                                 const TargetModelOptions& options) {
  TargetModel target;
  target.path = readable_here(server.model_path) ? server.model_path : options.model;
  if (target.path.empty()) {
    return Error{ErrorCode::kIdentityUnknown,
                 kNoOffset,
                 {},
                 "the server's model file is not readable here: --model names a copy of it"};
  }
  llama_cpp::ModelOptions reading;
  reading.cache_folder = options.cache_folder;
  auto facts = llama_cpp::read_model(target.path, reading);
  if (!facts) return facts.error();
  target.facts = std::move(*facts);
  auto adapters = client.adapters();
  if (!adapters) return adapters.error();
  if (*adapters) target.facts.identity.set_text(IdentityField::kAdapters, **adapters);
  if (!server.build_info.empty()) {
    target.facts.identity.set_text(IdentityField::kProducer, "llama-server " + server.build_info);
  }
  if (!server.chat_template.empty()) {
    target.facts.identity.set_digest(IdentityField::kTemplateDigest,
                                     digest128(std::as_bytes(std::span(server.chat_template))));
  }
  return target;
}

}  // namespace cachecard::llama_server
