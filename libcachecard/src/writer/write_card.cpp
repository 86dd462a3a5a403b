#include "writer/card_builder.hpp"

namespace cachecard {

Result<WriteReport> write_card(const CacheSource& source, ByteSink& sink, const CardOptions& options) {
  CardHeader header = source.header();
  for (SegmentRecord& segment : header.segments) {
    segment.chunk_order = static_cast<std::uint8_t>(options.chunk_order);
  }
  if (Status s = check_card_options(source, header, options); !s) return s.error();
  const bool has_layout = options.source_layout && source.source_layout() != nullptr;
  std::uint64_t optional = has_layout ? kFeatureSourceLayout : 0;
  if (!source.text().empty()) optional |= kFeatureText;
  auto writer = CardWriter::create(sink, header, required_features(header, options, has_layout), optional,
                                   options.limits);
  if (!writer) return writer.error();
  CardBuilder builder(source, header, *writer, options);
  if (has_layout) {
    if (Status s = builder.add_source_layout(); !s) return s.error();
  }
  if (Status s = builder.add_rope_table(); !s) return s.error();
  if (Status s = builder.add_segments(0); !s) return s.error();
  const ProvenanceEntry entries[] = {options.provenance};
  if (auto added = writer->add(make_frame(SectionType::kProvenance), encode_provenance(entries)); !added) return added.error();
  auto report = writer->finish();
  if (report) report->raw_chunks = builder.take_raw_chunks();
  return report;
}

}  // namespace cachecard
