#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cachecard/error.hpp"
#include "cachecard/records.hpp"

namespace cachecard {

/// Type of an identity value. spec: FORMAT.md#identity
enum class ValueType : std::uint8_t { kText = 1, kU64 = 2, kF64 = 3, kDigest = 4 };

/// What must match before a card enters a live cache. spec: FORMAT.md#identity, COMPATIBILITY.md
enum class IdentityField : std::uint16_t {
  kArchitecture = 1,
  kWeightsDigest = 2,
  kSourceId = 3,
  kWeightsQuantization = 4,
  kWeightsContainer = 5,
  kAdapters = 6,
  kTokenizerDigest = 7,
  kVocabSize = 8,
  kTemplateDigest = 9,
  kRopeType = 10,
  kRopeBase = 11,
  kRopeDimensionCount = 12,
  kRopeScaling = 13,
  kRopeScaleFactor = 14,
  kRopeFactorsDigest = 15,
  kRopeOriginalContext = 16,
  kRopeExtrapolationFactor = 17,
  kRopeAttentionFactor = 18,
  kRopeBetaFast = 19,
  kRopeBetaSlow = 20,
  kModelName = 21,
  kProducer = 22,
};

struct IdentityFieldInfo {
  IdentityField field;
  std::string_view name;
  ValueType type;
};

/// The table of known fields, ascending. Owns: nothing; static storage.
std::span<const IdentityFieldInfo> identity_fields() noexcept;
const IdentityFieldInfo* identity_field_info(std::uint16_t field_id) noexcept;
const IdentityFieldInfo* identity_field_by_name(std::string_view name) noexcept;

/// Facts about a model, at most one of each field. A field that is absent is unknown.
class Identity {
 public:
  struct Value {
    std::uint16_t field_id;
    ValueType type;
    std::string bytes;  ///< as in the card: UTF-8, u64, f64 or 16 bytes

    bool operator==(const Value&) const = default;
  };

  void set_text(IdentityField field, std::string_view text);
  void set_u64(IdentityField field, std::uint64_t number);
  void set_f64(IdentityField field, double number);
  void set_digest(IdentityField field, const Digest128& digest);
  void set(Value value);
  void remove(IdentityField field);

  const Value* find(IdentityField field) const;
  std::optional<std::string> text(IdentityField field) const;
  std::optional<std::uint64_t> u64(IdentityField field) const;
  std::optional<double> f64(IdentityField field) const;
  std::optional<Digest128> digest(IdentityField field) const;
  /// Ascending by field_id; unknown fields of later minors included.
  const std::vector<Value>& values() const { return values_; }

  bool operator==(const Identity&) const = default;

 private:
  std::vector<Value> values_;
};

/// A value as a person reads it: text, number, or hex.
std::string format_identity_value(const Identity::Value& value);
std::string to_hex(const Digest128& digest);
std::optional<Digest128> digest_from_hex(std::string_view hex);

/// The header in memory: what a receiver needs to accept or refuse a card.
struct CardHeader {
  std::uint32_t flags = 0;            ///< kHeader...
  std::uint64_t token_count = 0;
  std::int64_t next_position = 0;     ///< position of the token that would follow
  std::uint32_t layer_count = 0;      ///< layers of the model
  Restorable restorable = Restorable::kAnyPrefix;
  std::uint64_t restorable_from = 0;  ///< smallest prefix, for kFromCount
  std::vector<StreamRecord> streams;  ///< ascending by (layer, stream)
  std::vector<PartRecord> parts;
  std::vector<SegmentRecord> segments;
  Identity identity;

  /// Index into streams, or nullopt.
  std::optional<std::size_t> stream_index(std::uint32_t layer, StreamKind kind) const;
};

/// Values in one row of a stream: kv_head_count x head_dim.
constexpr std::uint64_t row_elements(const StreamRecord& stream) {
  return std::uint64_t{stream.kv_head_count} * stream.head_dim;
}

/// Bytes of one row in an element type. Needs: dtype is in the table, the row is whole blocks.
std::uint64_t row_bytes(const StreamRecord& stream, DType dtype);

/// Header bytes (unpadded), canonical: record, streams, parts, segments, identity, values.
/// Errors: limit_exceeded, and whatever parse_header would refuse
Result<std::vector<std::byte>> encode_header(const CardHeader& header, const Limits& limits = {});

/// Errors: bad_size, bad_offset, bad_enum, reserved_not_zero, corrupt, limit_exceeded.
/// Offsets of errors are from the card's start. spec: FORMAT.md#header-checks
Result<CardHeader> parse_header(std::span<const std::byte> bytes, const Limits& limits = {});

/// The per-token bit-width map of one segment. spec: FORMAT.md#bit-width-map
struct BitWidthMap {
  std::uint64_t token_count = 0;
  std::vector<std::uint8_t> base;     ///< half bits, one per stream of the header
  std::vector<std::uint8_t> cap;      ///< most half bits that are left after planes were dropped, or kNoCap
  std::vector<std::uint16_t> row_of;  ///< row number per (stream, KV head), in table order
  std::vector<std::int8_t> rows;      ///< [row][token] offsets in half bits

