#include "llama_server/cover_cause.hpp"

#include <algorithm>
#include <array>
#include <span>

namespace cachecard::llama_server {
namespace {

struct TagPair {
  std::string_view open;
  std::string_view close;
};
constexpr std::array kThinkingTags{TagPair{"<think>", "</think>"}, TagPair{"<thinking>", "</thinking>"},
                                   TagPair{"[THINK]", "[/THINK]"}, TagPair{"<reasoning>", "</reasoning>"},
                                   TagPair{"<|channel|>analysis<|message|>", "<|end|>"}};

/// What chat templates write around messages, in the models that are known.
constexpr std::array<std::string_view, 8> kFrameMarks{"<|",     "|>",      "<start_of_turn>", "<end_of_turn>",
                                                      "[INST]", "[/INST]", "<\xEF\xBD\x9C",   "<<SYS>>"};

constexpr std::size_t kNearBytes = 24;     ///< how far from the difference a frame mark counts
constexpr std::size_t kAlignedTokens = 4;  ///< equal tokens that show a shift by one

std::size_t common_bytes(std::string_view a, std::string_view b) {
  const auto end = std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first;
  return static_cast<std::size_t>(end - a.begin());
}

/// Whether `longer` without its first token goes like `shorter`.
bool has_one_more_in_front(std::span<const std::int32_t> longer, std::span<const std::int32_t> shorter) {
  if (longer.size() < 2 || shorter.empty()) return false;
  longer = longer.subspan(1);
  const std::size_t wanted = std::min({kAlignedTokens, longer.size(), shorter.size()});
  return std::equal(longer.begin(), longer.begin() + static_cast<std::ptrdiff_t>(wanted), shorter.begin());
}

/// The BOS makes a difference at the first token, or (doubled) at the second.
bool bos_differs(const CoverSides& sides, std::size_t covered) {
  return covered <= 1 &&
         (has_one_more_in_front(sides.card, sides.prompt) || has_one_more_in_front(sides.prompt, sides.card));
}

/// Whether dropping thinking blocks makes the texts agree for longer.
bool thinking_differs(const CoverSides& sides, std::size_t agreed) {
  const std::string card = without_thinking(sides.card_text);
  const std::string prompt = without_thinking(sides.prompt_text);
  if (card.size() == sides.card_text.size() && prompt.size() == sides.prompt_text.size()) {
    return false;
  }
  const std::size_t before = std::max(without_thinking(sides.card_text.substr(0, agreed)).size(),
                                      without_thinking(sides.prompt_text.substr(0, agreed)).size());
  const std::size_t now = common_bytes(card, prompt);
  return now > before || (now == before && now == std::min(card.size(), prompt.size()));
}

bool near_frame_mark(std::string_view text, std::size_t position) {
  const std::size_t first = position > kNearBytes ? position - kNearBytes : 0;
  const std::string_view window = text.substr(first, position - first + kNearBytes);
  return std::any_of(kFrameMarks.begin(), kFrameMarks.end(),
                     [&](std::string_view mark) { return window.find(mark) != std::string_view::npos; });
}

struct CauseRow {
  CoverCause cause;
  std::string_view name;
  std::string_view advice;
};
constexpr std::array kCauses{
    CauseRow{CoverCause::kNone, "none", "the card is covered to its end"},
    CauseRow{CoverCause::kPromptEnds, "prompt_ends",
             "the prompt ends inside the card: what the card holds beyond it goes unused"},
    CauseRow{CoverCause::kBos, "bos",
             "one side begins with one token more: send token ids, or text without (or with) the "
             "BOS that the server adds"},
    CauseRow{CoverCause::kTokenBoundary, "token_boundary",
             "the same text is cut into other tokens: send the card's token ids in front instead "
             "of their text"},
    CauseRow{CoverCause::kStrippedThinking, "stripped_thinking",
             "one side lacks a thinking block: keep reasoning in the messages, or capture the slot "
             "after a request without it"},
    CauseRow{CoverCause::kTemplate, "template",
             "the message frames differ (system prompt, role, or chat template): render both with "
             "the same template and messages"},
    CauseRow{CoverCause::kText, "text", "the texts differ from here on"}};

}  // namespace

std::string_view name_of(CoverCause cause) noexcept {
  for (const CauseRow& row : kCauses) {
    if (row.cause == cause) return row.name;
  }
  return "unknown";
}

std::string_view advice(CoverCause cause) noexcept {
  for (const CauseRow& row : kCauses) {
    if (row.cause == cause) return row.advice;
  }
  return "";
}

std::string without_thinking(std::string_view text) {
  std::string kept;
  while (!text.empty()) {
    std::size_t open = std::string_view::npos;
    const TagPair* pair = nullptr;
    for (const TagPair& candidate : kThinkingTags) {
      const std::size_t at = text.find(candidate.open);
      if (at < open) {
        open = at;
        pair = &candidate;
      }
    }
    kept += text.substr(0, open);
    if (pair == nullptr) break;
    const std::size_t close = text.find(pair->close, open + pair->open.size());
    if (close == std::string_view::npos) break;
    text = text.substr(close + pair->close.size());
    text = text.substr(std::min(text.find_first_not_of(" \t\r\n"), text.size()));
  }
  return kept;
}

CoverCause likely_cause(const CoverSides& sides) {
  const auto ends =
      std::mismatch(sides.card.begin(), sides.card.end(), sides.prompt.begin(), sides.prompt.end());
  if (ends.first == sides.card.end()) return CoverCause::kNone;
  if (ends.second == sides.prompt.end()) return CoverCause::kPromptEnds;
  const auto covered = static_cast<std::size_t>(ends.first - sides.card.begin());
  if (bos_differs(sides, covered)) return CoverCause::kBos;
  const std::size_t agreed = common_bytes(sides.card_text, sides.prompt_text);
  // Both differing tokens begin at covered_bytes; text that agrees beyond them was cut otherwise.
  if (agreed > sides.covered_bytes) {
    const bool to_an_end = agreed == sides.card_text.size() || agreed == sides.prompt_text.size();
    if (to_an_end || agreed > sides.covered_bytes + kNearBytes) return CoverCause::kTokenBoundary;
  }
  if (thinking_differs(sides, agreed)) return CoverCause::kStrippedThinking;
  if (sides.same_template == false || near_frame_mark(sides.card_text, agreed) ||
      near_frame_mark(sides.prompt_text, agreed)) {
    return CoverCause::kTemplate;
  }
  return CoverCause::kText;
}

}  // namespace cachecard::llama_server
