// Keys at other positions, and keys that a card holds without RoPE.
#include <catch2/catch.hpp>
#include <cmath>
#include <cstring>

#include "llama_cpp/float_types.hpp"
#include "state_fixture.hpp"

using namespace cachecard;
using namespace cachecard::llama_cpp;
using namespace cachecard::llama_cpp::test;

namespace {

constexpr std::uint32_t kHeads = 2;
constexpr std::uint32_t kHeadDim = 64;
constexpr std::uint32_t kRotated = 48;  ///< the last 16 channels of a head have no position
constexpr std::uint64_t kTokens = 7;
constexpr std::size_t kRow = kHeads * kHeadDim;

struct KeyShape {
  RopePairing pairing = RopePairing::kInterleaved;
  RopeState state = RopeState::kPostRope;
  bool table = true;
  double magnitude = 1.0;
  DType dtype = DType::kF32;
  const char* architecture = nullptr;  ///< nullptr: one whose keys llama.cpp keeps in this pairing
};

double frequency(std::uint32_t pair) { return std::pow(10000.0, -2.0 * pair / kRotated); }

/// The key before RoPE, then turned to a position in f64.
double key_at(const KeyShape& shape, std::uint64_t token, std::size_t channel, double position) {
  const auto bare = [token](std::size_t c) {
    return std::sin(0.7 * static_cast<double>(c) + 1.3 * static_cast<double>(token));
  };
  const std::size_t in_head = channel % kHeadDim;
  if (in_head >= kRotated) return bare(channel);
  const bool half = shape.pairing == RopePairing::kHalfSplit;
  const std::size_t pair = half ? in_head % (kRotated / 2) : in_head / 2;
  const bool second = half ? in_head >= kRotated / 2 : in_head % 2 == 1;
  const std::size_t distance = half ? kRotated / 2 : 1;
  const double angle = position * frequency(static_cast<std::uint32_t>(pair));
  const double other = bare(second ? channel - distance : channel + distance);
  const double turned = second ? bare(channel) * std::cos(angle) + other * std::sin(angle)
                               : bare(channel) * std::cos(angle) - other * std::sin(angle);
  return turned * shape.magnitude;
}

/// One layer whose keys and values follow a formula.
class FormulaSource final : public CacheSource {
 public:
  explicit FormulaSource(const KeyShape& shape) : shape_(shape) {
    header_.layer_count = 1;
    header_.token_count = kTokens;
    header_.next_position = kTokens;
    SegmentRecord segment;
    segment.token_count = kTokens;
    header_.segments = {segment};
    const char* own = shape.pairing == RopePairing::kInterleaved ? "llama" : "qwen2";
    header_.identity.set_text(IdentityField::kArchitecture, shape.architecture != nullptr ? shape.architecture : own);
    for (const StreamKind kind : {StreamKind::kKey, StreamKind::kValue}) {
      StreamRecord stream;
      stream.stream = static_cast<std::uint8_t>(kind);
      stream.dtype = static_cast<std::uint8_t>(shape.dtype);
      stream.kv_head_count = kHeads;
      stream.head_dim = kHeadDim;
      stream.token_count = kTokens;
      if (kind == StreamKind::kKey) {
        stream.rope_state = static_cast<std::uint8_t>(shape.state);
        stream.rope_pairing = static_cast<std::uint8_t>(shape.pairing);
      }
      header_.streams.push_back(stream);
    }
    table_.record.pairing = static_cast<std::uint8_t>(shape.pairing);
    table_.record.rotated_width = kRotated;
    table_.record.pair_count = kRotated / 2;
    table_.record.magnitude = shape.magnitude;
    for (std::uint32_t i = 0; i < kRotated / 2; ++i) table_.inverse_frequencies.push_back(frequency(i));
    for (std::int32_t i = 0; i < static_cast<std::int32_t>(kTokens); ++i) numbers_.push_back(i);
  }

