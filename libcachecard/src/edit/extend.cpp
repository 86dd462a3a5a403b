#include <algorithm>

#include "edit/card_text.hpp"
#include "edit/extend_check.hpp"
#include "edit/extend_match.hpp"
#include "edit/kept_sections.hpp"
#include "edit/level_offsets.hpp"
#include "edit/shared_lanes.hpp"
#include "format/record_check.hpp"
#include "writer/card_builder.hpp"

namespace cachecard {
namespace {

/// STATE as the new card has it: token and stream numbers are the same, spans and segments are the card's.
class ContinuedSource final : public CacheSource {
 public:
  ContinuedSource(const CacheSource& state, const CardHeader& header, const std::optional<RopeTable>& table,
                  std::string_view text)
      : state_(state), header_(header), table_(table), text_(text) {}

  const CardHeader& header() const override { return header_; }
  std::span<const std::int32_t> token_ids() const override { return state_.token_ids(); }
  std::span<const std::int32_t> positions() const override { return state_.positions(); }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count, std::span<std::byte> out) const override {
    return state_.read_rows(stream, first, count, out);
  }
  Status read_opaque(std::size_t stream, std::uint64_t offset, std::span<std::byte> out) const override {
    return state_.read_opaque(stream, offset, out);
  }
  const SourceLayout* source_layout() const override { return state_.source_layout(); }
  Status read_literals(std::uint64_t offset, std::span<std::byte> out) const override {
    return state_.read_literals(offset, out);
  }
  const RopeTable* rope_table() const override { return table_ ? &*table_ : nullptr; }
  std::string_view text() const override { return text_; }

 private:
  const CacheSource& state_;
  const CardHeader& header_;
  const std::optional<RopeTable>& table_;
  std::string_view text_;
};

Error tokens_error(const Parting& parting) {
  return {ErrorCode::kPositionMismatch, kNoOffset, "token_ids",
          "BASE and STATE part at token 0: BASE has id " + std::to_string(parting.base_id) + " at position " +
              std::to_string(parting.base_position) + ", STATE id " + std::to_string(parting.state_id) + " at position " +
              std::to_string(parting.state_position) + " (nothing of BASE can be kept: use convert)"};
}

Status check_tokens_known(const CardHeader& base, const CardHeader& state) {
  const bool of_base = (base.flags & kHeaderTokensUnknown) != 0;
  if (!of_base && (state.flags & kHeaderTokensUnknown) == 0) return {};
  return Error{ErrorCode::kTokensUnknown, kNoOffset, "header.flags",
               std::string(of_base ? "BASE" : "STATE") + " has no token ids, so nothing tells whether STATE begins with BASE"};
}

/// The most tokens up to `most` that end a chunk in every stream.
std::uint64_t whole_chunks(const CardReader& base, std::uint64_t most) {
  for (bool moved = true; moved;) {
    moved = false;
    for (std::size_t s = 0; s < base.header().streams.size(); ++s) {
      if (is_opaque(base.header().streams[s])) continue;
      for (const std::uint32_t index : base.chunks(s)) {
        const FrameHeader& frame = base.frames()[index];
        if (frame.first_token >= most || frame.first_token + frame.token_count <= most) continue;
        most = frame.first_token;
        moved = true;
      }
    }
  }
  return most;
}

class Extension {
 public:
  Extension(const CardReader& base, const CacheSource& state, const ExtendOptions& options)
      : base_(base), state_(state), options_(options), card_(options.card) {}

  Result<ExtendReport> run(ByteSink& sink);

 private:
  Status match();
  Status find_kept();
  Status compare_media(std::uint64_t common);
  Status make_header(const std::vector<SegmentRecord>& segments);
  Status place_stream(StreamRecord& stream);
  void place_windows();
  Status set_bits();
  Status add_new(CardWriter& writer, const KeptSections& kept, const CacheSource& source);
  Status add_provenance(CardWriter& writer);

