#include "step_writer.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "h5_layout.hpp"

namespace cachecard::hdf5 {
namespace {

bool is_planes(const FrameHeader& frame) { return frame.codec == static_cast<std::uint8_t>(Codec::kPlanes); }

/// Sixteenths of an octave. spec: CODECS.md#range
float range_of(int k) {
  const int octave = k >= 0 ? k / 16 : -((15 - k) / 16);
  return static_cast<float>(std::ldexp(std::exp2((k - 16 * octave) / 16.0), octave));
}

bool has_minimum(DType dtype) { return dtype == DType::kQ4_1 || dtype == DType::kQ5_1; }

}  // namespace

/// Scales of a token: kv_head_count x groups, the parameters' parts.
Result<std::uint64_t> StepWriter::head_vectors(const FrameHeader& frame) const {
  auto parameters = card_->parameters(frame.parameter_digest);
  if (!parameters) return parameters.error();
  return card_->header().streams[stream_].kv_head_count * std::max<std::uint64_t>(parameters->parts.size(), 1);
}

Result<StepWriter> StepWriter::create(const CardReader& card, std::size_t stream_index, const H5Node& group,
                                      Buffers& buffers) {
  StepWriter writer(card, stream_index);
  const StreamRecord& stream = card.header().streams[stream_index];
  const auto dtype = static_cast<DType>(stream.dtype);
  const DTypeInfo& info = *dtype_info(dtype);
  bool planes = false;
  for (const std::uint32_t index : card.chunks(stream_index)) {
    const FrameHeader& frame = card.frames()[index];
    if (!is_planes(frame)) continue;
    auto units = writer.head_vectors(frame);
    if (!units) return units.error();
    // Segments that group channels in different ways have no common table.
    if (planes && writer.units_ != *units) return StepWriter(card, stream_index);
    planes = true;
    writer.units_ = *units;
  }
  if (!planes && info.block_elements > 1) writer.units_ = row_elements(stream) / info.block_elements;
  if (writer.units_ == 0) return writer;
  const std::uint64_t dims[] = {stream.token_count, writer.units_};
  std::size_t used = 0;
  const auto add = [&](std::optional<ChunkedWriter>& out, const char* name, hid_t type) -> Status {
    auto created = ChunkedWriter::create(group, name, type, dims, 1, {}, buffers[used++]);
    if (!created) return created.error();
    out.emplace(std::move(*created));
    return {};
  };
  const Handle half = float_type(DType::kF16);
  if (Status s = add(writer.scale_, "scale", planes ? H5T_STD_U8LE : half.get()); !s) return s.error();
  if (planes) {
    if (Status s = add(writer.step_, "step", H5T_IEEE_F32LE); !s) return s.error();
  } else if (has_minimum(dtype)) {
    if (Status s = add(writer.minimum_, "minimum", half.get()); !s) return s.error();
  }
  return writer;
}

Status StepWriter::append(std::size_t frame) {
  if (units_ == 0) return {};
  return step_ ? append_planes(frame) : append_blocks(frame);
}

/// The chunk's tokens that are not exact, in the order in which the payload has them, and their present width last.
Result<std::vector<std::uint64_t>> StepWriter::coded_tokens(const FrameHeader& frame) {
  if (!maps_.contains(frame.segment)) {
    auto map = card_->map(frame.segment);
    if (!map) return map.error();
    maps_.clear();
    maps_[frame.segment] = std::move(*map);
  }
  const BitWidthMap& map = maps_[frame.segment];
  const std::uint64_t skip = frame.first_token - card_->header().segments[frame.segment].first_token;
  const auto offsets =
      map.row(map.row_of[BitWidthMap::first_use(card_->header(), stream_)]).subspan(skip, frame.token_count);
  std::vector<std::uint64_t> tokens;
  for (std::uint64_t t = 0; t < offsets.size(); ++t) {
    if (offsets[t] != kOffsetExact) tokens.push_back(t);
  }
  std::stable_sort(tokens.begin(), tokens.end(),
                   [&](std::uint64_t a, std::uint64_t b) { return offsets[a] > offsets[b]; });
  return tokens;
}

Status StepWriter::append_planes(std::size_t index) {
  const FrameHeader& frame = card_->frames()[index];
  std::vector<std::uint8_t> scales(frame.token_count * units_, 0);
  std::vector<float> steps(scales.size(), 0.0F);
  std::vector<std::int16_t> tops(units_, 0);
  if (is_planes(frame)) {
    auto tokens = coded_tokens(frame);
    if (!tokens) return tokens.error();
    std::vector<std::byte> payload(frame.stored_size);
    if (Status s = card_->read_stored(index, payload); !s) return s;
    const std::size_t head = encoded_size<PlanesRecord>();
    const std::uint64_t needed = head + 2 * units_ + tokens->size() * units_;
    if (payload.size() < needed || load<PlanesRecord>(payload).coded_count != tokens->size()) {
      return Error{ErrorCode::kCorrupt, frame.offset, "planes.coded_count", "does not follow from the map"};
    }
    std::memcpy(tops.data(), payload.data() + head, 2 * units_);
    const BitWidthMap& map = maps_[frame.segment];
    const std::uint64_t skip = frame.first_token - card_->header().segments[frame.segment].first_token;
    const auto offsets = map.row(map.row_of[BitWidthMap::first_use(card_->header(), stream_)]);
    const std::byte* scale = payload.data() + head + 2 * units_;
    for (const std::uint64_t token : *tokens) {
      const int width = std::min<int>(map.base[stream_] + offsets[skip + token], map.cap[stream_]) / 2;
      for (std::uint64_t u = 0; u < units_; ++u, ++scale) {
        const auto s = static_cast<std::uint8_t>(*scale);
        scales[token * units_ + u] = s;
        // Levels lie 2 range / 2^width apart.
        steps[token * units_ + u] = s == 0 ? 0.0F : std::ldexp(range_of(tops[u] + s - 255), 1 - width);
      }
    }
  }
  tops_.insert(tops_.end(), tops.begin(), tops.end());
  if (Status s = scale_->append(std::as_bytes(std::span(scales))); !s) return s;
  return step_->append(std::as_bytes(std::span(steps)));
}

Status StepWriter::append_blocks(std::size_t index) {
  const FrameHeader& frame = card_->frames()[index];
  const StreamRecord& stream = card_->header().streams[stream_];
  const DTypeInfo& info = *dtype_info(static_cast<DType>(stream.dtype));
  std::vector<std::byte> rows(frame.token_count * units_ * info.block_bytes);
  std::vector<std::byte> scratch(card_->scratch_bytes(stream_));
  if (Status s = card_->read_rows(stream_, frame.first_token, frame.token_count, rows, scratch); !s) return s;
  // Every type begins with d, those that have it go on with m. spec: CODECS.md#ggml
  for (auto* writer : {&scale_, &minimum_}) {
    if (!*writer) continue;
    const std::size_t first = writer == &scale_ ? 0 : 2;
    std::vector<std::byte> halves(frame.token_count * units_ * 2);
    for (std::uint64_t i = 0; i < frame.token_count * units_; ++i) {
      std::memcpy(halves.data() + 2 * i, rows.data() + i * info.block_bytes + first, 2);
    }
    if (Status s = (*writer)->append(halves); !s) return s;
  }
  return {};
}

Status StepWriter::finish(const H5Node& group) const {
  if (!step_) return {};
  const std::uint64_t dims[] = {tops_.size() / units_, units_};
  return write_array(group, "top", H5T_STD_I16LE, dims, std::as_bytes(std::span(tops_)));
}

}  // namespace cachecard::hdf5
