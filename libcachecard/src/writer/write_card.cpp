#include <algorithm>

#include "writer/card_builder.hpp"
#include "writer/card_order.hpp"

namespace cachecard {
namespace {

constexpr double kMostUsed = 0.9985;   ///< of CardOptions::file_bytes, as a first try aims at
constexpr double kLeastUsed = 0.9955;  ///< a first try that uses as much is kept
constexpr int kMostTries = 3;
constexpr double kLargestStep = 0x1p8;

/// Counts and forgets.
class CountSink final : public ByteSink {
 public:
  Status write(std::span<const std::byte>) override { return {}; }
  Status commit() override { return {}; }
};

Result<WriteReport> write_once(const CacheSource& source, ByteSink& sink, const CardOptions& options) {
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
  std::vector<ProvenanceEntry> entries = options.earlier_provenance;
  entries.push_back(options.provenance);
  if (auto added = writer->add(make_frame(SectionType::kProvenance), encode_provenance(entries)); !added) return added.error();
  auto report = writer->finish(builder.predicted_error());
  if (report) report->raw_chunks = builder.take_raw_chunks();
  return report;
}

Error budget_error(std::string detail) { return {ErrorCode::kInvalidArgument, kNoOffset, "file_bytes", std::move(detail)}; }

double value_count(const CardHeader& header) {
  double values = 0.0;
  for (const StreamRecord& stream : header.streams) {
    if (is_float_stream(stream)) values += static_cast<double>(stream.token_count) * static_cast<double>(row_elements(stream));
  }
  return values;
}

/// Sets entropy.bits so that the file takes about options.file_bytes and no more.
Status find_bits(const CacheSource& source, CardOptions& options) {
  const double values = value_count(source.header());
  if (values == 0.0) return budget_error("allowed where there are f32, f16 or bf16 values to code");
  const auto bytes = static_cast<double>(options.file_bytes);
  const auto progress = std::move(options.progress);
  options.progress = nullptr;  // only what is written counts
  double& bits = options.entropy->bits;
  bits = std::clamp(8.0 * kMostUsed * bytes / values, 0.05, 4096.0);
  CountSink count;
  double before = 0.0;
  for (int tries = 0;; ++tries) {
    auto made = write_once(source, count, options);
    if (!made && made.error().code != ErrorCode::kInvalidArgument) return made.error();
    const double used = made ? static_cast<double>(made->file_size) : 0.0;
    if (!made || (used > bytes && tries == kMostTries)) {
      options.entropy->step = kLargestStep;
      auto least = write_once(source, count, options);
      if (!least) return least.error();
      if (least->file_size <= options.file_bytes) break;  // hardly more than lanes and sinks: coarsest steps, all the same
      return budget_error("found " + std::to_string(options.file_bytes) + ", the smallest card takes " + std::to_string(least->file_size));
    }
    const bool finest = used > 0.0 && used < bytes && used <= before * 1.001;
    if (used <= bytes && (used >= kLeastUsed * bytes || finest || tries == kMostTries)) break;
    bits += 8.0 * (kMostUsed * bytes - used) / values;
    before = used;
  }
  options.progress = progress;
  return {};
}

}  // namespace

Result<WriteReport> write_card(const CacheSource& source, ByteSink& sink, const CardOptions& options) {
  if (options.file_bytes == 0) return write_once(source, sink, options);
  if (!options.entropy || options.entropy->step != 0.0) return budget_error("allowed with entropy alone, and no step of one's own");
  CardOptions within = options;
  if (Status s = find_bits(source, within); !s) return s.error();
  return write_once(source, sink, within);
}

}  // namespace cachecard
