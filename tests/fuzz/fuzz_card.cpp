// Any bytes as a card: verify from a stream and open with every section and row read. The verdicts of
// both must agree that it is a card, and code 90 (internal) must never appear.

#include <cstdlib>

#include "cachecard/reader.hpp"

using namespace cachecard;

namespace {

void expect(bool condition) {
  if (!condition) std::abort();
}

void never_internal(const Error& error) { expect(error.code != ErrorCode::kInternal); }

void read_stream(const CardReader& card, std::size_t index) {
  const StreamRecord& stream = card.header().streams[index];
  if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) return;
  std::vector<float> values(stream.token_count * row_elements(stream));
  DecodeTarget target;
  target.base = values.data();
  target.channel_stride = sizeof(float);
  target.head_stride = static_cast<std::int64_t>(stream.head_dim * sizeof(float));
  target.token_stride = static_cast<std::int64_t>(row_elements(stream) * sizeof(float));
  const Status read = card.decode({index, stream.first_token, stream.token_count, false}, target);
  if (!read) never_internal(read.error());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const MemorySource source(std::as_bytes(std::span(data, size)));
  SourceStream stream(source);
  VerifyOptions options;
  options.decode = true;
  const auto verified = verify(stream, options);
  if (!verified) never_internal(verified.error());
  const auto card = CardReader::open(source);
  expect(card || !verified);  // what verify takes, the reader opens
  if (!card) {
    never_internal(card.error());
    return 0;
  }
  for (std::size_t i = 0; i < card->frames().size(); ++i) {
    if (auto section = card->read_section(i); !section) never_internal(section.error());
  }
  for (std::size_t i = 0; i < card->header().streams.size(); ++i) read_stream(*card, i);
  if (auto layout = card->source_layout(); !layout) never_internal(layout.error());
  return 0;
}
