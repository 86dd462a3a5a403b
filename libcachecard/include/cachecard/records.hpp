#pragma once

#include "cachecard/layout.hpp"
#include "cachecard/types.hpp"

/// THE layout: every fixed-size record of a card, once. Offsets are sums of the members before.
/// Reader, writer, inspector, the spec test and the mutation tests all work from these tables.
/// spec: FORMAT.md has one table for each record, with the same names.

namespace cachecard {

using Bytes8 = std::array<std::uint8_t, 8>;
using Digest128 = std::array<std::uint8_t, 16>;

/// PNG's manner: a byte above 127, a name, CR LF, a DOS end of file, LF.
inline constexpr Bytes8 kMagic{0x89, 'K', 'V', 'C', '\r', '\n', 0x1A, '\n'};
inline constexpr Bytes8 kEndMagic{'K', 'V', 'C', 'E', 'N', 'D', '\r', '\n'};

struct Prologue {
  Bytes8 magic = kMagic;
  std::uint16_t format_major = kFormatMajor;
  std::uint16_t format_minor = kFormatMinor;
  std::uint32_t header_size = 0;
  std::uint64_t required_features = 0;
  std::uint64_t optional_features = 0;
  std::uint64_t header_digest = 0;
  std::array<std::uint8_t, 20> reserved{};
  std::uint32_t check = 0;
};
template <>
struct Layout<Prologue> {
  static constexpr std::string_view name = "prologue";
  static constexpr auto fields = std::tuple{
      field("magic", &Prologue::magic, Rule::kConstant),
      field("format_major", &Prologue::format_major),
      field("format_minor", &Prologue::format_minor),
      field("header_size", &Prologue::header_size, Rule::kValue, Unit::kBytes),
      field("required_features", &Prologue::required_features),
      field("optional_features", &Prologue::optional_features),
      field("header_digest", &Prologue::header_digest),
      reserved("reserved", &Prologue::reserved),
      field("check", &Prologue::check)};
};
static_assert(encoded_size<Prologue>() == 64);

/// First record of the header; tables and values follow it, reached by (offset, count, stride).
/// Offsets in the header are bytes from the header's start.
struct HeaderRecord {
  std::uint32_t record_size = 128;
  std::uint32_t flags = 0;
  std::uint64_t token_count = 0;
  std::int64_t next_position = 0;
  std::uint32_t layer_count = 0;
  std::uint8_t restorable = 0;
  std::array<std::uint8_t, 3> reserved1{};
  std::uint64_t restorable_from = 0;
  std::uint32_t stream_offset = 0;
  std::uint32_t stream_count = 0;
  std::uint32_t stream_stride = 0;
  std::uint32_t part_offset = 0;
  std::uint32_t part_count = 0;
  std::uint32_t part_stride = 0;
  std::uint32_t segment_offset = 0;
  std::uint32_t segment_count = 0;
  std::uint32_t segment_stride = 0;
  std::uint32_t identity_offset = 0;
  std::uint32_t identity_count = 0;
  std::uint32_t identity_stride = 0;
  std::array<std::uint8_t, 40> reserved2{};
};
template <>
struct Layout<HeaderRecord> {
  static constexpr std::string_view name = "header";
  static constexpr auto fields = std::tuple{
      field("record_size", &HeaderRecord::record_size, Rule::kValue, Unit::kBytes),
      field("flags", &HeaderRecord::flags),
      field("token_count", &HeaderRecord::token_count, Rule::kValue, Unit::kTokens),
      field("next_position", &HeaderRecord::next_position),
      field("layer_count", &HeaderRecord::layer_count),
      field("restorable", &HeaderRecord::restorable),
      reserved("reserved1", &HeaderRecord::reserved1),
      field("restorable_from", &HeaderRecord::restorable_from, Rule::kValue, Unit::kTokens),
      field("stream_offset", &HeaderRecord::stream_offset, Rule::kValue, Unit::kBytes),
      field("stream_count", &HeaderRecord::stream_count),
      field("stream_stride", &HeaderRecord::stream_stride, Rule::kValue, Unit::kBytes),
      field("part_offset", &HeaderRecord::part_offset, Rule::kValue, Unit::kBytes),
      field("part_count", &HeaderRecord::part_count),
      field("part_stride", &HeaderRecord::part_stride, Rule::kValue, Unit::kBytes),
      field("segment_offset", &HeaderRecord::segment_offset, Rule::kValue, Unit::kBytes),
      field("segment_count", &HeaderRecord::segment_count),
      field("segment_stride", &HeaderRecord::segment_stride, Rule::kValue, Unit::kBytes),
      field("identity_offset", &HeaderRecord::identity_offset, Rule::kValue, Unit::kBytes),
      field("identity_count", &HeaderRecord::identity_count),
      field("identity_stride", &HeaderRecord::identity_stride, Rule::kValue, Unit::kBytes),
      reserved("reserved2", &HeaderRecord::reserved2)};
};
static_assert(encoded_size<HeaderRecord>() == 128);

/// One stream of one layer: its shape and the state its values are in at the source.
struct StreamRecord {
  std::uint32_t layer = 0;
  std::uint8_t stream = 0;       ///< StreamKind
  std::uint8_t dtype = 0;        ///< DType of the source
  std::uint8_t rope_state = 0;   ///< RopeState
  std::uint8_t rope_pairing = 0; ///< RopePairing: the source's channel order
  std::uint32_t kv_head_count = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t hadamard_size = 1;
  std::uint32_t window = 0;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  std::uint32_t part_first = 0;
  std::uint32_t part_count = 0;
  std::uint64_t opaque_size = 0;
  std::array<std::uint8_t, 8> reserved{};
};
template <>
struct Layout<StreamRecord> {
  static constexpr std::string_view name = "stream";
  static constexpr auto fields = std::tuple{
      field("layer", &StreamRecord::layer),
      field("stream", &StreamRecord::stream),
      field("dtype", &StreamRecord::dtype),
      field("rope_state", &StreamRecord::rope_state),
      field("rope_pairing", &StreamRecord::rope_pairing),
      field("kv_head_count", &StreamRecord::kv_head_count),
      field("head_dim", &StreamRecord::head_dim, Rule::kValue, Unit::kElements),
      field("hadamard_size", &StreamRecord::hadamard_size, Rule::kValue, Unit::kElements),
      field("window", &StreamRecord::window, Rule::kValue, Unit::kTokens),
      field("first_token", &StreamRecord::first_token, Rule::kValue, Unit::kTokens),
      field("token_count", &StreamRecord::token_count, Rule::kValue, Unit::kTokens),
      field("part_first", &StreamRecord::part_first),
      field("part_count", &StreamRecord::part_count),
      field("opaque_size", &StreamRecord::opaque_size, Rule::kValue, Unit::kBytes),
      reserved("reserved", &StreamRecord::reserved)};
};
static_assert(encoded_size<StreamRecord>() == 64);

/// A run of channels in a head; MLA rows have two. Streams without parts are one part.
struct PartRecord {
  std::uint32_t offset = 0;
  std::uint32_t width = 0;
  std::uint8_t rotated = 0;
  std::array<std::uint8_t, 7> reserved{};
};
template <>
struct Layout<PartRecord> {
  static constexpr std::string_view name = "part";
  static constexpr auto fields =
      std::tuple{field("offset", &PartRecord::offset, Rule::kValue, Unit::kElements),
                 field("width", &PartRecord::width, Rule::kValue, Unit::kElements),
                 field("rotated", &PartRecord::rotated),
                 reserved("reserved", &PartRecord::reserved)};
};
static_assert(encoded_size<PartRecord>() == 16);

/// The tokens that one hop added.
struct SegmentRecord {
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  std::uint8_t chunk_order = 0;
  std::array<std::uint8_t, 15> reserved{};
};
template <>
struct Layout<SegmentRecord> {
  static constexpr std::string_view name = "segment";
  static constexpr auto fields = std::tuple{
      field("first_token", &SegmentRecord::first_token, Rule::kValue, Unit::kTokens),
      field("token_count", &SegmentRecord::token_count, Rule::kValue, Unit::kTokens),
      field("chunk_order", &SegmentRecord::chunk_order),
      reserved("reserved", &SegmentRecord::reserved)};
};
static_assert(encoded_size<SegmentRecord>() == 32);

/// One fact about the model; the value lies in the header at (value_offset, value_size).
struct IdentityRecord {
  std::uint16_t field_id = 0;
  std::uint8_t value_type = 0;
  std::uint8_t reserved1 = 0;
  std::uint32_t value_offset = 0;
  std::uint32_t value_size = 0;
  std::uint32_t reserved2 = 0;
};
template <>
struct Layout<IdentityRecord> {
  static constexpr std::string_view name = "identity";
  static constexpr auto fields = std::tuple{
      field("field_id", &IdentityRecord::field_id),
      field("value_type", &IdentityRecord::value_type),
      reserved("reserved1", &IdentityRecord::reserved1),
      field("value_offset", &IdentityRecord::value_offset, Rule::kValue, Unit::kBytes),
      field("value_size", &IdentityRecord::value_size, Rule::kValue, Unit::kBytes),
      reserved("reserved2", &IdentityRecord::reserved2)};
};
static_assert(encoded_size<IdentityRecord>() == 16);

/// The record before every payload. Its own offset and check make a stray frame visible.
struct FrameHeader {
  std::uint16_t section_type = 0;
  std::uint16_t flags = 0;
  std::uint32_t segment = kNoSegment;
  std::uint32_t layer = kNoLayer;
  std::uint8_t stream = kNoStream;
  std::uint8_t codec = 0;
  std::uint8_t compressor = 0;
  std::uint8_t dtype = 255;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
  std::uint64_t stored_size = 0;
  std::uint64_t decoded_size = 0;
  std::uint64_t stored_digest = 0;
  std::uint64_t parameter_digest = 0;
  std::uint64_t map_digest = 0;
  std::uint64_t offset = 0;
  std::uint64_t digest_size = 0;  ///< bytes that stored_digest covers: stored_size, but for planes
  std::array<std::uint8_t, 36> reserved{};
  std::uint32_t check = 0;
};
template <>
struct Layout<FrameHeader> {
  static constexpr std::string_view name = "frame_header";
  static constexpr auto fields = std::tuple{
      field("section_type", &FrameHeader::section_type),
      field("flags", &FrameHeader::flags),
      field("segment", &FrameHeader::segment),
      field("layer", &FrameHeader::layer),
      field("stream", &FrameHeader::stream),
      field("codec", &FrameHeader::codec),
      field("compressor", &FrameHeader::compressor),
      field("dtype", &FrameHeader::dtype),
      field("first_token", &FrameHeader::first_token, Rule::kValue, Unit::kTokens),
      field("token_count", &FrameHeader::token_count, Rule::kValue, Unit::kTokens),
      field("stored_size", &FrameHeader::stored_size, Rule::kValue, Unit::kBytes),
      field("decoded_size", &FrameHeader::decoded_size, Rule::kValue, Unit::kBytes),
      field("stored_digest", &FrameHeader::stored_digest),
      field("parameter_digest", &FrameHeader::parameter_digest),
      field("map_digest", &FrameHeader::map_digest),
      field("offset", &FrameHeader::offset, Rule::kValue, Unit::kBytes),
      field("digest_size", &FrameHeader::digest_size, Rule::kValue, Unit::kBytes, 2),
      reserved("reserved", &FrameHeader::reserved),
      field("check", &FrameHeader::check)};
};
static_assert(encoded_size<FrameHeader>() == 128);

struct Trailer {
  std::uint64_t summary_offset = 0;
  std::uint64_t directory_offset = 0;
  std::uint64_t frame_count = 0;
  std::uint64_t file_size = 0;
  Digest128 root{};
  std::uint32_t reserved = 0;
  std::uint32_t check = 0;
  Bytes8 end_magic = kEndMagic;
};
template <>
struct Layout<Trailer> {
  static constexpr std::string_view name = "trailer";
  static constexpr auto fields = std::tuple{
      field("summary_offset", &Trailer::summary_offset, Rule::kValue, Unit::kBytes),
      field("directory_offset", &Trailer::directory_offset, Rule::kValue, Unit::kBytes),
      field("frame_count", &Trailer::frame_count),
      field("file_size", &Trailer::file_size, Rule::kValue, Unit::kBytes),
      field("root", &Trailer::root),
      reserved("reserved", &Trailer::reserved),
      field("check", &Trailer::check),
      field("end_magic", &Trailer::end_magic, Rule::kConstant)};
};
static_assert(encoded_size<Trailer>() == 64);

/// positions section: runs of token_count tokens at first_position, first_position + step, ...
struct PositionRun {
  std::uint64_t token_count = 0;
  std::int64_t first_position = 0;
  std::int64_t step = 0;
};
template <>
struct Layout<PositionRun> {
  static constexpr std::string_view name = "position_run";
  static constexpr auto fields = std::tuple{
      field("token_count", &PositionRun::token_count, Rule::kValue, Unit::kTokens),
      field("first_position", &PositionRun::first_position),
      field("step", &PositionRun::step)};
};
static_assert(encoded_size<PositionRun>() == 24);

/// bit_width_map section: this, then base widths and caps (u8 a stream of the header's table), row numbers
/// (u16 a stream and KV head), rows (i8 a token of the segment), all of them as `encoding` says.
struct MapHeader {
  std::uint32_t record_size = 32;
  std::uint32_t base_count = 0;
  std::uint32_t use_count = 0;
  std::uint32_t row_count = 0;
  std::uint64_t token_count = 0;
  std::uint8_t encoding = 0;  ///< 0 plain, 1 run-length
  std::array<std::uint8_t, 7> reserved{};
};
template <>
struct Layout<MapHeader> {
  static constexpr std::string_view name = "bit_width_map";
  static constexpr auto fields = std::tuple{
      field("record_size", &MapHeader::record_size, Rule::kValue, Unit::kBytes),
      field("base_count", &MapHeader::base_count),
      field("use_count", &MapHeader::use_count),
      field("row_count", &MapHeader::row_count),
      field("token_count", &MapHeader::token_count, Rule::kValue, Unit::kTokens),
      field("encoding", &MapHeader::encoding),
      reserved("reserved", &MapHeader::reserved)};
};
static_assert(encoded_size<MapHeader>() == 32);

/// parameters section: what a chunk needs beyond its payload; parts and codec data follow.
struct ParameterHeader {
  std::uint32_t record_size = 64;
  std::uint8_t codec = 0;
  std::uint8_t rope_removed = 0;
  std::array<std::uint8_t, 2> reserved1{};
  std::uint64_t rope_table_digest = 0;
  std::uint64_t positions_digest = 0;
  std::uint64_t references_digest = 0;
  std::uint32_t hadamard_size = 1;
  std::uint32_t part_count = 0;
  std::uint64_t data_size = 0;
  std::uint64_t lanes_digest = 0;
  std::array<std::uint8_t, 8> reserved2{};
};
template <>
struct Layout<ParameterHeader> {
  static constexpr std::string_view name = "parameters";
  static constexpr auto fields = std::tuple{
      field("record_size", &ParameterHeader::record_size, Rule::kValue, Unit::kBytes),
      field("codec", &ParameterHeader::codec),
      field("rope_removed", &ParameterHeader::rope_removed),
      reserved("reserved1", &ParameterHeader::reserved1),
      field("rope_table_digest", &ParameterHeader::rope_table_digest),
      field("positions_digest", &ParameterHeader::positions_digest),
      field("references_digest", &ParameterHeader::references_digest),
      field("hadamard_size", &ParameterHeader::hadamard_size, Rule::kValue, Unit::kElements),
      field("part_count", &ParameterHeader::part_count),
      field("data_size", &ParameterHeader::data_size, Rule::kValue, Unit::kBytes),
      field("lanes_digest", &ParameterHeader::lanes_digest, Rule::kValue, Unit::kNone, 2),
      reserved("reserved2", &ParameterHeader::reserved2)};
};
static_assert(encoded_size<ParameterHeader>() == 64);

/// Begins the payload of a planes chunk. spec: CODECS.md#planes
struct PlanesRecord {
  std::uint32_t record_size = 32;
  std::uint32_t plane_count = 0;
  std::uint32_t exact_count = 0;
  std::uint32_t coded_count = 0;
  std::array<std::uint8_t, 16> reserved{};
};
template <>
struct Layout<PlanesRecord> {
  static constexpr std::string_view name = "planes";
  static constexpr auto fields = std::tuple{
      field("record_size", &PlanesRecord::record_size, Rule::kValue, Unit::kBytes, 2),
      field("plane_count", &PlanesRecord::plane_count, Rule::kValue, Unit::kNone, 2),
      field("exact_count", &PlanesRecord::exact_count, Rule::kValue, Unit::kTokens, 2),
      field("coded_count", &PlanesRecord::coded_count, Rule::kValue, Unit::kTokens, 2),
      reserved("reserved", &PlanesRecord::reserved, 2)};
};
static_assert(encoded_size<PlanesRecord>() == 32);

/// One plane of a planes chunk: its bytes follow the head, in table order.
struct PlaneRecord {
  std::uint64_t size = 0;
  std::uint64_t digest = 0;
};
template <>
struct Layout<PlaneRecord> {
  static constexpr std::string_view name = "plane";
  static constexpr auto fields =
      std::tuple{field("size", &PlaneRecord::size, Rule::kValue, Unit::kBytes, 2),
                 field("digest", &PlaneRecord::digest, Rule::kValue, Unit::kNone, 2)};
};
static_assert(encoded_size<PlaneRecord>() == 16);

/// lanes section: this, then a record for each stream, then their lanes and means. spec: FORMAT.md#lane-sections
struct LanesHeader {
  std::uint32_t record_size = 16;
  std::uint32_t stream_count = 0;
  std::uint16_t table_set = 1;
  std::array<std::uint8_t, 6> reserved{};
};
template <>
struct Layout<LanesHeader> {
  static constexpr std::string_view name = "lanes";
  static constexpr auto fields =
      std::tuple{field("record_size", &LanesHeader::record_size, Rule::kValue, Unit::kBytes, 2),
                 field("stream_count", &LanesHeader::stream_count, Rule::kValue, Unit::kNone, 2),
                 field("table_set", &LanesHeader::table_set, Rule::kValue, Unit::kNone, 2),
                 reserved("reserved", &LanesHeader::reserved, 2)};
};
static_assert(encoded_size<LanesHeader>() == 16);

/// The lanes of one stream.
struct LaneStreamRecord {
  std::uint32_t layer = 0;
  std::uint8_t stream = 0;
  std::uint8_t has_mean = 0;
  std::uint8_t has_scale = 0;
  std::uint8_t reserved = 0;
  std::uint32_t lane_count = 0;
  float step = 1.0f;
};
template <>
struct Layout<LaneStreamRecord> {
  static constexpr std::string_view name = "lane_stream";
  static constexpr auto fields =
      std::tuple{field("layer", &LaneStreamRecord::layer, Rule::kValue, Unit::kNone, 2),
                 field("stream", &LaneStreamRecord::stream, Rule::kValue, Unit::kNone, 2),
                 field("has_mean", &LaneStreamRecord::has_mean, Rule::kValue, Unit::kNone, 2),
                 field("has_scale", &LaneStreamRecord::has_scale, Rule::kValue, Unit::kNone, 2),
                 reserved("reserved", &LaneStreamRecord::reserved, 2),
                 field("lane_count", &LaneStreamRecord::lane_count, Rule::kValue, Unit::kElements, 2),
                 field("step", &LaneStreamRecord::step, Rule::kValue, Unit::kNone, 2)};
};
static_assert(encoded_size<LaneStreamRecord>() == 16);

/// Begins a model_profile section: one layer of a model profile. spec: FORMAT.md#model-profiles
struct ProfileRecord {
  std::uint32_t record_size = 48;
  std::uint32_t layer = 0;
  std::uint32_t kv_head_count = 0;
  std::uint32_t query_head_count = 0;
  std::uint32_t key_dim = 0;
  std::uint32_t value_dim = 0;
  std::uint32_t map_rank = 0;
  std::uint32_t centroid_count = 0;
  float attention_scale = 1.0f;
  std::array<std::uint8_t, 12> reserved{};
};
template <>
struct Layout<ProfileRecord> {
  static constexpr std::string_view name = "model_profile";
  static constexpr auto fields =
      std::tuple{field("record_size", &ProfileRecord::record_size, Rule::kValue, Unit::kBytes, 2),
                 field("layer", &ProfileRecord::layer, Rule::kValue, Unit::kNone, 2),
                 field("kv_head_count", &ProfileRecord::kv_head_count, Rule::kValue, Unit::kNone, 2),
                 field("query_head_count", &ProfileRecord::query_head_count, Rule::kValue, Unit::kNone, 2),
                 field("key_dim", &ProfileRecord::key_dim, Rule::kValue, Unit::kElements, 2),
                 field("value_dim", &ProfileRecord::value_dim, Rule::kValue, Unit::kElements, 2),
                 field("map_rank", &ProfileRecord::map_rank, Rule::kValue, Unit::kNone, 2),
                 field("centroid_count", &ProfileRecord::centroid_count, Rule::kValue, Unit::kNone, 2),
                 field("attention_scale", &ProfileRecord::attention_scale, Rule::kValue, Unit::kNone, 2),
                 reserved("reserved", &ProfileRecord::reserved, 2)};
};
static_assert(encoded_size<ProfileRecord>() == 48);

/// Begins the payload of an entropy chunk. spec: CODECS.md#entropy
struct EntropyRecord {
  std::uint32_t record_size = 32;
  std::uint32_t strip_count = 0;
  std::uint32_t exact_count = 0;
  std::uint32_t fine_count = 0;
  std::uint32_t scale_size = 0;
  std::array<std::uint8_t, 12> reserved{};
};
template <>
struct Layout<EntropyRecord> {
  static constexpr std::string_view name = "entropy";
  static constexpr auto fields =
      std::tuple{field("record_size", &EntropyRecord::record_size, Rule::kValue, Unit::kBytes, 2),
                 field("strip_count", &EntropyRecord::strip_count, Rule::kValue, Unit::kNone, 2),
                 field("exact_count", &EntropyRecord::exact_count, Rule::kValue, Unit::kTokens, 2),
                 field("fine_count", &EntropyRecord::fine_count, Rule::kValue, Unit::kTokens, 2),
                 field("scale_size", &EntropyRecord::scale_size, Rule::kValue, Unit::kBytes, 2),
                 reserved("reserved", &EntropyRecord::reserved, 2)};
};
static_assert(encoded_size<EntropyRecord>() == 32);

/// One strip of an entropy chunk; the strips' bytes follow in table order.
struct StripRecord {
  std::uint32_t word_count = 0;
  std::uint32_t escape_count = 0;
};
template <>
struct Layout<StripRecord> {
  static constexpr std::string_view name = "strip";
  static constexpr auto fields =
      std::tuple{field("word_count", &StripRecord::word_count, Rule::kValue, Unit::kNone, 2),
                 field("escape_count", &StripRecord::escape_count, Rule::kValue, Unit::kNone, 2)};
};
static_assert(encoded_size<StripRecord>() == 8);

/// rope_table section: this, then pair_count inverse frequencies (f64).
struct RopeTableHeader {
  std::uint32_t record_size = 48;
  std::uint8_t pairing = 0;
  std::array<std::uint8_t, 3> reserved1{};
  std::uint32_t rotated_offset = 0;
  std::uint32_t rotated_width = 0;
  std::uint32_t pair_count = 0;
  std::array<std::uint8_t, 4> reserved2{};
  double magnitude = 1.0;
  std::array<std::uint8_t, 16> reserved3{};
};
template <>
struct Layout<RopeTableHeader> {
  static constexpr std::string_view name = "rope_table";
  static constexpr auto fields = std::tuple{
      field("record_size", &RopeTableHeader::record_size, Rule::kValue, Unit::kBytes),
      field("pairing", &RopeTableHeader::pairing),
      reserved("reserved1", &RopeTableHeader::reserved1),
      field("rotated_offset", &RopeTableHeader::rotated_offset, Rule::kValue, Unit::kElements),
      field("rotated_width", &RopeTableHeader::rotated_width, Rule::kValue, Unit::kElements),
      field("pair_count", &RopeTableHeader::pair_count),
      reserved("reserved2", &RopeTableHeader::reserved2),
      field("magnitude", &RopeTableHeader::magnitude),
      reserved("reserved3", &RopeTableHeader::reserved3)};
};
static_assert(encoded_size<RopeTableHeader>() == 48);

/// source_layout section: facts about the foreign file, then its recipe. The file is the outputs of
/// the operations in order; literal bytes come from the source_bytes sections, in file order.
struct SourceLayoutHeader {
  std::uint32_t record_size = 64;
  std::uint16_t family = 0;
  std::uint16_t container = 0;
  std::uint32_t container_version = 0;
  std::uint32_t stream_count = 0;
  std::uint32_t stream_index = 0;
  std::uint8_t v_transposed = 0;
  std::array<std::uint8_t, 3> reserved1{};
  std::uint64_t file_size = 0;
  std::uint64_t literal_size = 0;
  std::uint32_t operation_count = 0;
  std::uint32_t order_count = 0;
  std::uint64_t order_run_count = 0;
  std::uint64_t reserved2 = 0;
};
template <>
struct Layout<SourceLayoutHeader> {
  static constexpr std::string_view name = "source_layout";
  static constexpr auto fields = std::tuple{
      field("record_size", &SourceLayoutHeader::record_size, Rule::kValue, Unit::kBytes),
      field("family", &SourceLayoutHeader::family),
      field("container", &SourceLayoutHeader::container),
      field("container_version", &SourceLayoutHeader::container_version),
      field("stream_count", &SourceLayoutHeader::stream_count),
      field("stream_index", &SourceLayoutHeader::stream_index),
      field("v_transposed", &SourceLayoutHeader::v_transposed),
      reserved("reserved1", &SourceLayoutHeader::reserved1),
      field("file_size", &SourceLayoutHeader::file_size, Rule::kValue, Unit::kBytes),
      field("literal_size", &SourceLayoutHeader::literal_size, Rule::kValue, Unit::kBytes),
      field("operation_count", &SourceLayoutHeader::operation_count),
      field("order_count", &SourceLayoutHeader::order_count),
      field("order_run_count", &SourceLayoutHeader::order_run_count),
      reserved("reserved2", &SourceLayoutHeader::reserved2)};
};
static_assert(encoded_size<SourceLayoutHeader>() == 64);

/// One step of the recipe: literal bytes, a stream's rows in a cell order, or an opaque stream.
struct SourceOperation {
  std::uint8_t operation = 0;  ///< SourceOp
  std::uint8_t stream = kNoStream;
  std::uint8_t transposed = 0;
  std::uint8_t reserved1 = 0;
  std::uint32_t layer = kNoLayer;
  std::uint32_t order = 0;
  std::uint32_t reserved2 = 0;
  std::uint64_t size = 0;
};
template <>
struct Layout<SourceOperation> {
  static constexpr std::string_view name = "source_operation";
  static constexpr auto fields = std::tuple{
      field("operation", &SourceOperation::operation),
      field("stream", &SourceOperation::stream),
      field("transposed", &SourceOperation::transposed),
      reserved("reserved1", &SourceOperation::reserved1),
      field("layer", &SourceOperation::layer),
      field("order", &SourceOperation::order),
      reserved("reserved2", &SourceOperation::reserved2),
      field("size", &SourceOperation::size, Rule::kValue, Unit::kBytes)};
};
static_assert(encoded_size<SourceOperation>() == 24);

enum class SourceOp : std::uint8_t { kLiteral = 0, kRows = 1, kOpaque = 2 };

/// Cells of one order: token_count cells that hold tokens first_token, first_token + 1, ...
struct OrderRun {
  std::uint32_t order = 0;
  std::uint32_t first_token = 0;
  std::uint32_t token_count = 0;
};
template <>
struct Layout<OrderRun> {
  static constexpr std::string_view name = "order_run";
  static constexpr auto fields = std::tuple{
      field("order", &OrderRun::order),
      field("first_token", &OrderRun::first_token, Rule::kValue, Unit::kTokens),
      field("token_count", &OrderRun::token_count, Rule::kValue, Unit::kTokens)};
};
static_assert(encoded_size<OrderRun>() == 12);

/// provenance section: this, then steps, then the UTF-8 text that they point into.
struct ProvenanceHeader {
  std::uint32_t record_size = 16;
  std::uint32_t step_count = 0;
  std::uint32_t step_stride = 0;
  std::uint32_t text_size = 0;
};
template <>
struct Layout<ProvenanceHeader> {
  static constexpr std::string_view name = "provenance";
  static constexpr auto fields = std::tuple{
      field("record_size", &ProvenanceHeader::record_size, Rule::kValue, Unit::kBytes),
      field("step_count", &ProvenanceHeader::step_count),
      field("step_stride", &ProvenanceHeader::step_stride, Rule::kValue, Unit::kBytes),
      field("text_size", &ProvenanceHeader::text_size, Rule::kValue, Unit::kBytes)};
};
static_assert(encoded_size<ProvenanceHeader>() == 16);

struct ProvenanceStep {
  std::uint32_t hop = 0;
  std::uint16_t operation = 0;  ///< ProvenanceOp
  std::uint16_t reserved1 = 0;
  std::int64_t time = 0;  ///< seconds since 1970, 0: not recorded
  Digest128 parent_root{};
  std::uint32_t text_offset = 0;  ///< from the text's start: what was done, by which program
  std::uint32_t text_size = 0;
  std::uint64_t reserved2 = 0;
};
template <>
struct Layout<ProvenanceStep> {
  static constexpr std::string_view name = "provenance_step";
  static constexpr auto fields = std::tuple{
      field("hop", &ProvenanceStep::hop),
      field("operation", &ProvenanceStep::operation),
      reserved("reserved1", &ProvenanceStep::reserved1),
      field("time", &ProvenanceStep::time),
      field("parent_root", &ProvenanceStep::parent_root),
      field("text_offset", &ProvenanceStep::text_offset, Rule::kValue, Unit::kBytes),
      field("text_size", &ProvenanceStep::text_size, Rule::kValue, Unit::kBytes),
      reserved("reserved2", &ProvenanceStep::reserved2)};
};
static_assert(encoded_size<ProvenanceStep>() == 48);

enum class ProvenanceOp : std::uint16_t {
  kConvert = 1,
  kCapture = 2,
  kTrim = 3,
  kExtend = 4,
  kRequantize = 5,
  kCalibrate = 6,
};

/// summary section: this, then stages, then widths. A verifier recomputes it.
struct SummaryHeader {
  std::uint32_t record_size = 48;
  std::uint32_t stage_count = 0;
  std::uint32_t width_count = 0;
  std::uint32_t reserved1 = 0;
  std::uint64_t value_count = 0;
  std::uint64_t opaque_size = 0;
  double predicted_error = 0.0;
  std::uint64_t reserved2 = 0;
};
template <>
struct Layout<SummaryHeader> {
  static constexpr std::string_view name = "summary";
  static constexpr auto fields = std::tuple{
      field("record_size", &SummaryHeader::record_size, Rule::kValue, Unit::kBytes),
      field("stage_count", &SummaryHeader::stage_count),
      field("width_count", &SummaryHeader::width_count),
      reserved("reserved1", &SummaryHeader::reserved1),
      field("value_count", &SummaryHeader::value_count, Rule::kValue, Unit::kElements),
      field("opaque_size", &SummaryHeader::opaque_size, Rule::kValue, Unit::kBytes),
      field("predicted_error", &SummaryHeader::predicted_error),
      reserved("reserved2", &SummaryHeader::reserved2)};
};
static_assert(encoded_size<SummaryHeader>() == 48);

/// Bytes that the frames of one (section type, codec, compressor) cost, ascending in that order.
struct SummaryStage {
  std::uint16_t section_type = 0;
  std::uint8_t codec = 0;
  std::uint8_t compressor = 0;
  std::uint32_t reserved = 0;
  std::uint64_t frame_count = 0;
  std::uint64_t stored_size = 0;
  std::uint64_t decoded_size = 0;
  std::uint64_t framing_size = 0;  ///< frame headers and padding
};
template <>
struct Layout<SummaryStage> {
  static constexpr std::string_view name = "summary_stage";
  static constexpr auto fields = std::tuple{
      field("section_type", &SummaryStage::section_type),
      field("codec", &SummaryStage::codec),
      field("compressor", &SummaryStage::compressor),
      reserved("reserved", &SummaryStage::reserved),
      field("frame_count", &SummaryStage::frame_count),
      field("stored_size", &SummaryStage::stored_size, Rule::kValue, Unit::kBytes),
      field("decoded_size", &SummaryStage::decoded_size, Rule::kValue, Unit::kBytes),
      field("framing_size", &SummaryStage::framing_size, Rule::kValue, Unit::kBytes)};
};
static_assert(encoded_size<SummaryStage>() == 40);

/// How many values of a stream kind have a width, ascending by (stream, width).
struct SummaryWidth {
  std::uint8_t stream = 0;
  std::uint8_t width = 0;
  std::array<std::uint8_t, 6> reserved{};
  std::uint64_t value_count = 0;
};
template <>
struct Layout<SummaryWidth> {
  static constexpr std::string_view name = "summary_width";
  static constexpr auto fields = std::tuple{
      field("stream", &SummaryWidth::stream),
      field("width", &SummaryWidth::width, Rule::kValue, Unit::kHalfBits),
      reserved("reserved", &SummaryWidth::reserved),
      field("value_count", &SummaryWidth::value_count, Rule::kValue, Unit::kElements)};
};
static_assert(encoded_size<SummaryWidth>() == 16);

/// All records, for whoever walks them (spec test, mutation tests, docs).
template <class Visit>
constexpr void for_each_record(Visit&& visit) {
  visit.template operator()<Prologue>();
  visit.template operator()<HeaderRecord>();
  visit.template operator()<StreamRecord>();
  visit.template operator()<PartRecord>();
  visit.template operator()<SegmentRecord>();
  visit.template operator()<IdentityRecord>();
  visit.template operator()<FrameHeader>();
  visit.template operator()<Trailer>();
  visit.template operator()<PositionRun>();
  visit.template operator()<MapHeader>();
  visit.template operator()<ParameterHeader>();
  visit.template operator()<PlanesRecord>();
  visit.template operator()<PlaneRecord>();
  visit.template operator()<LanesHeader>();
  visit.template operator()<LaneStreamRecord>();
  visit.template operator()<ProfileRecord>();
  visit.template operator()<EntropyRecord>();
  visit.template operator()<StripRecord>();
  visit.template operator()<RopeTableHeader>();
  visit.template operator()<SourceLayoutHeader>();
  visit.template operator()<SourceOperation>();
  visit.template operator()<OrderRun>();
  visit.template operator()<ProvenanceHeader>();
  visit.template operator()<ProvenanceStep>();
  visit.template operator()<SummaryHeader>();
  visit.template operator()<SummaryStage>();
  visit.template operator()<SummaryWidth>();
}

}  // namespace cachecard
