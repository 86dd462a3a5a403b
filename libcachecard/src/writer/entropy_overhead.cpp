#include <set>

#include "cachecard/digest.hpp"
#include "codec/byte_compressor.hpp"
#include "format/framing.hpp"
#include "writer/entropy_plan.hpp"

namespace cachecard {
namespace {

constexpr std::uint64_t kAlignment = 64;
/// Its frame header, the same again in the directory, and padding.
constexpr std::uint64_t kFrameBytes = 2 * kFrameHeaderSize + kAlignment / 2;
constexpr std::uint64_t kSummaryBytes = 1024;  ///< about

std::uint64_t framed(std::uint64_t payload) { return payload + kFrameBytes; }

}  // namespace

Result<std::uint64_t> EntropyPlan::overhead() const {
  const SegmentRecord& segment = header_.segments[segment_];
  const auto map = encode_map(map_);
  auto packed = compress(map_compressor(), map, 1, options_.zstd_level);
  if (!packed) return packed.error();
  std::uint64_t bytes = framed(packed->empty() ? map.size() : packed->size());
  if ((header_.flags & kHeaderTokensUnknown) == 0) bytes += framed(4 * segment.token_count);
  const auto positions = source_.positions().subspan(segment.first_token, segment.token_count);
  bytes += framed(encode_positions(position_runs(positions)).size());
  std::uint64_t chunks = 0;
  std::set<std::uint64_t> parameters;  // equal ones are written once
  for (const auto& [s, learned] : learned_) {
    const auto payload = encode_parameters(learned.parameters);
    if (parameters.insert(digest64(payload)).second) bytes += framed(payload.size());
    chunks += learned.spans.size();
  }
  bytes += chunks * (kFrameBytes - kFrameHeaderSize);  // their headers are counted with them
  bytes += (1 + references_.size()) * kFrameBytes;     // lanes and references
  if (segment_ > 0) return bytes;
  auto header = encode_header(header_, options_.limits);
  if (!header) return header.error();
  bytes += header->size() + kPrologueSize + kTrailerSize + framed(kSummaryBytes) + framed(options_.provenance.text.size()) + kFrameBytes;
  if (const RopeTable* table = source_.rope_table()) bytes += framed(encode_rope_table(*table).size());
  return bytes;
}

}  // namespace cachecard
