#pragma once

#include <atomic>

#include "cachecard/writer.hpp"

namespace cachecard::cli {

/// Passes a source on and counts NaN and infinite values that are read: `raw` and `ggml` carry any
/// bits, but the user is told. A block whose scale is not finite counts with all its values.
/// Owns: nothing; source must outlive it.
class NonfiniteSource final : public CacheSource {
 public:
  explicit NonfiniteSource(const CacheSource& source) : source_(source) {}
  const CardHeader& header() const override { return source_.header(); }
  std::span<const std::int32_t> token_ids() const override { return source_.token_ids(); }
  std::span<const std::int32_t> positions() const override { return source_.positions(); }
  Status read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out) const override;
  Status read_opaque(std::size_t stream_index, std::uint64_t offset,
                     std::span<std::byte> out) const override {
    return source_.read_opaque(stream_index, offset, out);
  }
  const SourceLayout* source_layout() const override { return source_.source_layout(); }
  Status read_literals(std::uint64_t offset, std::span<std::byte> out) const override {
    return source_.read_literals(offset, out);
  }
  const RopeTable* rope_table() const override { return source_.rope_table(); }
  std::string_view text() const override { return source_.text(); }

  /// Values counted so far.
  std::uint64_t nonfinite_values() const { return count_; }

 private:
  const CacheSource& source_;
  mutable std::atomic<std::uint64_t> count_{0};
};

}  // namespace cachecard::cli
