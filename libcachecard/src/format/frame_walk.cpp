#include "format/frame_walk.hpp"

#include <array>

#include "base/checked.hpp"
#include "format/entropy_layout.hpp"
#include "format/framing.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

template <class Member>
Error frame_error(ErrorCode code, const FrameHeader& frame, Member FrameHeader::* member,
                  std::string detail) {
  return field_error(code, frame.offset, member, std::move(detail));
}

std::uint64_t stream_key(std::uint32_t layer, std::uint8_t stream) {
  return std::uint64_t{layer} << 8 | stream;
}

bool is_of(const FrameHeader& frame, Codec codec) { return frame.codec == static_cast<std::uint8_t>(codec); }
bool is_lossy(const FrameHeader& frame) { return is_of(frame, Codec::kPlanes) || is_of(frame, Codec::kEntropy); }

SectionType type_of(const FrameHeader& frame) { return static_cast<SectionType>(frame.section_type); }

}  // namespace

FrameWalk::FrameWalk(const Prologue& prologue, std::span<const std::byte> prologue_bytes,
                     std::span<const std::byte> header_bytes, const CardHeader& header,
                     const Limits& limits)
    : prologue_(prologue), header_(header), limits_(limits), stream_next_(header.streams.size()) {
  root_.update(prologue_bytes);
  root_.update(header_bytes);
  next_offset_ = kPrologueSize + align64(prologue.header_size);
  for (std::size_t i = 0; i < header.streams.size(); ++i) {
    stream_of_[stream_key(header.streams[i].layer, header.streams[i].stream)] = i;
    stream_next_[i] = header.streams[i].first_token;  // 0 for opaque ones
  }
}

Status FrameWalk::accept(const FrameHeader& frame, std::span<const std::byte> bytes) {
  if (frame_count_ >= limits_.frame_count) {
    return frame_error(ErrorCode::kLimitExceeded, frame, &FrameHeader::section_type,
                       "more than " + std::to_string(limits_.frame_count) + " frames");
  }
  if ((frame.flags & ~kFrameFlagsKnown) != 0) {
    return frame_error(ErrorCode::kReservedNotZero, frame, &FrameHeader::flags,
                       found_allowed(frame.flags, "bits 0 and 1"));
  }
  const SectionRule* rule = section_rule(frame.section_type);
  if (rule == nullptr && (frame.flags & kFrameRequired) != 0) {
    return frame_error(ErrorCode::kUnsupportedFeature, frame, &FrameHeader::section_type,
                       "required section " + std::to_string(frame.section_type) + " is not known");
  }
  if (Status s = check_sizes(frame); !s) return s;
  if (rule != nullptr) {
    if (Status s = check_known(frame, *rule); !s) return s;
  } else {
    if (summary_seen_) return check_order(frame, SectionRule{});
    ++skipped_;
  }
  account(frame);
  root_.update(bytes);
  headers_.update(bytes);
  ++frame_count_;
  next_offset_ = frame.offset + kFrameHeaderSize + align64(frame.stored_size);
  return {};
}

Status FrameWalk::check_sizes(const FrameHeader& frame) const {
  const bool directory = type_of(frame) == SectionType::kDirectory;
  const bool summary = type_of(frame) == SectionType::kSummary;
  const std::uint64_t limit = directory ? limits_.frame_count * kFrameHeaderSize
                              : summary ? limits_.summary_bytes
                                        : limits_.section_bytes;
  if (frame.stored_size > limit) {
    return frame_error(ErrorCode::kLimitExceeded, frame, &FrameHeader::stored_size,
                       found_allowed(frame.stored_size, std::to_string(limit)));
  }
  if (frame.decoded_size > limit) {
    return frame_error(ErrorCode::kLimitExceeded, frame, &FrameHeader::decoded_size,
                       found_allowed(frame.decoded_size, std::to_string(limit)));
  }
  const bool head_only = type_of(frame) == SectionType::kChunk && is_of(frame, Codec::kPlanes);
  if (head_only ? frame.digest_size > frame.stored_size : frame.digest_size != frame.stored_size) {
    return frame_error(ErrorCode::kBadSize, frame, &FrameHeader::digest_size,
                       found_allowed(frame.digest_size, (head_only ? "at most " : "") +
                                                            std::to_string(frame.stored_size)));
  }
  return {};
}