  const CardReader& base_;
  const CacheSource& state_;
  const ExtendOptions& options_;
  CardOptions card_;
  IdentityMatch identity_;
  std::optional<RopeTable> table_;
  CardHeader header_;
  double predicted_error_ = 0.0;
  bool layout_fits_ = true;  ///< every stream holds what STATE's own file does
  ExtendReport report_;
};

Status Extension::match() {
  auto identity = match_base(base_.header().identity, state_.header().identity, options_.allow);
  if (!identity) return identity.error();
  identity_ = *std::move(identity);
  if (Status s = match_geometry(base_.header(), state_.header()); !s) return s;
  if (Status s = check_tokens_known(base_.header(), state_.header()); !s) return s;
  auto table = match_rope_table(base_, state_.rope_table());
  if (!table) return table.error();
  table_ = *std::move(table);
  return {};
}

/// Tokens without an id say nothing by themselves: their values must be BASE's.
Status Extension::compare_media(std::uint64_t common) {
  const auto ids = state_.token_ids().first(common);
  const auto first = std::find_if(ids.begin(), ids.end(), [](std::int32_t id) { return id < 0; });
  if (first == ids.end()) return {};
  const auto begin = static_cast<std::uint64_t>(first - ids.begin());
  auto misfits = find_misfits(base_, state_, {begin, common - begin}, card_.parallel);
  if (!misfits) return misfits.error();
  std::optional<std::uint64_t> other;
  for (const Misfit& misfit : *misfits) {
    if (ids[misfit.token] < 0) other = std::min(other.value_or(misfit.token), misfit.token);
  }
  if (!other) return {};
  const std::int32_t position = state_.positions()[*other];
  report_.parting = Parting{*other, ids[*other], ids[*other], position, position};
  return {};
}

Status Extension::find_kept() {
  const std::uint64_t base_count = base_.header().token_count;
  const std::uint64_t state_count = state_.header().token_count;
  auto tokens = tokens_of(base_);
  if (!tokens) return tokens.error();
  report_.parting = find_parting(*tokens, state_);
  if (!report_.parting && state_count < base_count) {
    return Error{ErrorCode::kPositionMismatch, kNoOffset, "header.token_count",
                 "STATE ends within BASE: it has " + std::to_string(state_count) + " tokens, BASE " +
                     std::to_string(base_count) + " (trim --tokens :" + std::to_string(state_count) + " cuts BASE to it)"};
  }
  if (Status s = compare_media(report_.parting ? report_.parting->token : base_count); !s) return s;
  if (report_.parting && report_.parting->token == 0) return tokens_error(*report_.parting);
  report_.kept_tokens = report_.parting ? whole_chunks(base_, report_.parting->token) : base_count;
  report_.encoded_tokens = state_count - report_.kept_tokens;
  return {};
}

/// A stream that forgets (a window) keeps whole chunks of BASE that STATE still has a part of.
Status Extension::place_stream(StreamRecord& stream) {
  const std::uint64_t kept = report_.kept_tokens;
  const auto name = [&] {
    return "layer " + std::to_string(stream.layer) + " " + std::string(name_of(static_cast<StreamKind>(stream.stream)));
  };
  const std::uint64_t end = stream.first_token + stream.token_count;
  if (end != header_.token_count) {
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, "stream.token_count",
                 name() + ": STATE holds tokens up to " + std::to_string(end) + ", allowed all up to " +
                     std::to_string(header_.token_count)};
  }
  if (stream.first_token >= kept) return {};
  std::optional<std::uint64_t> first;
  std::uint64_t held = 0;
  for (const std::uint32_t index : base_.chunks(*base_.header().stream_index(stream.layer, static_cast<StreamKind>(stream.stream)))) {
    const FrameHeader& frame = base_.frames()[index];
    if (frame.first_token >= kept || frame.first_token + frame.token_count <= stream.first_token) continue;
    if (!first) first = frame.first_token;
    held = frame.first_token + frame.token_count;
  }
  if (!first && stream.window > 0) {
    // Of what STATE's window still reaches, BASE keeps nothing: the window begins with the new tokens.
    layout_fits_ = false;
    stream.first_token = kept;
    stream.token_count = end - kept;
    return {};
  }
  if (held != kept) {
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, "stream.token_count",
                 name() + ": BASE holds tokens up to " + std::to_string(held) + ", allowed all up to " + std::to_string(kept)};
  }
  layout_fits_ = layout_fits_ && *first <= stream.first_token;
  stream.first_token = *first;
  stream.token_count = end - *first;
  return {};
}

