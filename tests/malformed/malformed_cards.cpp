#include "malformed_cards.hpp"

#include "card_plan.hpp"
#include "valid_cards.hpp"

namespace cachecard::tests {
namespace {

using fixtures::CardPlan;
using fixtures::CardSurgeon;
using fixtures::to_bytes;

CardPlan full_plan() {
  CardPlan plan = fixtures::make_plan("to_break_full", "", 6, "", "");
  fixtures::add_layer(plan, 0, DType::kQ8_0, {.head_dim = 32, .hadamard_size = 32});
  fixtures::add_stream(plan, 1, StreamKind::kLatent, DType::kF16, {.head_dim = 12}).part_count = 2;
  plan.header.parts = {{0, 4, 1, {}}, {4, 8, 0, {}}};
  fixtures::cut_segments(plan, {4, 2});
  plan.texts = {"some", "text"};
  plan.media = {to_bytes("media")};
  RopeTable table;
  table.record.pairing = 2;
  table.record.rotated_width = 4;
  table.inverse_frequencies = {1.0, 0.25};
  plan.first.push_back({make_frame(SectionType::kRopeTable), encode_rope_table(table)});
  plan.name_rope_and_positions = true;
  const std::array entries{ProvenanceEntry{0, ProvenanceOp::kConvert, 0, {}, "convert"}};
  plan.last.push_back({make_frame(SectionType::kProvenance), encode_provenance(entries)});
  plan.optional_features = kFeatureText | kFeatureMedia;
  plan.header.identity.set_u64(IdentityField::kVocabSize, 100);
  return plan;
}

CardPlan source_plan() {
  CardPlan plan = fixtures::make_plan("to_break_source", "", 4, "", "");
  fixtures::add_opaque(plan, 0, 30);
  fixtures::add_stream(plan, 1, StreamKind::kKey, DType::kF16, {.head_dim = 4});
  SourceLayout layout;
  layout.record.family = 1;
  layout.record.container = 3;
  layout.record.order_count = 1;
  layout.order_runs = {{0, 1, 3}, {0, 0, 1}};
  SourceOperation literal;
  literal.size = 7;
  SourceOperation rows;
  rows.operation = static_cast<std::uint8_t>(SourceOp::kRows);
  rows.stream = 0;
  rows.layer = 1;
  rows.size = 32;
  SourceOperation state;
  state.operation = static_cast<std::uint8_t>(SourceOp::kOpaque);
  state.stream = static_cast<std::uint8_t>(StreamKind::kOpaque);
  state.layer = 0;
  state.size = 30;
  layout.operations = {literal, rows, state};
  layout.record.literal_size = 7;
  layout.record.file_size = 69;
  plan.first.push_back({make_frame(SectionType::kSourceLayout), encode_source_layout(layout)});
  plan.first.push_back({make_frame(SectionType::kSourceBytes), to_bytes("literal")});
  plan.optional_features = kFeatureSourceLayout;
  return plan;
}

CardPlan zstd_plan() {
  CardPlan plan = fixtures::make_plan("to_break_zstd", "", 12, "", "");
  fixtures::add_layer(plan, 0, DType::kBf16, {.head_dim = 16, .values = fixtures::ValueKind::kCoarse});
  plan.compressor = Compressor::kSplitZstd;
  FrameHeader unknown;
  unknown.section_type = 999;
  plan.last.push_back({unknown, to_bytes("of a later minor")});
  return plan;
}

CardPlan planes_plan() {
  CardPlan plan = fixtures::make_plan("to_break_planes", "", 12, "", "");
  fixtures::add_layer(plan, 0, DType::kF16, {.kv_head_count = 2, .head_dim = 8});
  fixtures::add_rope_table(plan, RopePairing::kHalfSplit, 0, 8);
  plan.planes.emplace();
  plan.planes->exact_tokens = 2;
  return plan;
}

CardPlan entropy_plan() {
  CardPlan plan = fixtures::make_plan("to_break_entropy", "", 24, "", "");
  fixtures::add_layer(plan, 0, DType::kF16, {.kv_head_count = 2, .head_dim = 8});
  fixtures::add_rope_table(plan, RopePairing::kHalfSplit, 0, 8);
  for (std::size_t t = 0; t < 24; ++t) plan.token_ids[t] = static_cast<std::int32_t>(t % 5);
  plan.entropy.emplace();
  plan.entropy->step = fixtures::step_for(9.0);
  plan.entropy->exact_tokens = 1;
  plan.entropy->fine_tokens = 1;
  return plan;
}

void add_table(std::vector<Place>& places, std::uint64_t offset, std::uint64_t count, std::uint64_t stride) {
  for (std::uint64_t i = 0; i < count; ++i) places.push_back({Place::In::kHeader, 0, offset + i * stride});
}

void add_table_of(std::vector<Place>& places, const Place& payload, std::uint64_t offset, std::uint64_t count,
                  std::uint64_t stride) {
  for (std::uint64_t i = 0; i < count; ++i) places.push_back({payload.in, payload.frame, offset + i * stride});
}

/// `count` records of one size from `at` on, in every payload of a type.
void add_payloads(std::vector<Place>& places, const CardSurgeon& card, SectionType type, std::uint64_t at,
                  const std::function<std::uint64_t(std::span<const std::byte>)>& count, std::uint64_t size) {
  for (std::size_t i = 0; i < card.frames.size(); ++i) {
    const auto& frame = card.frames[i];
    if (frame.header.section_type != static_cast<std::uint16_t>(type) || frame.header.compressor != 0)
      continue;
    const std::uint64_t records = count(frame.payload);
    for (std::uint64_t k = 0; k < records; ++k) places.push_back({Place::In::kPayload, i, at + k * size});
  }
}

std::uint64_t one(std::span<const std::byte>) { return 1; }

}  // namespace

std::vector<NamedCard> cards_to_break() {
  std::vector<NamedCard> cards;
  for (const CardPlan& plan : {full_plan(), source_plan(), zstd_plan(), planes_plan(), entropy_plan()}) {
    cards.push_back({plan.name, fixtures::build(plan).value()});
  }
  std::vector<CardPlan> profiles;
  fixtures::add_profile_cards(profiles);
  cards.push_back({profiles.front().name, fixtures::build(profiles.front()).value()});
  return cards;
}

std::vector<std::byte> smallest_card() {
  CardPlan plan = fixtures::make_plan("smallest", "", 2, "", "");
  fixtures::add_stream(plan, 0, StreamKind::kKey, DType::kF16, {.head_dim = 4});
  plan.texts = {"two"};
  plan.optional_features = kFeatureText;
  return fixtures::build(plan).value();
}

template <>
std::vector<Place> places_of<Prologue>(const CardSurgeon&) {
  return {{Place::In::kPrologue, 0, 0}};
}
template <>
std::vector<Place> places_of<Trailer>(const CardSurgeon&) {
  return {{Place::In::kTrailer, 0, 0}};
}
template <>
std::vector<Place> places_of<HeaderRecord>(const CardSurgeon&) {
  return {{Place::In::kHeader, 0, 0}};
}
template <>
std::vector<Place> places_of<FrameHeader>(const CardSurgeon& card) {
  std::vector<Place> places;
  for (std::size_t i = 0; i < card.frames.size(); ++i) places.push_back({Place::In::kFrame, i, 0});
  return places;
}
template <>
std::vector<Place> places_of<StreamRecord>(const CardSurgeon& card) {
  std::vector<Place> places;
  const HeaderRecord record = card.header_record();
  add_table(places, record.stream_offset, record.stream_count, record.stream_stride);
  return places;
}
template <>
std::vector<Place> places_of<PartRecord>(const CardSurgeon& card) {
  std::vector<Place> places;
  const HeaderRecord record = card.header_record();
  add_table(places, record.part_offset, record.part_count, record.part_stride);
  return places;
}
template <>
std::vector<Place> places_of<SegmentRecord>(const CardSurgeon& card) {
  std::vector<Place> places;
  const HeaderRecord record = card.header_record();
  add_table(places, record.segment_offset, record.segment_count, record.segment_stride);
  return places;
}
template <>
std::vector<Place> places_of<IdentityRecord>(const CardSurgeon& card) {
  std::vector<Place> places;
  const HeaderRecord record = card.header_record();
  add_table(places, record.identity_offset, record.identity_count, record.identity_stride);
  return places;
}

/// Records of payloads: {section, the record before them or none, how many there are}.
template <class Record>
std::vector<Place> first_records(const CardSurgeon& card, SectionType type) {
  std::vector<Place> places;
  add_payloads(places, card, type, 0, one, encoded_size<Record>());
  return places;
}
template <>
std::vector<Place> places_of<PositionRun>(const CardSurgeon& card) {
  if (card.header_record().token_count == 0) return {};  // a profile has none
  return first_records<PositionRun>(card, SectionType::kPositions);
}
template <>
std::vector<Place> places_of<MapHeader>(const CardSurgeon& card) {
  return first_records<MapHeader>(card, SectionType::kBitWidthMap);
}
template <>
std::vector<Place> places_of<ParameterHeader>(const CardSurgeon& card) {
  return first_records<ParameterHeader>(card, SectionType::kParameters);
}
template <>
std::vector<Place> places_of<RopeTableHeader>(const CardSurgeon& card) {
  return first_records<RopeTableHeader>(card, SectionType::kRopeTable);
}
template <>
std::vector<Place> places_of<LanesHeader>(const CardSurgeon& card) {
  return first_records<LanesHeader>(card, SectionType::kLanes);
}
template <>
std::vector<Place> places_of<LaneStreamRecord>(const CardSurgeon& card) {
  std::vector<Place> places;
  add_payloads(
      places, card, SectionType::kLanes, encoded_size<LanesHeader>(),
      [](auto payload) { return load<LanesHeader>(payload).stream_count; }, encoded_size<LaneStreamRecord>());
  return places;
}
template <>
std::vector<Place> places_of<ProfileRecord>(const CardSurgeon& card) {
  return first_records<ProfileRecord>(card, SectionType::kModelProfile);
}
/// Heads of chunks of a codec.
std::vector<Place> chunk_heads(const CardSurgeon& card, Codec codec) {
  std::vector<Place> places;
  for (std::size_t i = 0; i < card.frames.size(); ++i) {
    const FrameHeader& frame = card.frames[i].header;
    const bool chunk = frame.section_type == static_cast<std::uint16_t>(SectionType::kChunk);
    if (chunk && frame.codec == static_cast<std::uint8_t>(codec)) places.push_back({Place::In::kPayload, i, 0});
  }
  return places;
}
template <>
std::vector<Place> places_of<EntropyRecord>(const CardSurgeon& card) {
  return chunk_heads(card, Codec::kEntropy);
}
template <>
std::vector<Place> places_of<StripRecord>(const CardSurgeon& card) {
  std::vector<Place> places;
  for (const Place& head : places_of<EntropyRecord>(card)) {
    const auto count = load<EntropyRecord>(card.frames[head.frame].payload).strip_count;
    add_table_of(places, head, encoded_size<EntropyRecord>(), count, encoded_size<StripRecord>());
  }
  return places;
}
template <>
std::vector<Place> places_of<PlanesRecord>(const CardSurgeon& card) {
  return chunk_heads(card, Codec::kPlanes);
}
template <>
std::vector<Place> places_of<PlaneRecord>(const CardSurgeon& card) {
  std::vector<Place> places;
  for (const Place& head : places_of<PlanesRecord>(card)) {
    const auto& frame = card.frames[head.frame];
    const auto count = load<PlanesRecord>(frame.payload).plane_count;
    std::uint64_t at = frame.header.digest_size - count * encoded_size<PlaneRecord>();
    for (std::uint32_t p = 0; p < count; ++p, at += encoded_size<PlaneRecord>()) {
      places.push_back({Place::In::kPayload, head.frame, at});
    }
  }
  return places;
}
template <>
std::vector<Place> places_of<SourceLayoutHeader>(const CardSurgeon& card) {
  return first_records<SourceLayoutHeader>(card, SectionType::kSourceLayout);
}
template <>
std::vector<Place> places_of<ProvenanceHeader>(const CardSurgeon& card) {
  return first_records<ProvenanceHeader>(card, SectionType::kProvenance);
}
template <>
std::vector<Place> places_of<SummaryHeader>(const CardSurgeon& card) {
  return first_records<SummaryHeader>(card, SectionType::kSummary);
}
template <>
std::vector<Place> places_of<SourceOperation>(const CardSurgeon& card) {
  std::vector<Place> places;
  add_payloads(
      places, card, SectionType::kSourceLayout, encoded_size<SourceLayoutHeader>(),
      [](auto payload) { return load<SourceLayoutHeader>(payload).operation_count; },
      encoded_size<SourceOperation>());
  return places;
}
template <>
std::vector<Place> places_of<OrderRun>(const CardSurgeon& card) {
  std::vector<Place> places;
  const std::uint64_t operations = places_of<SourceOperation>(card).size() * encoded_size<SourceOperation>();
  add_payloads(
      places, card, SectionType::kSourceLayout, encoded_size<SourceLayoutHeader>() + operations,
      [](auto payload) { return load<SourceLayoutHeader>(payload).order_run_count; },
      encoded_size<OrderRun>());
  return places;
}
template <>
std::vector<Place> places_of<ProvenanceStep>(const CardSurgeon& card) {
  std::vector<Place> places;
  add_payloads(
      places, card, SectionType::kProvenance, encoded_size<ProvenanceHeader>(),
      [](auto payload) { return load<ProvenanceHeader>(payload).step_count; },
      encoded_size<ProvenanceStep>());
  return places;
}
template <>
std::vector<Place> places_of<SummaryStage>(const CardSurgeon& card) {
  std::vector<Place> places;
  add_payloads(
      places, card, SectionType::kSummary, encoded_size<SummaryHeader>(),
      [](auto payload) { return load<SummaryHeader>(payload).stage_count; }, encoded_size<SummaryStage>());
  return places;
}
template <>
std::vector<Place> places_of<SummaryWidth>(const CardSurgeon& card) {
  std::vector<Place> places;
  const std::uint64_t stages = places_of<SummaryStage>(card).size() * encoded_size<SummaryStage>();
  add_payloads(
      places, card, SectionType::kSummary, encoded_size<SummaryHeader>() + stages,
      [](auto payload) { return load<SummaryHeader>(payload).width_count; }, encoded_size<SummaryWidth>());
  return places;
}

}  // namespace cachecard::tests
