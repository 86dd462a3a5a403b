#include "reader/chunk_context.hpp"

#include "format/record_check.hpp"
#include "reader/payload.hpp"

namespace cachecard {
namespace {

/// The index of a section that was named by digest. Needs: FrameWalk saw that it stands before.
std::optional<std::size_t> find_named(const CardReader& card, SectionType type, std::uint64_t digest) {
  const auto frames = card.frames();
  for (std::size_t i = 0; i < frames.size(); ++i) {
    if (frames[i].section_type == static_cast<std::uint16_t>(type) && frames[i].stored_digest == digest) return i;
  }
  return std::nullopt;
}

/// Reads and parses a section that was named by digest.
template <class T, class Parse>
Result<std::shared_ptr<const T>> read_named(const CardReader& card, SectionType type, std::uint64_t digest, Parse&& parse) {
  const auto index = find_named(card, type, digest);
  if (!index) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "parameters",
                 "no such " + std::string(name_of(type)) + " section stands before"};
  }
  auto payload = card.read_section(*index);
  if (!payload) return payload.error();
  Result<T> parsed = parse(std::span<const std::byte>(*payload));
  if (!parsed) return at_payload(parsed.error(), card.frames()[*index]);
  return std::shared_ptr<const T>(std::make_shared<T>(std::move(*parsed)));
}

Error parameter_error(const FrameHeader& frame, std::string detail) {
  return field_error(ErrorCode::kCorrupt, frame.offset, &FrameHeader::parameter_digest, std::move(detail));
}

template <class T>
Result<std::shared_ptr<const T>> shared(Result<T> made) {
  if (!made) return made.error();
  return std::shared_ptr<const T>(std::make_shared<T>(std::move(*made)));
}

}  // namespace

Result<std::shared_ptr<const RopeTable>> ContextCache::rope_table(const CardReader& card, std::uint64_t digest) {
  return tables_.get(digest, [&] { return read_named<RopeTable>(card, SectionType::kRopeTable, digest, parse_rope_table); });
}

Result<std::shared_ptr<const ContextCache::OpenedStream>> ContextCache::stream(const CardReader& card,
                                                                              const FrameHeader& frame) {
  const std::size_t index = *card.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  return streams_.get({frame.parameter_digest, index}, [&]() -> Result<std::shared_ptr<const OpenedStream>> {
    auto parameters = card.parameters(frame.parameter_digest);
    if (!parameters) return parameters.error();
    std::shared_ptr<const RopeTable> table;
    if (parameters->record.rope_removed == 1) {
      auto found = rope_table(card, parameters->record.rope_table_digest);
      if (!found) return found.error();
      table = *found;
    }
    const StreamRecord& record = card.header().streams[index];
    if (Status s = check_planes_parameters(record, *parameters, table == nullptr ? nullptr : &table->record); !s) {
      return parameter_error(frame, s.error().detail);
    }
    PlanesStream opened(record, *parameters, table.get());
    parameters->data.clear();
    return std::shared_ptr<const OpenedStream>(
        std::make_shared<OpenedStream>(OpenedStream{std::move(opened), std::move(*parameters), table}));
  });
}

Result<std::shared_ptr<const PlanesTokens>> ContextCache::tokens(const CardReader& card, const FrameHeader& frame) {
  auto map = maps_.get(frame.segment, [&] { return shared(card.map(frame.segment)); });
  if (!map) return map.error();
  const std::size_t index = *card.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  const std::size_t use = BitWidthMap::first_use(card.header(), index);
  const TokensKey key{frame.segment,      (*map)->row_of[use], (*map)->base[index], (*map)->cap[index],
                      frame.first_token, frame.token_count};
  // The rows of a stream's other heads are not in the key: they must be the same one.
  for (std::uint32_t head = 0; head < card.header().streams[index].kv_head_count; ++head) {
    if ((*map)->row_of[use + head] != key.row) return planes_tokens(card.header(), **map, frame).error();
  }
  return tokens_.get(key, [&] { return shared(planes_tokens(card.header(), **map, frame)); });
}

Result<std::shared_ptr<const Angles>> ContextCache::angles(const CardReader& card, const FrameHeader& frame,
                                                           const Parameters& parameters, const RopeTable* table,
                                                           std::int64_t rope_shift) {
  if (table == nullptr) return std::shared_ptr<const Angles>();
  const std::uint64_t digest = parameters.record.positions_digest;
  const auto index = card.find(SectionType::kPositions, frame.segment);
  if (!index || card.frames()[*index].stored_digest != digest) {
    return parameter_error(frame, "the parameters name the positions of another segment");
  }
  const SegmentRecord& segment = card.header().segments[frame.segment];
  auto positions = positions_.get(frame.segment, [&]() -> Result<std::shared_ptr<const Positions>> {
    auto payload = card.read_section(*index);
    if (!payload) return payload.error();
    auto runs = parse_positions(*payload, segment.token_count);
    if (!runs) return at_payload(runs.error(), card.frames()[*index]);
    return std::shared_ptr<const Positions>(std::make_shared<Positions>(expand_positions(*runs)));
  });
  if (!positions) return positions.error();
  auto span =
      std::span<const std::int32_t>(**positions).subspan(frame.first_token - segment.first_token, frame.token_count);
  Positions moved;
  if (rope_shift != 0) {
    moved.assign(span.begin(), span.end());
    for (std::int32_t& position : moved) position = static_cast<std::int32_t>(position + rope_shift);
    span = moved;
  }
  return angles_.get({parameters.record.rope_table_digest, frame.first_token, frame.token_count, rope_shift}, *table,
                     span);
}

