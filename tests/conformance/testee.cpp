#include <cstdio>
#include <cstring>
#include <string>
#include <vector>

#include "cachecard/digest.hpp"
#include "cachecard/reader.hpp"

/// The decoder under test in run_testee, over the C++ API. See README.md for what it prints.
namespace {

using namespace cachecard;

int print_error(const Error& error) {
  std::printf("{\"error\":\"%s\",\"offset\":", std::string(error_info(error.code).name).c_str());
  if (error.offset == kNoOffset) {
    std::printf("null}\n");
  } else {
    std::printf("%llu}\n", static_cast<unsigned long long>(error.offset));
  }
  return error.code == ErrorCode::kOk ? 0 : 1;
}

int run_verify(const ByteSource& source) {
  SourceStream stream(source);
  const auto report = verify(stream, {.decode = true, .limits = {}, .parallel = {}});
  return print_error(report ? Error{ErrorCode::kOk, 0, {}, {}} : report.error());
}

void print_list(const char* name, const std::vector<std::int32_t>& numbers) {
  std::printf("\"%s\":[", name);
  for (std::size_t i = 0; i < numbers.size(); ++i) std::printf("%s%d", i == 0 ? "" : ",", numbers[i]);
  std::printf("],");
}

/// XXH3-64 of a stream's values as f32, or of an opaque stream's bytes.
Result<std::uint64_t> stream_digest(const CardReader& card, std::size_t index) {
  const StreamRecord& stream = card.header().streams[index];
  if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) {
    std::vector<std::byte> bytes(stream.opaque_size);
    if (Status s = card.read_opaque(index, 0, bytes); !s) return s.error();
    return digest64(bytes);
  }
  std::vector<float> values(stream.token_count * row_elements(stream));
  DecodeTarget target;
  target.base = values.data();
  target.token_stride = static_cast<std::int64_t>(row_elements(stream) * sizeof(float));
  target.head_stride = static_cast<std::int64_t>(stream.head_dim * sizeof(float));
  target.channel_stride = sizeof(float);
  if (stream.token_count > 0) {
    if (Status s = card.decode({index, stream.first_token, stream.token_count, false}, target); !s)
      return s.error();
  }
  return digest64(std::as_bytes(std::span(values)));
}

int run_decode(const ByteSource& source) {
  const auto card = CardReader::open(source);
  if (!card) return print_error(card.error());
  const auto runs = card->positions();
  if (!runs) return print_error(runs.error());
  const auto ids = card->token_ids();
  if (!ids && ids.error().code != ErrorCode::kTokensUnknown) return print_error(ids.error());
  std::printf("{");
  if (ids) {
    print_list("tokens", *ids);
  } else {
    std::printf("\"tokens\":null,");
  }
  print_list("positions", expand_positions(*runs));
  std::printf("\"streams\":[");
  for (std::size_t i = 0; i < card->header().streams.size(); ++i) {
    const StreamRecord& stream = card->header().streams[i];
    const auto digest = stream_digest(*card, i);
    if (!digest) return print_error(digest.error());
    std::printf(
        "%s{\"layer\":%u,\"stream\":\"%s\",\"first_token\":%llu,\"token_count\":%llu,\"xxh3_64\":\"%"
        "016llx\"}",
        i == 0 ? "" : ",", stream.layer, std::string(name_of(static_cast<StreamKind>(stream.stream))).c_str(),
        static_cast<unsigned long long>(stream.first_token),
        static_cast<unsigned long long>(stream.token_count), static_cast<unsigned long long>(*digest));
  }
  std::printf("]}\n");
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const bool decode = argc == 3 && std::strcmp(argv[1], "decode") == 0;
  if (!decode && (argc != 3 || std::strcmp(argv[1], "verify") != 0)) {
    std::fputs("usage: testee decode|verify FILE\n", stderr);
    return 2;
  }
  const auto source = open_file(argv[2]);
  if (!source) return print_error(source.error());
  return decode ? run_decode(**source) : run_verify(**source);
}
