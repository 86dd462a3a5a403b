#include "card_checks.hpp"

namespace cachecard::llama_cpp {
namespace {

bool is_read_by_writing(const FrameHeader& frame, std::uint64_t token_count) {
  const auto type = static_cast<SectionType>(frame.section_type);
  if (type == SectionType::kDirectory) return true;  // checked when the card was opened
  if (type != SectionType::kChunk) return false;
  return frame.token_count == 0 || frame.first_token < token_count;
}

}  // namespace

Status check_other_sections(const CardReader& card, std::uint64_t token_count) {
  std::vector<std::byte> stored;
  const std::span<const FrameHeader> frames = card.frames();
  for (std::size_t i = 0; i < frames.size(); ++i) {
    if (is_read_by_writing(frames[i], token_count)) continue;
    stored.resize(static_cast<std::size_t>(frames[i].stored_size));
    if (Status s = card.read_stored(i, stored); !s) return s;
  }
  return {};
}

}  // namespace cachecard::llama_cpp