Status FrameWalk::check_known(const FrameHeader& frame, const SectionRule& rule) {
  if (frame.flags != rule.flags) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::flags,
                       found_allowed(frame.flags, std::to_string(rule.flags)));
  }
  if (frame.compressor > static_cast<std::uint8_t>(Compressor::kSplitZstd)) {
    return frame_error(ErrorCode::kUnsupportedCodec, frame, &FrameHeader::compressor,
                       found_allowed(frame.compressor, "0 to 2"));
  }
  const bool in_place = rule.type == SectionType::kSummary || rule.type == SectionType::kDirectory;
  if (in_place && frame.compressor != 0) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::compressor,
                       found_allowed(frame.compressor, "0 for the summary and the directory"));
  }
  if (frame.compressor == 0 && frame.stored_size != frame.decoded_size) {
    return frame_error(ErrorCode::kBadSize, frame, &FrameHeader::decoded_size,
                       found_allowed(frame.decoded_size, std::to_string(frame.stored_size)));
  }
  if (Status s = check_order(frame, rule); !s) return s;
  if (Status s = check_scope(frame, rule); !s) return s;
  if (Status s = check_span(frame, rule); !s) return s;
  if (Status s = check_features(frame, rule); !s) return s;
  if (rule.type == SectionType::kChunk) return check_chunk(frame);
  if (frame.codec != 0) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::codec, "only chunks have a codec");
  }
  if (static_cast<DType>(frame.dtype) != DType::kBytes) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::dtype, "only chunks have a type");
  }
  if (frame.parameter_digest != 0 || frame.map_digest != 0) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::parameter_digest,
                       "only chunks name other sections");
  }
  return {};
}

Status FrameWalk::check_order(const FrameHeader& frame, const SectionRule& rule) const {
  if (directory_seen_) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::section_type,
                       "a section after the directory");
  }
  if (summary_seen_ && rule.type != SectionType::kDirectory) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::section_type,
                       "only the directory may follow the summary");
  }
  if (!summary_seen_ && rule.type == SectionType::kDirectory) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::section_type,
                       "a directory without a summary before it");
  }
  if (rule.once && seen_.contains({frame.section_type, frame.segment})) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::section_type,
                       "a second " + std::string(name_of(rule.type)) + " section");
  }
  if (rule.type == SectionType::kSourceBytes &&
      !seen_.contains({static_cast<std::uint16_t>(SectionType::kSourceLayout), kNoSegment})) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::section_type,
                       "source_bytes before source_layout");
  }
  if (rule.type == SectionType::kTokenIds && (header_.flags & kHeaderTokensUnknown) != 0) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::section_type,
                       "token ids in a card whose header says they are unknown");
  }
  const bool named = rule.type == SectionType::kParameters || rule.type == SectionType::kRopeTable ||
                     rule.type == SectionType::kReferences || rule.type == SectionType::kLanes;
  if (named && placed_.contains({frame.section_type, frame.stored_digest})) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::stored_digest,
                       "the same section stands before");
  }
  return {};
}

Status FrameWalk::check_scope(const FrameHeader& frame, const SectionRule& rule) const {
  const bool in_segment = rule.scope != Scope::kCard;
  if (in_segment ? frame.segment >= header_.segments.size() : frame.segment != kNoSegment) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::segment,
                       found_allowed(frame.segment, in_segment ? "a segment of the header" : "none"));
  }
  const bool has_layer = frame.layer != kNoLayer;
  const bool layer_allowed =
      rule.scope == Scope::kStream || (rule.type == SectionType::kRopeTable && has_layer);
  if (has_layer != layer_allowed || (has_layer && frame.layer >= header_.layer_count)) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::layer,
                       found_allowed(frame.layer, layer_allowed ? "a layer of the header" : "none"));
  }
  if (rule.scope != Scope::kStream && frame.stream != kNoStream) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::stream,
                       found_allowed(frame.stream, "none"));
  }
  return {};
}

Status FrameWalk::check_span(const FrameHeader& frame, const SectionRule& rule) const {
  if (rule.scope == Scope::kStream) return {};
  const bool span = rule.scope == Scope::kSegment && rule.spans_segment;
  const std::uint64_t first = span ? header_.segments[frame.segment].first_token : 0;
  const std::uint64_t count = span ? header_.segments[frame.segment].token_count : 0;
  if (frame.first_token != first || frame.token_count != count) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::first_token,
                       "found tokens " + std::to_string(frame.first_token) + " + " +
                           std::to_string(frame.token_count) + ", allowed " + std::to_string(first) +
                           " + " + std::to_string(count));
  }
  if (rule.type == SectionType::kTokenIds && frame.decoded_size != 4 * count) {
    return frame_error(ErrorCode::kBadSize, frame, &FrameHeader::decoded_size,
                       found_allowed(frame.decoded_size, "4 bytes a token"));
  }
  return {};
}

