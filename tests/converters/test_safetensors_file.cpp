#include <catch2/catch.hpp>
#include <chrono>
#include <cstring>
#include <random>

#include "peak_memory.hpp"
#include "safetensors/safetensors_file.hpp"
#include "safetensors/tensor_cache.hpp"

using namespace cachecard;
using namespace cachecard::safetensors;

namespace {

using Bytes = std::vector<std::byte>;

Bytes file_of(const std::string& header, std::size_t data) {
  std::string out(sizeof(std::uint64_t), '\0');
  const std::uint64_t size = header.size();
  std::memcpy(out.data(), &size, sizeof(size));
  out += header;
  out.append(data, '\1');
  const auto bytes = std::as_bytes(std::span(out));
  return {bytes.begin(), bytes.end()};
}

const std::string kHeader =
    R"({"__metadata__":{"0.model":"m","1.0":"KVCache","2.0":"","2.1.0":"0.2","2.1.1":"scalar"},)"
    R"("0.0":{"dtype":"F16","shape":[1,2,3,4],"data_offsets":[0,48]},)"
    R"("0.1":{"dtype":"BF16","shape":[1,2,3,4],"data_offsets":[48,96]},)"
    R"("0.2":{"dtype":"I8","shape":[0],"data_offsets":[96,96]}})";

/// The message, or "" where a cache was found and its rows were read.
std::string refusal(const Bytes& bytes) {
  const MemorySource source(bytes);
  auto cache = read_tensor_cache(source);
  if (!cache) {
    CHECK(cache.error().code != ErrorCode::kInternal);
    CHECK(cache.error().message().find('\n') == std::string::npos);
    return cache.error().message();
  }
  const auto values = tensor_source(source, std::move(cache->tensors), {}, {});
  if (!values) return values.error().message();
  for (std::size_t i = 0; i < (*values)->header().streams.size(); ++i) {
    const StreamRecord& stream = (*values)->header().streams[i];
    std::vector<std::byte> rows(stream.token_count * row_bytes(stream, static_cast<DType>(stream.dtype)));
    if (Status s = (*values)->read_rows(i, stream.first_token, stream.token_count, rows); !s)
      return s.error().message();
  }
  return {};
}

std::string without_count() {
  std::string header = kHeader;
  header.resize(header.find(R"(,"0.2")"));
  return header + "}";
}

}  // namespace

TEST_CASE("a cache of safetensors is read, and its count of tokens must be a number", "[converters]") {
  CHECK(refusal(file_of(without_count(), 96)).empty());
  CHECK(refusal(file_of(kHeader, 96)).find("allowed is one number") != std::string::npos);
}

TEST_CASE("mutated safetensors headers never break the reader", "[converters]") {
  constexpr std::uint32_t kSeed = 20261127;
  std::mt19937 random(kSeed);
  const Bytes original = file_of(without_count(), 96);
  const std::string odd = R"({}[]":,0129.-e\u)";
  int taken = 0;
  for (int round = 0; round < 20000; ++round) {
    INFO("round " << round << " seed " << kSeed);
    Bytes bytes = original;
    const auto changes = 1 + random() % 3;
    for (std::size_t i = 0; i < changes; ++i) {
      bytes[8 + random() % (original.size() - 8)] = static_cast<std::byte>(odd[random() % odd.size()]);
    }
    if (refusal(bytes).empty()) ++taken;
  }
  CHECK(taken > 100);
}

TEST_CASE("headers made to be large cost little memory and time", "[converters]") {
  const std::uint64_t before = peak_memory();
  const auto start = std::chrono::steady_clock::now();
  const auto many = [](const std::string& item, const std::string& first = "{") {
    std::string header = first;
    while (header.size() + item.size() + 16 < kMaxHeaderBytes) header += item;
    return header;
  };
  std::string names = "{";
  for (int i = 0; names.size() + 80 < kMaxHeaderBytes; ++i) {
    names += "\"" + std::to_string(i) + "\":{\"dtype\":\"F16\",\"shape\":[0],\"data_offsets\":[0,0]},";
  }
  names.back() = '}';
  for (const std::string& header :
       {many("[", "{\"a\":"), many("{\"a\":"), many("\"k_0\":{},"), many("0,", R"({"k_0":{"shape":[)"),
        many("0,", R"({"k_0":{"data_offsets":[)"), many(R"("a":"",)", R"({"__metadata__":{)"),
        many("x", "{\""), names}) {
    CHECK_FALSE(refusal(file_of(header, 0)).empty());
  }
  Bytes large = file_of("{", 64);
  for (const std::uint64_t size : {std::uint64_t{100'000'000}, ~std::uint64_t{0}, std::uint64_t{1} << 60}) {
    std::memcpy(large.data(), &size, sizeof(size));
    CHECK(refusal(large).find("limit_exceeded") != std::string::npos);
  }
  CHECK(peak_memory() - before < kSanitizerFactor * (64u << 20));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(8));
}
