#include "format/entropy_layout.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <map>

#include "base/bytes.hpp"
#include "format/frame_walk.hpp"
#include "format/framing.hpp"
#include "format/planes_layout.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

Error map_error(const FrameHeader& frame, std::string detail) {
  return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::map_digest, std::move(detail));
}

Error head_error(ErrorCode code, const FrameHeader& frame, std::string field, std::string detail) {
  return {code, frame.offset + kFrameHeaderSize, std::move(field), std::move(detail)};
}


/// What an offset means, or nothing for one that entropy does not have.
std::optional<TokenKind> kind_of(std::int8_t offset) {
  if (offset == kOffsetExact) return TokenKind::kExact;
  if (offset == kOffsetFine) return TokenKind::kFine;
  if (offset < kLeastTokenOffset || offset > kMostTokenOffset) return std::nullopt;
  return TokenKind::kCoded;
}

/// Kinds and exponents of a head's offsets. False where an offset is none, or a kind is not that of head 0.
bool read_offsets(std::span<const std::int8_t> row, bool is_first, TokenKind* kinds, std::int8_t* exponents) {
  std::uint8_t wrong = 0;
  for (std::size_t t = 0; t < row.size(); ++t) {
    const bool coded = row[t] >= kLeastTokenOffset && row[t] <= kMostTokenOffset;
    const auto kind = row[t] == kOffsetExact  ? TokenKind::kExact
                      : row[t] == kOffsetFine ? TokenKind::kFine
                                              : TokenKind::kCoded;
    if (is_first) kinds[t] = kind;
    wrong |= static_cast<std::uint8_t>((kind == TokenKind::kCoded) != coded || kind != kinds[t]);
    exponents[t] = coded ? static_cast<std::int8_t>(-row[t]) : std::int8_t{0};
  }
  return wrong == 0;
}

}  // namespace

Result<EntropyTokens> entropy_tokens(const CardHeader& header, const BitWidthMap& map, const FrameHeader& frame) {
  const std::size_t index = *header.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  const std::size_t first_use = BitWidthMap::first_use(header, index);
  if (map.cap[index] != kNoCap) {
    return map_error(frame, "found a cap of " + std::to_string(map.cap[index]) + " half bits, entropy allows 255");
  }
  const std::uint64_t first = frame.first_token - header.segments[frame.segment].first_token;
  EntropyTokens tokens;
  tokens.exponents.resize(frame.token_count * header.streams[index].kv_head_count);
  tokens.kind.resize(frame.token_count);
  for (std::uint32_t head = 0; head < header.streams[index].kv_head_count; ++head) {
    const auto row = map.row(map.row_of[first_use + head]).subspan(first, frame.token_count);
    const auto where = [&](std::size_t t) {
      return "head " + std::to_string(head) + ", token " + std::to_string(frame.first_token + t);
    };
    if (read_offsets(row, head == 0, tokens.kind.data(), tokens.exponents.data() + head * row.size())) continue;
    for (std::size_t t = 0; t < row.size(); ++t) {
      const auto kind = kind_of(row[t]);
      if (!kind) {
        return map_error(frame, where(t) + ": found offset " + std::to_string(row[t]) +
                                    " half bits, allowed -7 to 8, 126 (fine) or 127 (exact)");
      }
      if (*kind != tokens.kind[t]) return map_error(frame, where(t) + ": exact or fine, and not so in head 0");
    }
  }
  tokens.place.reserve(frame.token_count);
  for (const TokenKind kind : tokens.kind) {
    tokens.place.push_back(kind == TokenKind::kCoded   ? tokens.coded_count++
                           : kind == TokenKind::kExact ? tokens.exact_count++
                                                       : tokens.fine_count++);
  }
  return tokens;
}

void count_entropy(const CardHeader& header, const BitWidthMap& map, const FrameHeader& frame, FrameWalk& walk) {
  const std::size_t index = *header.stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  const StreamRecord& stream = header.streams[index];
  const std::size_t first_use = BitWidthMap::first_use(header, index);
  const std::uint64_t first = frame.first_token - header.segments[frame.segment].first_token;
  std::map<std::uint8_t, std::uint64_t> counts;
  for (std::uint32_t head = 0; head < stream.kv_head_count; ++head) {
    for (const std::int8_t offset : map.row(map.row_of[first_use + head]).subspan(first, frame.token_count)) {
      const auto kind = kind_of(offset);
      const int predicted = std::clamp(int{map.base[index]} + offset, 0, 255);
      const int width = kind == TokenKind::kExact  ? dtype_info(static_cast<DType>(stream.dtype))->width_half_bits
                        : kind == TokenKind::kFine ? 16
                                                   : predicted;
      counts[static_cast<std::uint8_t>(width)] += stream.head_dim;
    }
  }
  for (const auto& [width, values] : counts) walk.count_width(frame, width, values);
}