Status FrameWalk::check_features(const FrameHeader& frame, const SectionRule& rule) const {
  static constexpr std::array<std::uint64_t, 4> kOfCodec{0, kFeatureGgml, kFeaturePlanes, kFeatureEntropy};
  std::uint64_t required = rule.required_feature;
  if (frame.compressor != 0) required |= kFeatureZstd;
  if (rule.type == SectionType::kChunk && frame.codec < kOfCodec.size()) required |= kOfCodec[frame.codec];
  if ((prologue_.required_features & required) == required &&
      (prologue_.optional_features & rule.optional_feature) == rule.optional_feature) {
    return {};
  }
  return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::section_type,
                     "what the prologue's feature bits say does not occur");
}

Status FrameWalk::check_chunk(const FrameHeader& frame) {
  const auto found = stream_of_.find(stream_key(frame.layer, frame.stream));
  if (found == stream_of_.end()) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::stream,
                       "the header has no such stream");
  }
  const StreamRecord& stream = header_.streams[found->second];
  std::uint64_t& next = stream_next_[found->second];
  if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) {
    return check_opaque(frame, stream, next);
  }
  if (Status s = check_chunk_codec(frame, stream); !s) return s;
  if (Status s = check_chunk_references(frame, stream); !s) return s;
  return check_chunk_rows(frame, stream, next);
}

Status FrameWalk::check_opaque(const FrameHeader& frame, const StreamRecord& stream, std::uint64_t& done) {
  if (frame.codec != static_cast<std::uint8_t>(Codec::kRaw) ||
      static_cast<DType>(frame.dtype) != DType::kBytes || frame.parameter_digest != 0 ||
      frame.map_digest != 0 || frame.first_token != 0 || frame.token_count != 0) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::codec,
                       "an opaque stream is raw bytes without tokens");
  }
  if (frame.decoded_size == 0 || frame.decoded_size > stream.opaque_size - done) {
    return frame_error(ErrorCode::kBadSize, frame, &FrameHeader::decoded_size,
                       found_allowed(frame.decoded_size, "what is left of opaque_size"));
  }
  done += frame.decoded_size;
  opaque_size_ += frame.decoded_size;
  return {};
}

Status FrameWalk::check_chunk_codec(const FrameHeader& frame, const StreamRecord& stream) const {
  const auto codec = static_cast<Codec>(frame.codec);
  if (frame.codec > static_cast<std::uint8_t>(Codec::kEntropy)) {
    return frame_error(ErrorCode::kUnsupportedCodec, frame, &FrameHeader::codec,
                       found_allowed(frame.codec, "0 (raw), 1 (ggml), 2 (planes) or 3 (entropy)"));
  }
  if (frame.dtype != stream.dtype) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::dtype,
                       found_allowed(frame.dtype, std::to_string(stream.dtype)));
  }
  const DTypeInfo& info = *dtype_info(static_cast<DType>(frame.dtype));
  if (codec != Codec::kGgml && info.block_elements != 1) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::codec,
                       std::string(name_of(codec)) + " holds f32, f16 and bf16, not " + std::string(info.name));
  }
  if (is_lossy(frame) && frame.compressor != 0) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::compressor,
                       found_allowed(frame.compressor, "0 for " + std::string(name_of(codec))));
  }
  if (frame.compressor == static_cast<std::uint8_t>(Compressor::kSplitZstd) &&
      info.block_elements != 1) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::compressor,
                       "byte split is for types without blocks");
  }
  return {};
}

Status FrameWalk::check_chunk_references(const FrameHeader& frame, const StreamRecord& stream) const {
  const auto map = map_of_segment_.find(frame.segment);
  if (map == map_of_segment_.end() || map->second != frame.map_digest) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::map_digest,
                       "no such bit_width_map of this segment stands before");
  }
  const bool named = frame.parameter_digest != 0;
  const bool found = placed_.contains({static_cast<std::uint16_t>(SectionType::kParameters), frame.parameter_digest});
  const bool needed = stream.hadamard_size > 1 || is_lossy(frame);
  if (named != needed || named != found) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::parameter_digest,
                       needed ? "no such parameters section stands before"
                              : "found a digest, allowed 0 without rotation");
  }
  return {};
}

