// Any bytes as a llama.cpp state, with a model's facts and without.

#include <cstdlib>

#include "llama_cpp/state_file.hpp"

using namespace cachecard;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const MemorySource source(std::as_bytes(std::span(data, size)));
  for (const auto layout : {llama_cpp::StateLayout::k10_3, llama_cpp::StateLayout::k11_4}) {
    llama_cpp::ParseOptions options;
    options.layout = layout;
    options.rotated = true;
    const auto state = llama_cpp::parse_state(source, nullptr, options);
    if (!state && state.error().code == ErrorCode::kInternal) std::abort();
  }
  return 0;
}
