#pragma once

#include <functional>
#include <optional>

#include "cachecard/reader.hpp"

namespace cachecard::gguf {

struct GgufWriteOptions {
  /// f32, f16 or bf16: values are decoded into it, rotated ones turned back. nullopt: as the source stored
  /// them.
  std::optional<DType> dtype;
  ParallelFor parallel;
  /// Called after each batch with bytes so far and in all; false stops with `interrupted`.
  std::function<bool(std::uint64_t done, std::uint64_t total)> progress;
};

struct GgufWriteReport {
  std::uint64_t file_size = 0;
  bool same_card = false;  ///< the file says how the card was stored: it becomes the same card again
};

/// Writes a card's cache as a GGUF v3 file. One forward pass; memory: parallel.width chunks. The sink is not
/// committed. Errors: CardReader's, interrupted, those of the sink.   spec: GGUF-KV.md
Result<GgufWriteReport> write_gguf(const CardReader& card, ByteSink& sink,
                                   const GgufWriteOptions& options = {});

}  // namespace cachecard::gguf