  const CardHeader& header() const override { return header_; }
  std::span<const std::int32_t> token_ids() const override { return numbers_; }
  std::span<const std::int32_t> positions() const override { return numbers_; }
  const RopeTable* rope_table() const override { return shape_.table ? &table_ : nullptr; }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count,
                   std::span<std::byte> out) const override {
    std::vector<float> rows;
    KeyShape bare = shape_;
    if (shape_.state == RopeState::kPreRope) bare.magnitude = 1.0;
    for (std::uint64_t token = first; token < first + count; ++token) {
      const double position = shape_.state == RopeState::kPreRope ? 0.0 : static_cast<double>(token);
      for (std::size_t c = 0; c < kRow; ++c) {
        rows.push_back(static_cast<float>(stream == 0
                                              ? key_at(bare, token, c, position)
                                              : static_cast<double>(token) + 0.01 * static_cast<double>(c)));
      }
    }
    convert_floats(DType::kF32, shape_.dtype, std::as_bytes(std::span(rows)), out);
    return {};
  }
  RopeTable& table() { return table_; }
  void set_rotated_width() { header_.identity.set_u64(IdentityField::kRopeDimensionCount, kRotated); }

 private:
  KeyShape shape_;
  CardHeader header_;
  RopeTable table_;
  std::vector<std::int32_t> numbers_;
};

std::unique_ptr<MadeCard> card_of(const FormulaSource& source, const CardOptions& options = {}) {
  MemorySink sink;
  REQUIRE(write_card(source, sink, options));
  auto card = std::make_unique<MadeCard>();
  card->bytes = std::move(sink.bytes());
  card->source = MemorySource(card->bytes);
  auto reader = CardReader::open(card->source);
  REQUIRE(reader);
  card->reader.push_back(*std::move(reader));
  return card;
}

StateTemplate float_target() {
  StateTemplate target;
  StateTemplate::Cache cache;
  cache.key_types = cache.value_types = {DType::kF32};
  cache.key_row_bytes = cache.value_row_bytes = {kRow * 4};
  target.caches = {cache};
  return target;
}

/// Keys and positions of the state that a card becomes.
struct Moved {
  std::vector<float> keys;
  std::vector<std::int32_t> positions;
};

Moved moved(const CardReader& card, std::int64_t shift) {
  StateWriteOptions options;
  options.position_shift = shift;
  const auto bytes = write(card, float_target(), options);
  INFO((bytes ? "" : bytes.error().message()));
  REQUIRE(bytes);
  ModelFacts model = small_model();
  model.rope_dimension_count = kRotated;
  const auto state = parse_state(MemorySource(*bytes), &model);
  REQUIRE(state);
  Moved out{std::vector<float>(kTokens * kRow), state->caches[0].positions};
  std::memcpy(out.keys.data(), bytes->data() + state->caches[0].keys[0].data_offset, out.keys.size() * 4);
  return out;
}

ErrorCode refused(const CardReader& card, std::int64_t shift) {
  StateWriteOptions options;
  options.position_shift = shift;
  const auto bytes = write(card, float_target(), options);
  return bytes ? ErrorCode::kOk : bytes.error().code;
}

}  // namespace

