#include <algorithm>

#include "writer/card_builder.hpp"
#include "writer/card_order.hpp"

namespace cachecard {
namespace {

constexpr double kMostUsed = 0.9985;   ///< of CardOptions::file_bytes, as a first try aims at
constexpr double kLeastUsed = 0.9955;  ///< a first try that uses as much is kept
constexpr int kMostTries = 6;
constexpr double kLeastBits = 0.05;
constexpr double kMostBits = 4096.0;
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

/// The card with the coarsest steps, where that is all that the budget lets be had.
Status take_coarsest(const CacheSource& source, CardOptions& options) {
  CountSink count;
  options.entropy->step = kLargestStep;
  auto least = write_once(source, count, options);
  if (!least) return least.error();
  if (least->file_size <= options.file_bytes) return {};
  return budget_error("found " + std::to_string(options.file_bytes) + ", the smallest card takes " + std::to_string(least->file_size));
}

/// Sets entropy.bits so that the file takes about options.file_bytes and no more. What comes out is counted: along the slope of a
/// byte for eight bits first, between what fits and what does not once there is both.
Status find_bits(const CacheSource& source, CardOptions& options) {
  const double values = float_value_count(source.header());
  if (values == 0.0) return budget_error("allowed where there are f32, f16 or bf16 values to code");
  const auto bytes = static_cast<double>(options.file_bytes);
  CountSink count;
  double bits = std::clamp(8.0 * kMostUsed * bytes / values, kLeastBits, kMostBits);
  double fits = 0.0;  // bits that do, and what they used
  double used_by_fits = 0.0;
  double over = 0.0;  // bits that do not
  for (int tries = 0; tries < kMostTries; ++tries) {
    options.entropy->bits = bits;
    auto made = write_once(source, count, options);
    if (!made && made.error().code != ErrorCode::kInvalidArgument) return made.error();
    if (!made) break;  // so few bits cannot be had
    const auto used = static_cast<double>(made->file_size);
    if (used > bytes) {
      over = bits;
    } else {
      const bool grows = used > used_by_fits * 1.001;  // else steps are as fine as they get
      fits = bits;
      used_by_fits = used;
      if (used >= kLeastUsed * bytes || !grows) break;
    }
    bits += 8.0 * (kMostUsed * bytes - used) / values;
    if (fits > 0.0 && over > 0.0 && !(bits > fits && bits < over)) bits = (fits + over) / 2.0;
    bits = std::clamp(bits, kLeastBits, kMostBits);
  }
  if (fits == 0.0) return take_coarsest(source, options);
  options.entropy->bits = fits;
  return {};
}

}  // namespace

Result<WriteReport> write_card(const CacheSource& source, ByteSink& sink, const CardOptions& options) {
  if (options.file_bytes == 0) return write_once(source, sink, options);
  if (!options.entropy || options.entropy->step != 0.0) return budget_error("allowed with entropy alone, and no step of one's own");
  CardOptions within = options;
  within.progress = nullptr;  // only what is written counts
  if (Status s = find_bits(source, within); !s) return s.error();
  within.progress = options.progress;
  return write_once(source, sink, within);
}

}  // namespace cachecard