/// spec: FORMAT.md#restorable-prefixes
void Extension::place_windows() {
  if (header_.restorable == Restorable::kWholeOnly) return;
  std::uint64_t from = 0;
  for (const StreamRecord& stream : header_.streams) {
    if (is_opaque(stream) || stream.window == 0 || stream.first_token == 0) continue;
    from = std::max(from, std::min(stream.first_token + stream.window - 1, header_.token_count));
  }
  header_.restorable = from > 0 ? Restorable::kFromCount : Restorable::kAnyPrefix;
  header_.restorable_from = from;
}

Status Extension::make_header(const std::vector<SegmentRecord>& segments) {
  header_ = state_.header();
  header_.flags |= base_.header().flags & kHeaderNotAPrefix;
  header_.identity = identity_.identity;
  header_.segments = segments;
  if (report_.encoded_tokens > 0 || segments.empty()) {
    SegmentRecord added;
    added.first_token = report_.kept_tokens;
    added.token_count = report_.encoded_tokens;
    added.chunk_order = static_cast<std::uint8_t>(card_.chunk_order);
    header_.segments.push_back(added);
  }
  bool moved = false;
  for (StreamRecord& stream : header_.streams) {
    if (is_opaque(stream)) continue;
    const std::uint64_t first = stream.first_token;
    if (Status s = place_stream(stream); !s) return s;
    moved = moved || stream.first_token != first;
  }
  if (moved) place_windows();
  return {};
}

Status Extension::set_bits() {
  if (!options_.bits_of_base || (!card_.planes && !card_.entropy)) return {};
  auto widths = widths_of(base_, card_.planes ? Codec::kPlanes : Codec::kEntropy);
  if (!widths) return widths.error();
  if (card_.entropy) {
    card_.entropy->bits = bits_for(widths->coded_bits, header_, report_.kept_tokens);
    return card_.entropy->fixed_offsets ? Status() : level_offsets(base_, header_, report_.kept_tokens, *card_.entropy);
  }
  card_.planes->layer_bits = std::move(widths->layer_bits);
  card_.planes->key_bits = card_.planes->layer_bits.front().key;
  card_.planes->value_bits = card_.planes->layer_bits.front().value;
  return {};
}

Status Extension::add_new(CardWriter& writer, const KeptSections& kept, const CacheSource& source) {
  CardBuilder builder(source, header_, writer, card_);
  StandingSections standing{kept.named(), {}};
  const bool share = options_.bits_of_base && card_.entropy;
  if (share && report_.kept_tokens > 0 && report_.encoded_tokens > 0) {
    auto lanes = lanes_to_share(base_, header_, report_.kept_tokens, source, card_.parallel);
    if (!lanes) return lanes.error();
    standing.lanes = *std::move(lanes);
  }
  builder.continue_behind(std::move(standing));
  if (card_.source_layout && source.source_layout() != nullptr) {
    if (Status s = builder.add_source_layout(); !s) return s;
  }
  if (Status s = builder.add_rope_table(); !s) return s;
  const auto first = static_cast<std::uint32_t>(kept.segments().size());
  const std::uint64_t before = writer.size();
  if (Status s = first < header_.segments.size() ? builder.add_segments(first) : builder.add_opaque(); !s) return s;
  if (first < header_.segments.size()) report_.added_bytes = writer.size() - before;
  for (const StreamRecord& stream : header_.streams) {
    const std::uint64_t end = stream.first_token + stream.token_count;
    const std::uint64_t begin = std::max(stream.first_token, report_.kept_tokens);
    if (!is_opaque(stream) && end > begin) report_.added_values += (end - begin) * row_elements(stream);
  }
  report_.written.raw_chunks = builder.take_raw_chunks();
  report_.shared_lanes = builder.shares_lanes();
  auto of_card = base_.summary();
  if (!of_card) return of_card.error();
  const double of_base = of_card->predicted_error;
  const double kept_part = static_cast<double>(report_.kept_tokens) / static_cast<double>(std::max<std::uint64_t>(1, header_.token_count));
  // Steps of BASE cost of new tokens what they cost of its own. Where one half has no estimate, the whole has none.
  if (report_.shared_lanes || report_.encoded_tokens == 0) predicted_error_ = of_base;
  else if (builder.predicted_error() > 0.0 && of_base > 0.0) predicted_error_ = kept_part * of_base + builder.predicted_error();
  return {};
}

