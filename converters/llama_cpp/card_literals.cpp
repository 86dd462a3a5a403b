#include "card_literals.hpp"

#include <algorithm>
#include <cstring>

namespace cachecard::llama_cpp {
namespace {

constexpr std::uint64_t kPieceBytes = 4u << 20;

}  // namespace

CardLiterals::CardLiterals(const CardReader& card) : card_(card) {
  const auto frames = card.frames();
  for (std::size_t i = 0; i < frames.size(); ++i) {
    if (frames[i].section_type != static_cast<std::uint16_t>(SectionType::kSourceBytes)) continue;
    sections_.push_back({i, size_, frames[i].decoded_size});
    size_ += frames[i].decoded_size;
  }
}

Status CardLiterals::load(const Section& section) const {
  const std::size_t number = static_cast<std::size_t>(&section - sections_.data()) + 1;
  if (loaded_ == number) return {};
  loaded_ = 0;
  auto bytes = card_.read_section(section.frame);
  if (!bytes) return bytes.error();
  bytes_ = *std::move(bytes);
  loaded_ = number;
  return {};
}

Status CardLiterals::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  if (out.size() > size_ || offset > size_ - out.size()) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "source_layout.literal_size",
                 "the recipe asks for more literal bytes than the card has"};
  }
  const std::scoped_lock lock(mutex_);
  for (const Section& section : sections_) {
    if (out.empty()) break;
    if (offset >= section.offset + section.size) continue;
    auto status = load(section);
    if (!status) return status;
    const std::uint64_t skip = offset - section.offset;
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(section.size - skip, out.size()));
    std::memcpy(out.data(), bytes_.data() + skip, count);
    out = out.subspan(count);
    offset += count;
  }
  return {};
}

Status CardLiterals::copy(std::uint64_t offset, std::uint64_t size, RandomSink& sink,
                          std::uint64_t sink_offset) const {
  std::vector<std::byte> piece(std::min(size, kPieceBytes));
  for (std::uint64_t done = 0; done < size;) {
    const auto count = static_cast<std::size_t>(std::min<std::uint64_t>(size - done, piece.size()));
    auto status = read_at(offset + done, std::span(piece).first(count));
    if (!status) return status;
    status = sink.write_at(sink_offset + done, std::span(piece).first(count));
    if (!status) return status;
    done += count;
  }
  return {};
}

}  // namespace cachecard::llama_cpp
