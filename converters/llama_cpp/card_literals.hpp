#pragma once

#include <mutex>
#include <vector>

#include "cachecard/reader.hpp"

namespace cachecard::llama_cpp {

/// The literal bytes of a card's source layout as one source: its source_bytes sections, joined.
/// Keeps the last section that was read. Owns: nothing; card must outlive it.
class CardLiterals final : public ByteSource {
 public:
  explicit CardLiterals(const CardReader& card);
  std::uint64_t size() const override { return size_; }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override;

  /// Copies bytes to a place of the sink. Errors: corrupt where there are fewer, the sink's
  Status copy(std::uint64_t offset, std::uint64_t size, RandomSink& sink, std::uint64_t sink_offset) const;

 private:
  struct Section {
    std::size_t frame = 0;
    std::uint64_t offset = 0;
    std::uint64_t size = 0;
  };
  Status load(const Section& section) const;

  const CardReader& card_;
  std::vector<Section> sections_;
  std::uint64_t size_ = 0;
  mutable std::mutex mutex_;
  mutable std::size_t loaded_ = 0;  ///< index + 1 of the section in bytes_
  mutable std::vector<std::byte> bytes_;
};

}  // namespace cachecard::llama_cpp