  std::size_t row_count() const { return token_count == 0 ? 0 : rows.size() / token_count; }
  std::span<const std::int8_t> row(std::size_t index) const;
  /// Index into row_of of a stream's first head. Latent has one head, opaque none.
  static std::size_t first_use(const CardHeader& header, std::size_t stream_index);
};

/// A uniform map at the widths of the streams' types: what `raw` and `ggml` cards carry.
BitWidthMap uniform_map(const CardHeader& header, std::uint64_t token_count);

/// Payload of the section; run-length where that is smaller.
std::vector<std::byte> encode_map(const BitWidthMap& map);
/// Errors: bad_size, bad_enum, corrupt, limit_exceeded
Result<BitWidthMap> parse_map(std::span<const std::byte> payload, const CardHeader& header,
                              std::uint64_t token_count, const Limits& limits = {});

/// parameters section in memory.
struct Parameters {
  ParameterHeader record;
  std::vector<PartRecord> parts;
  std::vector<std::byte> data;
};
std::vector<std::byte> encode_parameters(const Parameters& parameters);
Result<Parameters> parse_parameters(std::span<const std::byte> payload);

/// lanes section in memory: what fixes the coding of entropy streams, channel by channel. spec: FORMAT.md#lane-sections
struct LaneStream {
  LaneStreamRecord record;
  std::vector<std::uint32_t> lanes;  ///< one a channel in card order, packed
  std::vector<std::uint16_t> means;  ///< f16, one a channel, or none
};
struct Lanes {
  std::vector<LaneStream> streams;  ///< ascending by (layer, stream)

  const LaneStream* find(std::uint32_t layer, std::uint8_t stream) const;
};
std::vector<std::byte> encode_lanes(const Lanes& lanes);
/// Errors: bad_size, bad_enum, reserved_not_zero, corrupt, non_finite, limit_exceeded
Result<Lanes> parse_lanes(std::span<const std::byte> payload);

/// references section in memory: by token of the segment, bits 0-11 the distance back to the row that it is predicted
/// from (0: none), bit 12 its class - 1. spec: FORMAT.md#references
using References = std::vector<std::uint16_t>;
/// Errors: bad_size, corrupt
Result<References> parse_references(std::span<const std::byte> payload, std::uint64_t token_count);

/// rope_table section in memory.
struct RopeTable {
  RopeTableHeader record;
  std::vector<double> inverse_frequencies;
};
std::vector<std::byte> encode_rope_table(const RopeTable& table);
Result<RopeTable> parse_rope_table(std::span<const std::byte> payload);

/// Positions of a segment as runs, shortest form. spec: FORMAT.md#positions
std::vector<PositionRun> position_runs(std::span<const std::int32_t> positions);
std::vector<std::byte> encode_positions(std::span<const PositionRun> runs);
/// Errors: bad_size, corrupt (sums differ, positions leave i32)
Result<std::vector<PositionRun>> parse_positions(std::span<const std::byte> payload,
                                                 std::uint64_t token_count);
std::vector<std::int32_t> expand_positions(std::span<const PositionRun> runs);

struct ProvenanceEntry {
  std::uint32_t hop = 0;
  ProvenanceOp operation = ProvenanceOp::kConvert;
  std::int64_t time = 0;
  Digest128 parent_root{};  ///< zero: made from no card
  std::string text;         ///< what was done, with which options; no path
};
std::vector<std::byte> encode_provenance(std::span<const ProvenanceEntry> entries);
Result<std::vector<ProvenanceEntry>> parse_provenance(std::span<const std::byte> payload);

/// The recipe that gives a foreign file back byte for byte. spec: FORMAT.md#source-layout
struct SourceLayout {
  SourceLayoutHeader record;
  std::vector<SourceOperation> operations;
  std::vector<OrderRun> order_runs;  ///< ascending by order
};
std::vector<std::byte> encode_source_layout(const SourceLayout& layout);
Result<SourceLayout> parse_source_layout(std::span<const std::byte> payload,
                                         const CardHeader& header);

struct Summary {
  std::uint64_t value_count = 0;
  std::uint64_t opaque_size = 0;
  double predicted_error = 0.0;  ///< 0: none was made
  std::vector<SummaryStage> stages;
  std::vector<SummaryWidth> widths;
};
std::vector<std::byte> encode_summary(const Summary& summary);
Result<Summary> parse_summary(std::span<const std::byte> payload);

/// Foreign families and containers of source_layout. spec: FORMAT.md#source-layout
enum class SourceFamily : std::uint16_t { kLlamaCpp = 1 };
enum class LlamaContainer : std::uint16_t {
  kSessionFile = 1,     ///< magic, version, tokens, whole-context state
  kWholeContext = 2,    ///< llama_state_get_data
  kSequenceFile = 3,    ///< magic, version, tokens, one sequence; llama-server's slot files
  kSequenceMemory = 4,  ///< llama_state_seq_get_data
};

}  // namespace cachecard
