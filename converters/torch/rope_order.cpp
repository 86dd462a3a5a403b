#include "rope_order.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

namespace cachecard::pytorch {
namespace {

// source: llama.cpp convert_hf_to_gguf.py: classes whose q_proj and k_proj are permuted
constexpr std::array<std::string_view, 15> kPermuted{
    "arcee",     "arctic", "baichuan", "chameleon", "deci", "deepseek", "granite", "granitemoe",
    "internlm2", "llama",  "minicpm",  "mistral3",  "olmo", "smollm3",  "xverse"};
// source: transformers' modeling files: rotate_half over [..., 0::2], or complex numbers
constexpr std::array<std::string_view, 7> kInterleaved{"chatglm",      "cohere2", "command-r", "ernie4_5",
                                                       "ernie4_5-moe", "glm4",    "llama4"};

template <std::size_t kCount>
bool holds(const std::array<std::string_view, kCount>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

/// Channel c of order to is channel source_channel(c) of order from, inside the rotated part.
std::vector<std::uint32_t> source_channels(std::uint32_t width, RopePairing from, RopePairing to) {
  const auto place = [&](RopePairing order, std::uint32_t pair, std::uint32_t member) {
    return order == RopePairing::kInterleaved ? 2 * pair + member : member * (width / 2) + pair;
  };
  std::vector<std::uint32_t> channels(width);
  for (std::uint32_t pair = 0; pair < width / 2; ++pair) {
    for (const std::uint32_t member : {0u, 1u}) channels[place(to, pair, member)] = place(from, pair, member);
  }
  return channels;
}

}  // namespace

std::optional<RopePairing> transformers_pairing(std::string_view architecture, RopePairing gguf_pairing) {
  if (gguf_pairing != RopePairing::kInterleaved) return gguf_pairing;
  if (holds(kPermuted, architecture)) return RopePairing::kHalfSplit;
  if (holds(kInterleaved, architecture)) return RopePairing::kInterleaved;
  return std::nullopt;
}

Result<RotatedSpan> rotated_span(const CardReader& card, const StreamRecord& stream) {
  const CardHeader& header = card.header();
  for (std::uint32_t i = 0; i < stream.part_count; ++i) {
    const PartRecord& part = header.parts[stream.part_first + i];
    if (part.rotated == 1) return RotatedSpan{part.offset, part.width};
  }
  if (const auto frame = card.find(SectionType::kRopeTable)) {
    auto payload = card.read_section(*frame);
    if (!payload) return payload.error();
    auto table = parse_rope_table(*payload);
    if (!table) return table.error();
    const std::uint64_t end = std::uint64_t{table->record.rotated_offset} + table->record.rotated_width;
    if (end <= stream.head_dim) return RotatedSpan{table->record.rotated_offset, table->record.rotated_width};
  }
  const auto count = header.identity.u64(IdentityField::kRopeDimensionCount);
  if (count && *count <= stream.head_dim && *count % 2 == 0) {
    return RotatedSpan{0, static_cast<std::uint32_t>(*count)};
  }
  return Error{ErrorCode::kIdentityUnknown, kNoOffset, "identity.rope_dimension_count",
               "the card does not say how many channels rotate, so their order cannot be changed"};
}

void reorder_pairs(const StreamRecord& stream, RotatedSpan span, std::uint64_t token_count, RopePairing from,
                   RopePairing to, const DecodeTarget& target) {
  const auto channels = source_channels(span.width - span.width % 2, from, to);
  const std::size_t size = dtype_info(target.dtype)->block_bytes;
  std::vector<std::byte> before(channels.size() * size);
  for (std::uint64_t t = 0; t < token_count; ++t) {
    for (std::uint32_t head = 0; head < stream.kv_head_count; ++head) {
      std::byte* first = static_cast<std::byte*>(target.base) +
                         static_cast<std::int64_t>(t) * target.token_stride +
                         static_cast<std::int64_t>(head) * target.head_stride +
                         static_cast<std::int64_t>(span.offset) * target.channel_stride;
      const auto at = [&](std::size_t c) {
        return first + static_cast<std::int64_t>(c) * target.channel_stride;
      };
      for (std::size_t c = 0; c < channels.size(); ++c) std::memcpy(before.data() + c * size, at(c), size);
      for (std::size_t c = 0; c < channels.size(); ++c) {
        std::memcpy(at(c), before.data() + channels[c] * size, size);
      }
    }
  }
}

}  // namespace cachecard::pytorch