Status check_entropy_record(const ParameterHeader& record) {
  const bool removed = record.rope_removed == 1;
  const auto misfit = [](auto member, std::string detail) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, member, std::move(detail));
  };
  if ((record.rope_table_digest != 0) != removed) {
    return misfit(&ParameterHeader::rope_table_digest,
                  removed ? "RoPE was removed, and no table puts it back" : "a table without rope_removed");
  }
  if ((record.positions_digest != 0) != removed) {
    return misfit(&ParameterHeader::positions_digest,
                  removed ? "RoPE was removed, and no positions put it back" : "positions without rope_removed");
  }
  if (record.hadamard_size != 1) {
    return misfit(&ParameterHeader::hadamard_size, found_allowed(record.hadamard_size, "1 for entropy"));
  }
  if (record.part_count > kMostPlanesParts) {
    return field_error(ErrorCode::kLimitExceeded, kNoOffset, &ParameterHeader::part_count,
                       found_allowed(record.part_count, "at most " + std::to_string(kMostPlanesParts)));
  }
  if (record.data_size != 0) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &ParameterHeader::data_size,
                       found_allowed(record.data_size, "0 for entropy"));
  }
  if (record.lanes_digest == 0) return misfit(&ParameterHeader::lanes_digest, "entropy needs lanes");
  return {};
}

Status check_entropy_parameters(const StreamRecord& stream, const Parameters& parameters, const LaneStream* lanes,
                                const RopeTableHeader* table) {
  const auto misfit = [](std::string detail) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "parameters", std::move(detail)};
  };
  if (parameters.record.codec != static_cast<std::uint8_t>(Codec::kEntropy)) return misfit("they are of another codec");
  if (parameters.parts.size() > stream.part_count) return misfit("more parts than the stream has");
  if (Status s = check_card_order(stream, parameters, table); !s) return s;
  if (lanes == nullptr) return misfit("the lanes that they name have none for this stream");
  if (lanes->record.lane_count != row_elements(stream)) {
    return misfit("found " + std::to_string(lanes->record.lane_count) + " lanes, allowed " +
                  std::to_string(row_elements(stream)));
  }
  return {};
}

std::uint32_t strips_of_head(std::span<const std::uint32_t> group_widths) {
  std::uint32_t count = 0;
  for (const std::uint32_t width : group_widths) count += (width + kStripWidth - 1) / kStripWidth;
  return count;
}

Status check_references(const FrameHeader& frame, std::span<const std::uint16_t> references) {
  for (std::size_t t = 0; t < references.size(); ++t) {
    if ((references[t] & kMostDistance) <= t) continue;
    return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::parameter_digest,
                       "token " + std::to_string(frame.first_token + t) + " refers back by " +
                           std::to_string(references[t] & kMostDistance) + ", out of its chunk");
  }
  return {};
}

std::size_t fine_row_size(const StreamRecord& stream, std::size_t group_count) {
  return 4 * stream.kv_head_count * group_count + row_elements(stream);
}

