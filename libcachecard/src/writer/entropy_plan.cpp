#include "writer/entropy_plan.hpp"

#include <algorithm>
#include <cmath>

#include "codec/references.hpp"
#include "codec/scale_code.hpp"
#include "format/entropy_layout.hpp"
#include "writer/card_order.hpp"
#include "writer/chunk_jobs.hpp"

namespace cachecard {
namespace {

constexpr double kLeastWanted = 0.05;
constexpr double kMostWanted = 4096.0;  ///< a file of a few tokens is mostly header

Error option_error(std::string detail) { return {ErrorCode::kInvalidArgument, kNoOffset, "entropy", std::move(detail)}; }

Status check_channel_gains(const CardHeader& header, std::span<const float> gains) {
  std::size_t channels = 0;
  for (const StreamRecord& stream : header.streams) channels += is_opaque(stream) ? 0 : row_elements(stream);
  if (!gains.empty() && gains.size() != channels) {
    return option_error("found " + std::to_string(gains.size()) + " channel gains, allowed " + std::to_string(channels) +
                        ", one for each channel of each stream");
  }
  for (const float gain : gains) {
    if (!(gain >= 0x1p-6f && gain <= 0x1p6f)) return option_error("a channel gain is not 1/64 to 64");
  }
  return {};
}

}  // namespace

Status EntropyPlan::check_options() const {
  const EntropyOptions& entropy = *options_.entropy;
  if (options_.planes) return option_error("planes and entropy exclude each other");
  if (!(entropy.bits >= kLeastWanted && entropy.bits <= kMostWanted)) {
    return option_error("found " + std::to_string(entropy.bits) + " bits, allowed 0.05 to 4096");
  }
  if (entropy.step != 0.0 && !(entropy.step >= 0x1p-7 && entropy.step <= 0x1p8)) {
    return option_error("found a step of " + std::to_string(entropy.step) + ", allowed 0 (by bits), or 2^-7 to 2^8");
  }
  const std::size_t uses = BitWidthMap::first_use(header_, header_.streams.size());
  if (!entropy.gains.empty() && entropy.gains.size() != uses) {
    return option_error("found " + std::to_string(entropy.gains.size()) + " gains, allowed " + std::to_string(uses) +
                        ", one for each stream and KV head");
  }
  for (const float gain : entropy.gains) {
    if (!(gain >= 0x1p-6f && gain <= 0x1p6f)) return option_error("a gain is not 1/64 to 64");
  }
  if (Status s = check_channel_gains(header_, entropy.channel_gains); !s) return s;
  if (!entropy.token_offsets.empty() && entropy.token_offsets.size() != uses * header_.token_count) {
    return option_error("found " + std::to_string(entropy.token_offsets.size()) + " token offsets, allowed " +
                        std::to_string(uses * header_.token_count) + ", for each stream, KV head and token");
  }
  for (const std::int8_t offset : entropy.token_offsets) {
    if (offset < kLeastTokenOffset || offset > kMostTokenOffset) {
      return option_error("found a token offset of " + std::to_string(offset) + " half bits, allowed -7 to 8");
    }
  }
  return {};
}

bool EntropyPlan::codes(std::size_t stream) const { return is_float_stream(header_.streams[stream]); }

FrameHeader EntropyPlan::chunk_frame(std::size_t stream, const TokenSpan& span) const {
  FrameHeader frame = make_frame(SectionType::kChunk, segment_);
  frame.layer = header_.streams[stream].layer;
  frame.stream = header_.streams[stream].stream;
  frame.first_token = span.first_token;
  frame.token_count = span.token_count;
  return frame;
}

/// Rows in the order of their use, equal ones once. Streams that are not coded use row 0, of zeros.
BitWidthMap EntropyPlan::first_map() const {
  const EntropyOptions& entropy = *options_.entropy;
  const SegmentRecord& record = header_.segments[segment_];
  BitWidthMap map = uniform_map(header_, record.token_count);
  if (record.token_count == 0) return map;
  std::map<std::vector<std::int8_t>, std::uint16_t> numbers{{map.rows, 0}};
  for (std::size_t s = 0; s < header_.streams.size(); ++s) {
    if (!codes(s)) continue;
    const std::size_t end = BitWidthMap::first_use(header_, s + 1);
    for (std::size_t use = BitWidthMap::first_use(header_, s); use < end; ++use) {
      std::vector<std::int8_t> row(record.token_count, 0);
      for (std::uint64_t t = 0; t < row.size(); ++t) {
        const std::uint64_t token = record.first_token + t;
        if (!entropy.token_offsets.empty()) row[t] = entropy.token_offsets[use * header_.token_count + token];
        if (!shifts_.empty()) row[t] = std::min<std::int8_t>(static_cast<std::int8_t>(row[t] + shifts_[use]), kMostTokenOffset);
        if (token < entropy.exact_tokens + entropy.fine_tokens) row[t] = kOffsetFine;
        const auto found = learned_.find(s);
        const bool missed = found != learned_.end() && !found->second.missed.empty() && found->second.missed[t] != 0;
        const bool sink = std::binary_search(entropy.sinks.begin(), entropy.sinks.end(), token);
        if (token < entropy.exact_tokens || sink || missed) row[t] = kOffsetExact;
      }
      const auto number = static_cast<std::uint16_t>(numbers.size());
      const auto [place, is_new] = numbers.emplace(row, number);
      if (is_new) map.rows.insert(map.rows.end(), row.begin(), row.end());
      map.row_of[use] = place->second;
    }
  }
  return map;
}

void EntropyPlan::add_references(std::size_t stream) {
  Learned& learned = learned_.at(stream);
  if (!options_.entropy->references || (header_.flags & kHeaderTokensUnknown) != 0 || header_.segments[segment_].token_count == 0) return;
  const auto same = [&](const std::vector<TokenSpan>& spans) {
    return std::equal(spans.begin(), spans.end(), learned.spans.begin(), learned.spans.end(),
                      [](const TokenSpan& a, const TokenSpan& b) {
                        return a.first_token == b.first_token && a.token_count == b.token_count;
                      });
  };
  const auto found = std::find_if(reference_spans_.begin(), reference_spans_.end(), same);
  learned.references = static_cast<std::size_t>(found - reference_spans_.begin());
  if (found != reference_spans_.end()) return;
  const SegmentRecord& record = header_.segments[segment_];
  References references(record.token_count, 0);
  for (const TokenSpan& span : learned.spans) {
    const auto ids = source_.token_ids();
    suffix_references(ids.first(span.first_token), ids.subspan(span.first_token, span.token_count),
                      std::span(references).subspan(span.first_token - record.first_token, span.token_count));
  }
  reference_spans_.push_back(learned.spans);
  references_.push_back(std::move(references));
}

std::span<const std::uint16_t> EntropyPlan::chunk_references(const Learned& learned, const TokenSpan& span) const {
  if (references_.empty()) return {};
  return std::span(references_[learned.references])
      .subspan(span.first_token - header_.segments[segment_].first_token, span.token_count);
}

std::shared_ptr<const Angles> EntropyPlan::angles(const PlanesStream& order, const TokenSpan& span) {
  if (!order.rope_removed()) return nullptr;
  return angles_.get({1, span.first_token, span.token_count}, *source_.rope_table(),
                     source_.positions().subspan(span.first_token, span.token_count));
}

Status EntropyPlan::each_stream(Status (EntropyPlan::*task)(std::size_t)) {
  struct Job {
    EntropyPlan& plan;
    Status (EntropyPlan::*task)(std::size_t);
    std::vector<std::size_t> streams;
    std::vector<Status> statuses;
  } job{*this, task, {}, {}};
  for (const auto& [stream, learned] : learned_) job.streams.push_back(stream);
  job.statuses.resize(job.streams.size());
  options_.parallel(
      job.streams.size(),
      [](void* context, std::size_t i) {
        auto& j = *static_cast<Job*>(context);
        j.statuses[i] = (j.plan.*j.task)(j.streams[i]);
      },
      &job);
  for (const Status& s : job.statuses) {
    if (!s) return s;
  }
  return {};
}

Status EntropyPlan::prepare(std::uint32_t segment, std::uint64_t rope_table_digest, std::uint64_t positions_digest) {
  segment_ = segment;
  learned_.clear();
  references_.clear();
  reference_spans_.clear();
  lanes_ = {};
  shifts_.clear();
  const SegmentRecord& record = header_.segments[segment];
  map_ = first_map();
  for (std::size_t s = 0; s < header_.streams.size(); ++s) {
    if (!codes(s)) continue;
    const StreamRecord& stream = header_.streams[s];
    Learned& learned = learned_[s];
    learned.parameters = card_order_parameters(source_, header_, stream, Codec::kEntropy, rope_table_digest, positions_digest);
    learned.missed.assign(record.token_count, 0);
  }
  for (const ChunkJob& job : plan_segment(header_, segment, options_)) {
    const auto learned = learned_.find(job.stream);
    if (learned != learned_.end()) learned->second.spans.push_back({job.first, job.count});
  }
  for (const auto& [s, learned] : learned_) add_references(s);
  shares_ = !shared_.empty();
  if (shares_) {
    adopt_shifts();
    if (Status s = each_stream(&EntropyPlan::adopt_lanes); !s) return s;
    shares_ = std::all_of(learned_.begin(), learned_.end(), [](const auto& entry) { return entry.second.fits; });
  }
  if (!shares_) {
    if (!shifts_.empty()) {
      shifts_.clear();
      map_ = first_map();
    }
    if (Status s = learn(); !s) return s;
  }
  settle_map();
  return {};
}

Status EntropyPlan::learn() {
  for (auto& [s, learned] : learned_) learned.energy = 0.0f;
  if (Status s = each_stream(&EntropyPlan::learn_spreads); !s) return s;
  if (Status s = set_shifts(); !s) return s;
  return find_step();
}

/// The lanes become final, tokens that no row can hold become exact, and each stream's base what was found for it.
void EntropyPlan::settle_map() {
  map_ = first_map();
  for (auto& [s, learned] : learned_) {
    if (shares_) {
      map_.base[s] = shared_.at(s).base;
      continue;
    }
    const double mean = learned.coded_values == 0 ? 0.0 : learned.symbol_bits / static_cast<double>(learned.coded_values);
    map_.base[s] = static_cast<std::uint8_t>(std::clamp(std::floor(2.0 * mean + 0.5), 0.0, 64.0));
    learned.stream.emplace(header_.streams[s], learned.parameters, learned.lanes, source_.rope_table());
    lanes_.streams.push_back(learned.lanes);
  }
}

Parameters EntropyPlan::parameters(std::size_t stream, std::uint64_t lanes_digest, std::uint64_t references_digest) const {
  Parameters parameters = learned_.at(stream).parameters;
  parameters.record.lanes_digest = shares_ ? shared_.at(stream).digest : lanes_digest;
  parameters.record.references_digest = references_digest;
  return parameters;
}

EntropyEncoded EntropyPlan::encode(std::size_t stream, const FrameHeader& frame, std::span<const std::byte> rows) {
  const Learned& learned = learned_.at(stream);
  const TokenSpan span{frame.first_token, frame.token_count};
  const auto tokens = entropy_tokens(header_, map_, frame);
  const auto turned = angles(learned.stream->order(), span);
  EntropyEncoded encoded = encode_entropy(*learned.stream, *tokens, rows, turned == nullptr ? nullptr : turned->data(),
                                          learned.energy, chunk_references(learned, span), *scratch_.take());
  // Of finite values only RoPE's own sums were too large.
  if (encoded.outcome == EntropyOutcome::kNonFinite && count_nonfinite(learned.stream->order().dtype(), rows) == 0) {
    encoded.outcome = EntropyOutcome::kOutOfReach;
  }
  return encoded;
}

}  // namespace cachecard