Status Extension::add_provenance(CardWriter& writer) {
  auto steps = base_.provenance();
  if (!steps) return steps.error();
  ProvenanceEntry step = card_.provenance;
  step.hop = steps->empty() ? 1 : steps->back().hop + 1;
  step.operation = ProvenanceOp::kExtend;
  step.parent_root = base_.trailer().root;
  step.text += ", tokens 0:" + std::to_string(report_.kept_tokens) + " kept, " + std::to_string(report_.kept_tokens) + ":" +
               std::to_string(header_.token_count) + " added";
  steps->push_back(std::move(step));
  auto added = writer.add(make_frame(SectionType::kProvenance), encode_provenance(*steps));
  if (!added) return added.error();
  return {};
}

Result<ExtendReport> Extension::run(ByteSink& sink) {
  if (Status s = match(); !s) return s.error();
  report_.identity = identity_.fields;
  if (Status s = find_kept(); !s) return s.error();
  if (options_.check) {
    auto misfits = find_misfits(base_, state_, {0, report_.kept_tokens}, card_.parallel);
    if (!misfits) return misfits.error();
    if (!misfits->empty()) return misfit_error(state_.header(), misfits->front());
  }
  TrimOptions cut_options;
  Cut cut;
  cut.end = report_.kept_tokens;
  cut.end_layer = base_.header().layer_count;
  const bool whole = !report_.parting;
  KeptSections kept(base_, cut, cut_options, {.text_and_media = true, .opaque = false, .any_copy_safe = whole});
  if (Status s = make_header(kept.segments()); !s) return s.error();
  if (Status s = set_bits(); !s) return s.error();
  auto base_text = text_of(base_);
  if (!base_text) return base_text.error();
  const std::string_view text = state_.text();
  const bool continues = report_.kept_tokens == 0 || (whole && text.size() > base_text->size() && text.starts_with(*base_text));
  const std::string_view added_text = !continues ? std::string_view() : text.substr(report_.kept_tokens == 0 ? 0 : base_text->size());
  const ContinuedSource source(state_, header_, table_, added_text);
  if (Status s = check_card_options(source, header_, card_); !s) return s.error();
  card_.source_layout = card_.source_layout && layout_fits_ && state_.source_layout() != nullptr;
  std::uint64_t optional = base_.prologue().optional_features & ~std::uint64_t{kFeatureSourceLayout | kFeatureCanary};
  if (card_.source_layout) optional |= kFeatureSourceLayout;
  if (!added_text.empty()) optional |= kFeatureText;
  const std::uint64_t required = base_.prologue().required_features | required_features(header_, card_, card_.source_layout);
  auto writer = CardWriter::create(sink, header_, required, optional, card_.limits);
  if (!writer) return writer.error();
  if (Status s = kept.write(header_, *writer); !s) return s.error();
  if (Status s = add_new(*writer, kept, source); !s) return s.error();
  if (Status s = add_provenance(*writer); !s) return s.error();
  auto written = writer->finish(predicted_error_);
  if (!written) return written.error();
  written->raw_chunks = std::move(report_.written.raw_chunks);
  report_.written = *std::move(written);
  report_.dropped = kept.dropped();
  if (card_.source_layout) std::erase(report_.dropped, "source_layout");  // STATE's stands in its place
  for (const StreamRecord& stream : base_.header().streams) {
    if (is_opaque(stream) && !header_.stream_index(stream.layer, StreamKind::kOpaque)) report_.dropped.push_back("opaque state");
  }
  report_.copied_chunks = kept.copied_chunks();
  return std::move(report_);
}

}  // namespace

CardOptions options_of_base(const CardReader& base) {
  CardOptions options;
  const auto last = static_cast<std::uint32_t>(base.header().segments.size() - 1);
  options.chunk_order = static_cast<ChunkOrder>(base.header().segments[last].chunk_order);
  for (const FrameHeader& frame : base.frames()) {
    if (frame.section_type != static_cast<std::uint16_t>(SectionType::kChunk) || frame.segment != last) continue;
    if (frame.compressor != 0) options.compressor = static_cast<Compressor>(frame.compressor);
    if (frame.codec == static_cast<std::uint8_t>(Codec::kPlanes)) options.planes.emplace();
    if (frame.codec == static_cast<std::uint8_t>(Codec::kEntropy)) options.entropy.emplace();
  }
  if (options.entropy) options.planes.reset();
  return options;
}

Result<ExtendReport> extend_card(const CardReader& base, const CacheSource& state, ByteSink& sink,
                                 const ExtendOptions& options) {
  return Extension(base, state, options).run(sink);
}

}  // namespace cachecard