namespace {

/// Cuts a payload piece by piece; what is asked for in excess gives nothing and is noted.
class Cutter {
 public:
  explicit Cutter(std::span<const std::byte> bytes) : rest_(bytes) {}
  std::span<const std::byte> take(std::uint64_t size) {
    if (size > rest_.size()) {
      short_ = true;
      return {};
    }
    const auto piece = rest_.first(size);
    rest_ = rest_.subspan(size);
    at_ += size;
    return piece;
  }
  std::uint64_t at() const { return at_; }
  bool fits() const { return !short_; }
  bool empty() const { return rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
  std::uint64_t at_ = 0;
  bool short_ = false;
};

Status check_counts(const FrameHeader& frame, const EntropyRecord& record, const EntropyTokens& tokens,
                    std::uint32_t strip_count, bool has_scale) {
  if (record.record_size != encoded_size<EntropyRecord>()) {
    return head_error(ErrorCode::kBadSize, frame, "entropy.record_size", found_allowed(record.record_size, "32"));
  }
  if (Status s = check_reserved(record, frame.offset + kFrameHeaderSize); !s) return s;
  const auto follows = [&](const char* name, std::uint32_t found, std::uint32_t expected) -> Status {
    if (found == expected) return {};
    return head_error(ErrorCode::kCorrupt, frame, name, found_allowed(found, std::to_string(expected)));
  };
  if (Status s = follows("entropy.strip_count", record.strip_count, strip_count); !s) return s;
  if (Status s = follows("entropy.exact_count", record.exact_count, tokens.exact_count); !s) return s;
  if (Status s = follows("entropy.fine_count", record.fine_count, tokens.fine_count); !s) return s;
  return has_scale ? Status{} : follows("entropy.scale_size", record.scale_size, 0);
}

/// Steps of fine rows may not make infinities: those would depend on the machine once they cancel.
Status check_fine_rows(const FrameHeader& frame, std::span<const std::byte> rows, std::size_t row_size,
                       std::size_t unit_count) {
  for (std::size_t at = 0; at < rows.size(); at += row_size) {
    for (const float scale : load_numbers<float>(rows.subspan(at, 4 * unit_count))) {
      if (!std::isfinite(scale)) return head_error(ErrorCode::kNonFinite, frame, "entropy", "a scale of a fine token");
      if (scale < 0.0f || scale > kMostFineScale || std::signbit(scale)) {
        return head_error(ErrorCode::kCorrupt, frame, "entropy", "a scale of a fine token is not 0 to 2^64");
      }
    }
  }
  return {};
}

}  // namespace

Result<EntropyHead> parse_entropy_head(const StreamRecord& stream, const FrameHeader& frame, const EntropyTokens& tokens,
                                       std::span<const std::uint32_t> group_widths, bool has_scale,
                                       std::span<const std::byte> payload) {
  if (payload.size() < encoded_size<EntropyRecord>()) {
    return head_error(ErrorCode::kBadSize, frame, "entropy", "shorter than its record");
  }
  EntropyHead head;
  Cutter cutter(payload);
  head.record = load<EntropyRecord>(cutter.take(encoded_size<EntropyRecord>()));
  const std::uint32_t strip_count = stream.kv_head_count * strips_of_head(group_widths);
  if (Status s = check_counts(frame, head.record, tokens, strip_count, has_scale); !s) return s.error();
  const auto table = cutter.take(std::uint64_t{strip_count} * encoded_size<StripRecord>());
  head.exact_rows = cutter.take(tokens.exact_count * row_bytes(stream, static_cast<DType>(stream.dtype)));
  const std::size_t fine_size = fine_row_size(stream, group_widths.size());
  head.fine_rows = cutter.take(tokens.fine_count * fine_size);
  head.scales = cutter.take(head.record.scale_size);
  const Error misfit = field_error(ErrorCode::kBadSize, frame.offset, &FrameHeader::stored_size,
                                   "found " + std::to_string(frame.stored_size) + ", not what head and strips need");
  // Zeros to a multiple of 8, where what stands before them fits.
  const auto pad = [&]() -> Status {
    const std::uint64_t at = cutter.at();
    const auto zeros = cutter.take((8 - at % 8) % 8);
    if (!cutter.fits()) return misfit;
    return check_padding(zeros, frame.offset + kFrameHeaderSize + at);
  };
  if (Status s = pad(); !s) return s.error();
  const std::size_t unit_count = stream.kv_head_count * group_widths.size();
  if (Status s = check_fine_rows(frame, head.fine_rows, fine_size, unit_count); !s) return s.error();
  head.strips.reserve(strip_count);
  for (std::uint32_t h = 0; h < stream.kv_head_count; ++h) {
    for (const std::uint32_t width : group_widths) {
      for (std::uint32_t c = 0; c < width; c += kStripWidth) {
        StripBytes strip;
        strip.record = load<StripRecord>(table.subspan(head.strips.size() * encoded_size<StripRecord>()));
        strip.states = cutter.take(4 * std::min(width - c, kStripWidth));
        strip.escape_keys = cutter.take(4ull * strip.record.escape_count);
        strip.escapes = cutter.take(2ull * strip.record.escape_count);
        strip.words = cutter.take(2ull * strip.record.word_count);
        if (Status s = pad(); !s) return s.error();
        head.strips.push_back(strip);
      }
    }
  }
  if (!cutter.empty()) return misfit;
  return head;
}

}  // namespace cachecard
