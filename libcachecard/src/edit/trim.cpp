#include "cachecard/edit.hpp"
#include "edit/kept_sections.hpp"

namespace cachecard {
namespace {

CardHeader trimmed_header(const CardReader& card, const Cut& cut, std::span<const SegmentRecord> segments,
                          std::int64_t last_position) {
  CardHeader header = card.header();
  header.token_count = cut.end - cut.first;
  if (cut.first > 0) header.flags |= kHeaderNotAPrefix;
  if (!cut.whole_layers) header.flags |= kHeaderPartialLayers;
  if (!cut.whole_tokens) header.next_position = last_position + 1;
  header.restorable_from = header.restorable_from > cut.first ? header.restorable_from - cut.first : 0;
  header.streams.clear();
  for (StreamRecord stream : card.header().streams) {
    if (!cut.keeps_layer(stream.layer)) continue;
    if (!is_opaque(stream)) {
      const TokenSpan span = cut.clip(stream.first_token, stream.token_count);
      stream.first_token = span.first_token;
      stream.token_count = span.token_count;
    }
    header.streams.push_back(stream);
  }
  header.segments.assign(segments.begin(), segments.end());
  return header;
}

ProvenanceEntry trim_step(const CardReader& card, const std::vector<ProvenanceEntry>& before, const Cut& cut,
                                  const TrimOptions& options) {
  ProvenanceEntry entry;
  entry.hop = before.empty() ? 0 : before.back().hop;
  entry.operation = ProvenanceOp::kTrim;
  entry.time = options.time.value_or(0);
  entry.parent_root = card.trailer().root;
  entry.text = describe(cut, options);
  return entry;
}

}  // namespace

Result<TrimReport> trim(const CardReader& card, ByteSink& sink, const TrimOptions& options) {
  auto cut = plan_cut(card.header(), options);
  if (!cut) return cut.error();
  if (Status s = check_restorable(card.header(), *cut); !s) return s.error();
  auto runs = card.positions();
  if (!runs) return runs.error();
  const std::vector<std::int32_t> positions = expand_positions(*runs);
  KeptSections kept(card, *cut, options, {});
  const CardHeader header = trimmed_header(card, *cut, kept.segments(), positions[cut->end - 1]);
  auto writer = CardWriter::create(sink, header, card.prologue().required_features, 0, card.limits());
  if (!writer) return writer.error();
  if (Status s = kept.write(header, *writer); !s) return s.error();
  auto steps = card.provenance();
  if (!steps) return steps.error();
  steps->push_back(trim_step(card, *steps, *cut, options));
  auto added = writer->add(make_frame(SectionType::kProvenance), encode_provenance(*steps));
  if (!added) return added.error();
  auto written = writer->finish();
  if (!written) return written.error();
  return TrimReport{*written, kept.dropped(), kept.copied_chunks(), kept.cut_chunks(), kept.lowered_chunks()};
}

}  // namespace cachecard
