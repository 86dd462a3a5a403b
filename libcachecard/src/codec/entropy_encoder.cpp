#include "codec/entropy_encoder.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "base/bytes.hpp"
#include "codec/scale_code.hpp"
#include "kernel/floats.hpp"
#include "kernel/ggml_blocks.hpp"

namespace cachecard {
namespace {

constexpr float kMostFine = 127.0f;
constexpr std::uint64_t kStateBytes = 3;  ///< a final state takes 4, of which a byte, about, is symbols'

/// Fine rows: RoPE off, means left in, each head vector in i8 with a scale of its own.
void add_fine_row(const PlanesStream& order, std::span<const std::uint32_t> group_widths, const float* mean,
                  const float* values, ByteWriter& out) {
  const std::size_t elements = order.element_count();
  std::vector<float> whole(values, values + elements);
  if (mean != nullptr) {
    for (std::size_t c = 0; c < elements; ++c) whole[c] += mean[c];
  }
  std::vector<float> scales;
  std::vector<std::int8_t> codes(elements);
  for (std::size_t at = 0; at < elements;) {
    const std::size_t width = group_widths[scales.size() % group_widths.size()];
    float largest = 0.0f;
    for (std::size_t c = at; c < at + width; ++c) largest = std::max(largest, std::abs(whole[c]));
    const float scale = largest / kMostFine;
    for (std::size_t c = at; c < at + width && scale > 0.0f; ++c) {
      codes[c] = static_cast<std::int8_t>(std::clamp(std::nearbyint(whole[c] / scale), -kMostFine, kMostFine));
    }
    scales.push_back(scale);
    at += width;
  }
  out.numbers(std::span<const float>(scales));
  out.numbers(std::span<const std::int8_t>(codes));
}

void pad8(ByteWriter& out) { out.pad_to((out.size() + 7) / 8 * 8); }

/// Spec: CODECS.md#entropy-layout
std::vector<std::byte> entropy_payload(std::uint32_t exact_count, std::span<const std::byte> exact_rows,
                                       std::uint32_t fine_count, std::span<const std::byte> fine_rows,
                                       std::span<const std::byte> scales, std::span<const StripPayload> strips) {
  EntropyRecord record;
  record.strip_count = static_cast<std::uint32_t>(strips.size());
  record.exact_count = exact_count;
  record.fine_count = fine_count;
  record.scale_size = static_cast<std::uint32_t>(scales.size());
  ByteWriter bytes;
  bytes.record(record);
  for (const StripPayload& s : strips) bytes.record(StripRecord{s.word_count, s.escape_count});
  bytes.raw(exact_rows);
  bytes.raw(fine_rows);
  bytes.raw(scales);
  pad8(bytes);
  for (const StripPayload& s : strips) {
    bytes.raw(s.bytes);
    pad8(bytes);
  }
  return bytes.take();
}

}  // namespace

void load_values(const PlanesStream& order, std::span<const std::uint32_t> group_widths, const EntropyTokens& tokens,
                 std::size_t first, std::size_t count, std::span<const std::byte> rows, const float* angles,
                 ValueFacts facts, ChunkValues& out) {
  const kernel::PlanesShape shape = order.shape();
  const auto& to_card_order = kernel::planes_kernels().to_card_order;
  const auto& row_energy = kernel::entropy_kernels().row_energy;
  out.token_count = count;
  out.element_count = shape.elements();
  out.values.resize(out.element_count * count + kStripWidth);
  std::fill_n(out.values.end() - kStripWidth, kStripWidth, 0.0f);
  const bool with_energy = facts == ValueFacts::kFiniteAndEnergy;
  out.energy.resize(with_energy ? order.unit_count() * count : 0);
  out.nonfinite.reset();
  for (std::size_t i = 0; i < count; ++i) {
    const std::size_t t = first + i;
    const auto values = std::span(out.values).subspan(i * out.element_count, out.element_count);
    if (tokens.kind[t] == TokenKind::kExact) {
      std::fill(values.begin(), values.end(), 0.0f);
      continue;
    }
    const kernel::PlanesInput input{rows.data() + t * order.row_size(), order.dtype(), order.mean(),
                                    angles == nullptr ? nullptr : angles + t * 2 * order.pair_count(),
                                    order.unrotate_gain()};
    to_card_order(shape, input, values.data());
    if (facts == ValueFacts::kNone) continue;
    float* energy = with_energy ? out.energy.data() + i : nullptr;
    if (!row_energy(values, group_widths, energy, count) && !out.nonfinite) out.nonfinite = t;
  }
}

std::int8_t vector_scale(float energy, float stream_energy) {
  const float ratio = energy / stream_energy;
  if (!(ratio >= 0x1p-20f)) return kLeastScale;
  if (ratio > 0x1p20f) return kMostScale;
  const auto bits = std::bit_cast<std::uint32_t>(ratio);
  // The mantissa of sqrt(2): above it the next octave is nearer.
  const auto up = static_cast<std::int32_t>((bits & 0x7FFFFFu) > 0x3504F3u);
  const std::int32_t octave = static_cast<std::int32_t>(bits >> 23) - 127 + up;
  return static_cast<std::int8_t>(std::clamp(octave, kLeastScale, kMostScale));
}

std::vector<kernel::StripToken> unit_tokens(const EntropyTokens& tokens, std::span<const std::int8_t> exponents,
                                            std::span<const float> energy, float stream_energy,
                                            std::span<const std::uint16_t> references) {
  std::vector<kernel::StripToken> steps(tokens.count());
  for (std::size_t t = 0; t < tokens.count(); ++t) {
    const std::int32_t scale = stream_energy > 0.0f ? vector_scale(energy[t], stream_energy) : 0;
    steps[t] = strip_token(tokens.kind[t], exponents[t], scale, references.empty() ? std::uint16_t{0} : references[t]);
  }
  return steps;
}

std::uint64_t fixed_bits(const StreamRecord& stream, std::span<const std::uint32_t> group_widths,
                         const EntropyTokens& tokens) {
  const std::uint64_t strips = stream.kv_head_count * strips_of_head(group_widths);
  const std::uint64_t bytes = encoded_size<EntropyRecord>() + strips * (encoded_size<StripRecord>() + 3) +
                              tokens.exact_count * row_bytes(stream, static_cast<DType>(stream.dtype)) +
                              tokens.fine_count * fine_row_size(stream, group_widths.size()) + kStateBytes * row_elements(stream);
  return 8 * bytes;
}

EntropyEncoded encode_entropy(const EntropyStream& stream, const EntropyTokens& tokens, std::span<const std::byte> rows,
                              const float* angles, float stream_energy, std::span<const std::uint16_t> references,
                              EntropyScratch& scratch) {
  const PlanesStream& order = stream.order();
  EntropyEncoded out;
  ChunkValues& chunk = scratch.chunk;
  load_values(order, stream.group_widths(), tokens, 0, tokens.count(), rows, angles,
              stream.has_scale() ? ValueFacts::kFiniteAndEnergy : ValueFacts::kFinite, chunk);
  if (chunk.nonfinite) {
    out.outcome = EntropyOutcome::kNonFinite;
    out.token = *chunk.nonfinite;
    return out;
  }
  const std::size_t units = order.unit_count();
  std::vector<std::vector<kernel::StripToken>> steps;
  std::vector<std::vector<std::int8_t>> scales(units);
  for (std::size_t u = 0; u < units; ++u) {
    const auto energy = chunk.unit_energy(u);
    steps.push_back(unit_tokens(tokens, tokens.of_head(u / stream.group_widths().size()), energy,
                                stream.has_scale() ? stream_energy : 0.0f, references));
    for (std::size_t t = 0; t < tokens.count() && stream.has_scale(); ++t) {
      if (tokens.kind[t] == TokenKind::kCoded) scales[u].push_back(vector_scale(energy[t], stream_energy));
    }
  }
  std::vector<StripPayload> strips;
  std::uint64_t escapes = 0;
  for (const EntropyStream::StripPlace& place : stream.strips()) {
    const auto lanes = stream.lanes().subspan(place.first, place.channels);
    const auto scales_of = stream.scales().subspan(place.first, place.channels);
    if (quantise(lanes, scales_of, steps[place.unit], chunk.strip(place.first), kRowReach, scratch.strip, {}) > 0) {
      out.outcome = EntropyOutcome::kOutOfReach;
      return out;
    }
    strips.push_back(encode_strip(lanes, steps[place.unit], scratch.strip.index, scratch.buffers));
    escapes += strips.back().escape_count;
  }
  if (escapes * 8 > std::uint64_t{tokens.coded_count} * order.element_count()) {
    out.outcome = EntropyOutcome::kOutOfReach;
    return out;
  }
  ByteWriter exact;
  ByteWriter fine;
  for (std::size_t t = 0; t < tokens.count(); ++t) {
    if (tokens.kind[t] == TokenKind::kExact) exact.raw(rows.subspan(t * order.row_size(), order.row_size()));
    if (tokens.kind[t] != TokenKind::kFine) continue;
    add_fine_row(order, stream.group_widths(), order.mean(), chunk.values.data() + t * order.element_count(), fine);
  }
  out.payload = entropy_payload(tokens.exact_count, exact.take(), tokens.fine_count, fine.take(),
                                stream.has_scale() ? encode_scales(scales) : std::vector<std::byte>{}, strips);
  if (out.payload.size() >= rows.size()) out.outcome = EntropyOutcome::kWorse;
  return out;
}

std::vector<std::byte> cut_entropy(const EntropyChunk& chunk, std::size_t count) {
  const EntropyStream& stream = chunk.stream();
  const EntropyTokens& tokens = chunk.tokens();
  const auto of_kind = [&](TokenKind kind) {
    return static_cast<std::uint32_t>(std::count(tokens.kind.begin(), tokens.kind.begin() + static_cast<std::ptrdiff_t>(count), kind));
  };
  const std::uint32_t exact = of_kind(TokenKind::kExact);
  const std::uint32_t fine = of_kind(TokenKind::kFine);
  std::vector<std::vector<std::int8_t>> scales;
  for (std::size_t u = 0; u < stream.order().unit_count() && stream.has_scale(); ++u) {
    const auto kept = chunk.unit_scales(u).first(of_kind(TokenKind::kCoded));
    scales.emplace_back(kept.begin(), kept.end());
  }
  std::vector<StripPayload> strips;
  StripBuffers buffers;
  std::vector<std::int16_t> index(count * kStripWidth);
  for (std::size_t s = 0; s < stream.strip_count(); ++s) {
    const EntropyStream::StripPlace& place = stream.strips()[s];
    const auto lanes = stream.lanes().subspan(place.first, place.channels);
    const auto steps = chunk.unit_steps(place.unit).first(count);
    index_of_rows(lanes, steps, chunk.strip_rows(s).first(index.size()), index);
    strips.push_back(encode_strip(lanes, steps, index, buffers));
  }
  const std::size_t fine_size = 4 * stream.order().unit_count() + stream.order().element_count();
  return entropy_payload(exact, chunk.head().exact_rows.first(exact * stream.order().row_size()), fine,
                         chunk.head().fine_rows.first(fine * fine_size),
                         stream.has_scale() ? encode_scales(scales) : std::vector<std::byte>{}, strips);
}

}  // namespace cachecard