TEST_CASE("keys turn to where they are asked for, whether the card holds them with RoPE or without",
          "[converters]") {
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    for (const RopeState state : {RopeState::kPostRope, RopeState::kPreRope}) {
      const KeyShape shape{pairing, state, true, 1.25};
      const FormulaSource source(shape);
      const auto card = card_of(source);
      for (const std::int64_t shift : {std::int64_t{0}, std::int64_t{5}, std::int64_t{131'000}}) {
        INFO(name_of(pairing) << " " << name_of(state) << " by " << shift);
        const Moved found = moved(**card, shift);
        double worst = 0.0;
        for (std::uint64_t token = 0; token < kTokens; ++token) {
          const auto position = static_cast<double>(static_cast<std::int64_t>(token) + shift);
          CHECK(found.positions[token] == static_cast<std::int32_t>(token) + shift);
          for (std::size_t c = 0; c < kRow; ++c) {
            const double wanted = key_at(shape, token, c, position);
            worst = std::max(worst, std::fabs(wanted - static_cast<double>(found.keys[token * kRow + c])));
          }
        }
        CHECK(worst < 5e-7);  // one turn in f32, whatever the distance
      }
    }
  }
}

TEST_CASE("keys that planes hold without RoPE get it once, wherever they go", "[converters]") {
  for (const RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    INFO(name_of(pairing));
    KeyShape shape{pairing, RopeState::kPostRope, true, 1.25, DType::kF16};
    CardOptions options;
    options.planes = PlanesOptions{};
    options.planes->key_bits = 8;
    const auto card = card_of(FormulaSource(shape), options);
    const std::uint64_t first_coded = options.planes->exact_tokens;
    const Moved near = moved(**card, 3);
    const Moved far = moved(**card, 3'000);
    double worst = 0.0;
    double error = 0.0;
    for (std::uint64_t token = first_coded; token < kTokens; ++token) {
      for (std::size_t c = 0; c < kRow; ++c) {
        const std::size_t head = c / kHeadDim * kHeadDim;
        const std::size_t in_head = c % kHeadDim;
        const auto at = [&](std::size_t channel) {
          return static_cast<double>(near.keys[token * kRow + head + channel]);
        };
        const bool half = pairing == RopePairing::kHalfSplit;
        const std::size_t pair = half ? in_head % (kRotated / 2) : in_head / 2;
        const bool second = half ? in_head >= kRotated / 2 : in_head % 2 == 1;
        const std::size_t other =
            half ? (second ? in_head - kRotated / 2 : in_head + kRotated / 2) : in_head ^ 1;
        const double angle = 2'997.0 * frequency(static_cast<std::uint32_t>(pair));
        const double turned =
            at(in_head) * std::cos(angle) +
            (in_head < kRotated ? (second ? 1.0 : -1.0) * at(other) * std::sin(angle) : 0.0);
        const double wanted = in_head < kRotated ? turned : at(in_head);
        const auto found = static_cast<double>(far.keys[token * kRow + c]);
        worst = std::max(worst, std::fabs(wanted - found));
        error =
            std::max(error, std::fabs(found - key_at(shape, token, c, static_cast<double>(token + 3'000))));
      }
    }
    CHECK(worst < 2e-6);  // f16 between two turns would leave 5e-4
    CHECK(error < 0.02);  // of the codec's 8 bits
  }
}

TEST_CASE("keys whose pairs another runtime orders otherwise come in the graph's order", "[converters]") {
  struct Crossing {
    RopePairing held;
    const char* architecture;
  };
  for (const Crossing crossing : {Crossing{RopePairing::kHalfSplit, "llama"}, Crossing{RopePairing::kInterleaved, "qwen2"}}) {
    const bool half = crossing.held == RopePairing::kHalfSplit;
    for (const RopeState state : {RopeState::kPostRope, RopeState::kPreRope}) {
      for (const bool table : {true, false}) {
        if (!table && state == RopeState::kPreRope) continue;
        const KeyShape shape{crossing.held, state, table, 1.0, DType::kF32, crossing.architecture};
        FormulaSource source(shape);
        source.set_rotated_width();  // what says it where there is no table
        const auto card = card_of(source);
        const Moved found = moved(**card, table ? 5 : 0);
        double worst = 0.0;
        for (std::uint64_t token = 0; token < kTokens; ++token) {
          for (std::size_t c = 0; c < kRow; ++c) {
            const std::size_t i = c % kHeadDim;
            // Channel i of the graph's order, found among the card's: pair, then which of its two.
            const std::size_t pair = half ? i / 2 : i % (kRotated / 2);
            const std::size_t second = half ? i % 2 : i / (kRotated / 2);
            const std::size_t from = i >= kRotated ? i : half ? second * (kRotated / 2) + pair : 2 * pair + second;
            const double position = static_cast<double>(token) + (table ? 5.0 : 0.0);
            const double wanted = key_at(shape, token, c - i + from, position);
            worst = std::max(worst, std::fabs(wanted - static_cast<double>(found.keys[token * kRow + c])));
          }
        }
        INFO(crossing.architecture << " " << name_of(state) << (table ? " with" : " without") << " a table");
        CHECK(worst < 5e-7);
      }
    }
  }
}

TEST_CASE("a card of planes that crosses holds the values of one that does not", "[converters]") {
  const auto keys = [](RopePairing pairing) {
    CardOptions options;
    options.planes = PlanesOptions{};
    options.planes->exact_tokens = 2;
    const FormulaSource source({pairing, RopeState::kPostRope, true, 1.0, DType::kF16, "llama"});
    return moved(**card_of(source, options), 0).keys;
  };
  const auto own = keys(RopePairing::kInterleaved);
  const auto crossed = keys(RopePairing::kHalfSplit);
  const auto apart = [&](const std::vector<float>& found, RopePairing pairing) {
    const KeyShape shape{pairing, RopeState::kPostRope, true, 1.0, DType::kF16};
    double worst = 0.0;
    for (std::uint64_t token = 2; token < kTokens; ++token) {
      for (std::size_t c = 0; c < kRow; ++c) {
        const std::size_t i = c % kHeadDim;
        const bool half = pairing == RopePairing::kHalfSplit;
        const std::size_t from = !half || i >= kRotated ? i : i % 2 * (kRotated / 2) + i / 2;
        const double wanted = key_at(shape, token, c - i + from, static_cast<double>(token));
        worst = std::max(worst, std::fabs(wanted - static_cast<double>(found[token * kRow + c])));
      }
    }
    return worst;
  };
  const double error = apart(own, RopePairing::kInterleaved);
  CHECK(error > 0.01);  // 4 bits
  CHECK(apart(crossed, RopePairing::kHalfSplit) < 1.5 * error);
}

TEST_CASE("keys whose order in llama.cpp is not known, or is no order of pairs, do not cross", "[converters]") {
  const auto code = [](RopePairing pairing, const char* architecture) {
    return refused(**card_of(FormulaSource({pairing, RopeState::kPostRope, true, 1.0, DType::kF32, architecture})), 0);
  };
  CHECK(code(RopePairing::kHalfSplit, "no-such") == ErrorCode::kGeometryMismatch);
  CHECK(code(RopePairing::kHalfSplit, "qwen2vl") == ErrorCode::kGeometryMismatch);
  CHECK(code(RopePairing::kHalfSplit, "deepseek2") == ErrorCode::kGeometryMismatch);
  CHECK(code(RopePairing::kInterleaved, "deepseek2") == ErrorCode::kOk);  // llama.cpp's own
  FormulaSource blind({RopePairing::kHalfSplit, RopeState::kPostRope, false, 1.0, DType::kF32, "llama"});
  CHECK(refused(**card_of(blind), 0) == ErrorCode::kIdentityUnknown);  // how many channels rotate
}

TEST_CASE("values that stay rotated have no pairs to reorder", "[converters]") {
  const auto card = fixture_card("llama_q8_0.seq");
  const StreamRecord& stream = (**card).header().streams[0];
  REQUIRE(stream.hadamard_size > 1);
  std::vector<float> row(row_elements(stream));
  DecodeTarget target;
  target.base = row.data();
  target.channel_stride = sizeof(float);
  target.head_stride = static_cast<std::int64_t>(stream.head_dim * sizeof(float));
  DecodeRequest request{0, 0, 1, false};
  request.rope_pairing = RopePairing::kHalfSplit;
  CHECK((**card).decode(request, target));
  request.keep_rotation = true;
  const Status refused_order = (**card).decode(request, target);
  REQUIRE_FALSE(refused_order);
  CHECK(refused_order.error().code == ErrorCode::kInvalidArgument);
}

TEST_CASE("without a RoPE table keys stay where they are", "[converters]") {
  FormulaSource none({RopePairing::kInterleaved, RopeState::kPostRope, false, 1.0});
  CHECK(refused(**card_of(none), 0) == ErrorCode::kOk);
  CHECK(refused(**card_of(none), 1) == ErrorCode::kNotRestorable);
  FormulaSource bare({RopePairing::kInterleaved, RopeState::kPreRope, false, 1.0});
  CHECK(refused(**card_of(bare), 0) == ErrorCode::kNotRestorable);
}

TEST_CASE("a RoPE table wider than the heads is refused before it turns anything", "[converters]") {
  FormulaSource source({});
  source.table().record.rotated_offset = 32;
  const auto card = card_of(source);
  CHECK(refused(**card, 0) == ErrorCode::kOk);
  CHECK(refused(**card, 1) == ErrorCode::kGeometryMismatch);
}

TEST_CASE("positions stay within their range", "[converters]") {
  const auto card = card_of(FormulaSource({}));
  CHECK(refused(**card, -1) == ErrorCode::kInvalidArgument);
  CHECK(refused(**card, (std::int64_t{1} << 31) - 7) == ErrorCode::kInvalidArgument);
  CHECK(refused(**card, (std::int64_t{1} << 31) - 8) == ErrorCode::kOk);
}

TEST_CASE("opaque state and images stay where they are", "[converters]") {
  StateWriteOptions options;
  options.position_shift = 3;
  for (const char* file : {"mamba.seq", "qwen2vl_f16.seq"}) {
    const auto bytes = write(**fixture_card(file), template_of_fixture(file), options);
    REQUIRE_FALSE(bytes);
    CHECK(bytes.error().code == ErrorCode::kNotRestorable);
  }
}