Result<PlanesContext> ContextCache::open(const CardReader& card, const FrameHeader& frame, std::int64_t rope_shift) {
  auto opened = stream(card, frame);
  if (!opened) return opened.error();
  auto plan = tokens(card, frame);
  if (!plan) return plan.error();
  auto turned = angles(card, frame, (*opened)->parameters, (*opened)->table.get(), rope_shift);
  if (!turned) return turned.error();
  return PlanesContext{std::shared_ptr<const PlanesStream>(*opened, &(*opened)->stream), *plan, *turned};
}

Result<std::shared_ptr<const Lanes>> ContextCache::lanes(const CardReader& card, std::uint64_t digest) {
  return lanes_.get(digest, [&] { return read_named<Lanes>(card, SectionType::kLanes, digest, parse_lanes); });
}

Result<std::shared_ptr<const References>> ContextCache::references(const CardReader& card, const FrameHeader& frame,
                                                                   std::uint64_t digest) {
  if (digest == 0) return std::shared_ptr<const References>();
  const std::uint64_t count = card.header().segments[frame.segment].token_count;
  auto found = references_.get(digest, [&] {
    return read_named<References>(card, SectionType::kReferences, digest,
                                  [&](auto payload) { return parse_references(payload, payload.size() / 2); });
  });
  if (found && (*found)->size() != count) return parameter_error(frame, "the references are of another segment");
  return found;
}

Result<std::shared_ptr<const ContextCache::OpenedEntropy>> ContextCache::entropy_stream(const CardReader& card,
                                                                                       const FrameHeader& frame) {
  const std::size_t index = *card.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  return entropy_streams_.get({frame.parameter_digest, index}, [&]() -> Result<std::shared_ptr<const OpenedEntropy>> {
    auto parameters = card.parameters(frame.parameter_digest);
    if (!parameters) return parameters.error();
    std::shared_ptr<const RopeTable> table;
    if (parameters->record.rope_removed == 1) {
      auto found = rope_table(card, parameters->record.rope_table_digest);
      if (!found) return found.error();
      table = *found;
    }
    auto all = lanes(card, parameters->record.lanes_digest);
    if (!all) return all.error();
    const StreamRecord& record = card.header().streams[index];
    const LaneStream* own = (*all)->find(record.layer, record.stream);
    if (Status s = check_entropy_parameters(record, *parameters, own, table == nullptr ? nullptr : &table->record); !s) {
      return parameter_error(frame, s.error().detail);
    }
    EntropyStream opened(record, *parameters, *own, table.get());
    return std::shared_ptr<const OpenedEntropy>(
        std::make_shared<OpenedEntropy>(OpenedEntropy{std::move(opened), std::move(*parameters), table}));
  });
}

Result<std::shared_ptr<const EntropyTokens>> ContextCache::entropy_tokens_of(const CardReader& card,
                                                                             const FrameHeader& frame) {
  auto map = maps_.get(frame.segment, [&] { return shared(card.map(frame.segment)); });
  if (!map) return map.error();
  const std::size_t index = *card.header().stream_index(frame.layer, static_cast<StreamKind>(frame.stream));
  return entropy_tokens_.get({frame.segment, index, frame.first_token},
                             [&] { return shared(entropy_tokens(card.header(), **map, frame)); });
}

Result<EntropyContext> ContextCache::open_entropy(const CardReader& card, const FrameHeader& frame,
                                                  std::int64_t rope_shift) {
  auto opened = entropy_stream(card, frame);
  if (!opened) return opened.error();
  auto tokens = entropy_tokens_of(card, frame);
  if (!tokens) return tokens.error();
  EntropyContext context{std::shared_ptr<const EntropyStream>(*opened, &(*opened)->stream), *tokens, {}, {}, {}};
  auto named = references(card, frame, (*opened)->parameters.record.references_digest);
  if (!named) return named.error();
  if (*named != nullptr) {
    context.references = *named;
    context.chunk_references = std::span<const std::uint16_t>(**named).subspan(
        frame.first_token - card.header().segments[frame.segment].first_token, frame.token_count);
    if (Status s = check_references(frame, context.chunk_references); !s) return s.error();
  }
  auto turned = angles(card, frame, (*opened)->parameters, (*opened)->table.get(), rope_shift);
  if (!turned) return turned.error();
  context.angles = *turned;
  return context;
}

}  // namespace cachecard
