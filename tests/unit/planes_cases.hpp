#pragma once

#include <cmath>
#include <string>
#include <vector>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"
#include "fixture_values.hpp"
#include "kernel/floats.hpp"

namespace cachecard::tests {

/// One layer of f32 values given by a function of (token, head, channel), as a source for write_card.
class FormulaSource final : public CacheSource {
 public:
  struct Shape {
    std::uint64_t tokens = 64;
    std::uint32_t heads = 2;
    std::uint32_t head_dim = 64;
    DType dtype = DType::kF32;
  };

  FormulaSource(std::string name, Shape shape) : name_(std::move(name)), shape_(shape) {
    header_.token_count = shape.tokens;
    header_.next_position = static_cast<std::int64_t>(shape.tokens);
    header_.layer_count = 1;
    header_.segments.emplace_back().token_count = shape.tokens;
    for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) {
      StreamRecord& stream = header_.streams.emplace_back();
      stream.stream = static_cast<std::uint8_t>(kind);
      stream.dtype = static_cast<std::uint8_t>(shape.dtype);
      stream.kv_head_count = shape.heads;
      stream.head_dim = shape.head_dim;
      stream.token_count = shape.tokens;
      values_.emplace_back(shape.tokens * shape.heads * shape.head_dim);
    }
    for (std::uint64_t t = 0; t < shape.tokens; ++t) {
      positions_.push_back(static_cast<std::int32_t>(t));
      ids_.push_back(static_cast<std::int32_t>(t));
    }
  }

  /// Fills both streams: value(token, head, channel), rounded to the type.
  template <class Value>
  FormulaSource& fill(Value&& value) {
    for (auto& stream : values_) {
      std::size_t i = 0;
      for (std::uint64_t t = 0; t < shape_.tokens; ++t) {
        for (std::uint32_t h = 0; h < shape_.heads; ++h) {
          for (std::uint32_t c = 0; c < shape_.head_dim; ++c) stream[i++] = rounded(static_cast<float>(value(t, h, c)));
        }
      }
    }
    return *this;
  }

  /// Keys are rotated: RoPE over the whole head.
  void rotate(RopePairing pairing) {
    RopeTable& table = table_.emplace();
    table.record.pairing = static_cast<std::uint8_t>(pairing);
    table.record.rotated_width = shape_.head_dim / 2 * 2;
    for (std::uint32_t i = 0; i < shape_.head_dim / 2; ++i) table.inverse_frequencies.push_back(1.0 / (1.0 + i));
    header_.streams[0].rope_state = static_cast<std::uint8_t>(RopeState::kPostRope);
    header_.streams[0].rope_pairing = table.record.pairing;
  }

  const std::string& name() const { return name_; }
  const Shape& shape() const { return shape_; }
  CardHeader& header() { return header_; }
  std::vector<std::int32_t>& position_list() { return positions_; }
  std::span<const float> values(std::size_t stream) const { return values_[stream]; }
  float& value(std::size_t stream, std::size_t index) { return values_[stream][index]; }

  const CardHeader& header() const override { return header_; }
  std::span<const std::int32_t> token_ids() const override { return ids_; }
  std::span<const std::int32_t> positions() const override { return positions_; }
  const RopeTable* rope_table() const override { return table_ ? &*table_ : nullptr; }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count, std::span<std::byte> out) const override {
    const std::size_t row = std::size_t{shape_.heads} * shape_.head_dim;
    const auto values = std::span(values_[stream]).subspan(first * row, count * row);
    if (shape_.dtype == DType::kF32) {
      std::memcpy(out.data(), values.data(), values.size_bytes());
      return {};
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
      const std::uint16_t half =
          shape_.dtype == DType::kF16 ? kernel::f16_from_f32(values[i]) : kernel::bf16_from_f32(values[i]);
      std::memcpy(out.data() + 2 * i, &half, 2);
    }
    return {};
  }

 private:
  float rounded(float value) const {
    if (shape_.dtype == DType::kF16) return kernel::f32_from_f16(kernel::f16_from_f32(value));
    if (shape_.dtype == DType::kBf16) return kernel::f32_from_bf16(kernel::bf16_from_f32(value));
    return value;
  }

  std::string name_;
  Shape shape_;
  CardHeader header_;
  std::vector<std::vector<float>> values_;
  std::vector<std::int32_t> positions_;
  std::vector<std::int32_t> ids_;
  std::optional<RopeTable> table_;
};

/// Roughly normal, from twelve draws.
inline double normal(fixtures::Random& random) {
  double sum = -6.0;
  for (int i = 0; i < 12; ++i) sum += static_cast<double>(random.below(1u << 20)) / (1u << 20);
  return sum;
}

inline CardOptions planes_of(std::uint8_t key_bits, std::uint8_t value_bits, std::uint64_t exact = 4) {
  CardOptions options;
  options.planes.emplace();
  options.planes->key_bits = key_bits;
  options.planes->value_bits = value_bits;
  options.planes->exact_tokens = exact;
  return options;
}

/// A stream of a card as f32.
inline std::vector<float> decoded(const CardReader& card, std::size_t stream) {
  const StreamRecord& record = card.header().streams[stream];
  std::vector<float> values(record.token_count * row_elements(record));
  const auto row = static_cast<std::int64_t>(row_elements(record) * 4);
  const DecodeTarget target{values.data(), DType::kF32, row, static_cast<std::int64_t>(record.head_dim) * 4, 4, nullptr};
  const Status read = card.decode({stream, record.first_token, record.token_count, false}, target);
  if (!read) values.clear();
  return values;
}

}  // namespace cachecard::tests