Status FrameWalk::check_chunk_rows(const FrameHeader& frame, const StreamRecord& stream, std::uint64_t& next) {
  const SegmentRecord& segment = header_.segments[frame.segment];
  if (frame.token_count == 0 ||
      !span_within(frame.first_token, frame.token_count, segment.first_token + segment.token_count) ||
      frame.first_token < segment.first_token) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::token_count,
                       "the chunk's tokens leave its segment");
  }
  const std::uint64_t end = stream.first_token + stream.token_count;
  if (frame.first_token != next || frame.token_count > end - next) {
    return frame_error(ErrorCode::kCorrupt, frame, &FrameHeader::first_token,
                       found_allowed(frame.first_token, std::to_string(next) + ", up to " +
                                                            std::to_string(end)));
  }
  const std::uint64_t size = frame.token_count * row_bytes(stream, static_cast<DType>(frame.dtype));
  if (!is_lossy(frame) && frame.decoded_size != size) {
    return frame_error(ErrorCode::kBadSize, frame, &FrameHeader::decoded_size,
                       found_allowed(frame.decoded_size, std::to_string(size)));
  }
  if (is_of(frame, Codec::kEntropy) && frame.token_count > limits_.section_bytes / strip_row_bytes(stream)) {
    return frame_error(ErrorCode::kLimitExceeded, frame, &FrameHeader::token_count,
                       found_allowed(frame.token_count, std::to_string(limits_.section_bytes) + " bytes of strips in f32"));
  }
  next += frame.token_count;
  const std::uint64_t values = frame.token_count * row_elements(stream);
  value_count_ += values;
  if (!is_lossy(frame)) count_width(frame, dtype_info(static_cast<DType>(frame.dtype))->width_half_bits, values);
  return {};
}

void FrameWalk::count_width(const FrameHeader& frame, std::uint8_t width, std::uint64_t values) {
  widths_[{frame.stream, width}] += values;
}

void FrameWalk::account(const FrameHeader& frame) {
  const auto type = type_of(frame);
  if (type == SectionType::kSummary) {
    summary_seen_ = true;
    summary_offset_ = frame.offset;
  } else if (type == SectionType::kDirectory) {
    directory_seen_ = true;
    directory_offset_ = frame.offset;
  } else {
    SummaryStage& stage = stages_[{frame.section_type, frame.codec, frame.compressor}];
    ++stage.frame_count;
    stage.stored_size += frame.stored_size;
    stage.decoded_size += frame.decoded_size;
    stage.framing_size += kFrameHeaderSize + align64(frame.stored_size) - frame.stored_size;
  }
  if (type == SectionType::kBitWidthMap) map_of_segment_[frame.segment] = frame.stored_digest;
  placed_.insert({frame.section_type, frame.stored_digest});
  seen_.insert({frame.section_type, frame.segment});
}

Status FrameWalk::finish() const {
  const auto corrupt = [&](std::string detail) {
    return Error{ErrorCode::kCorrupt, directory_offset_, "directory", std::move(detail)};
  };
  for (std::size_t i = 0; i < header_.streams.size(); ++i) {
    const StreamRecord& stream = header_.streams[i];
    const bool opaque = stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
    const std::uint64_t end = opaque ? stream.opaque_size : stream.first_token + stream.token_count;
    if (stream_next_[i] != end) {
      return corrupt("the " + std::string(name_of(static_cast<StreamKind>(stream.stream))) +
                     " stream of layer " + std::to_string(stream.layer) + " ends at " +
                     std::to_string(stream_next_[i]) + " of " + std::to_string(end));
    }
  }
  for (std::uint32_t segment = 0; segment < header_.segments.size(); ++segment) {
    const auto lacks = [&](SectionType type) {
      return !seen_.contains({static_cast<std::uint16_t>(type), segment});
    };
    const bool tokens_known = (header_.flags & kHeaderTokensUnknown) == 0;
    if (lacks(SectionType::kPositions) || lacks(SectionType::kBitWidthMap) ||
        (tokens_known && lacks(SectionType::kTokenIds))) {
      return corrupt("segment " + std::to_string(segment) +
                     " lacks its token_ids, positions or bit_width_map");
    }
  }
  return {};
}

Summary FrameWalk::summary() const {
  Summary summary;
  summary.value_count = value_count_;
  summary.opaque_size = opaque_size_;
  for (const auto& [key, totals] : stages_) {
    SummaryStage stage = totals;
    stage.section_type = key.section_type;
    stage.codec = key.codec;
    stage.compressor = key.compressor;
    summary.stages.push_back(stage);
  }
  for (const auto& [key, count] : widths_) {
    SummaryWidth width;
    width.stream = key.first;
    width.width = key.second;
    width.value_count = count;
    summary.widths.push_back(width);
  }
  return summary;
}

Digest128 FrameWalk::root(std::span<const std::byte> trailer_before_root) const {
  return root_.finish128_with(trailer_before_root);
}

}  // namespace cachecard
