#pragma once

#include "cachecard/io.hpp"
#include "linear_map.hpp"
#include "llama_cpp/gguf_model.hpp"

/// What a GGUF file has of a layer's attention.
namespace cachecard::llama_calibrate {

/// Rows [output channel][input channel + 1]: behind the last input stands what a constant adds. The norm's weights are in them.
struct Projections {
  Rows queries;
  Rows keys;
  Rows values;
};

/// heads: channels of queries, keys and values.
struct ProjectionShape {
  std::uint64_t queries = 0;
  std::uint64_t keys = 0;
  std::uint64_t values = 0;
};

/// Errors: unsupported_feature (a tensor is missing or of another shape, or keys and queries pass a norm), foreign_input, io
Result<Projections> read_projections(const ByteSource& source, const llama_cpp::GgufFile& file, std::uint32_t layer,
                                     const ProjectionShape& shape);

}  // namespace cachecard::llama_calibrate
