#include <chrono>
#include <random>

#include "gguf_round_trip.hpp"
#include "peak_memory.hpp"

using namespace cachecard;
using namespace cachecard::gguf;
using namespace cachecard::gguf::test;

namespace {

/// The message, or "" where a card comes of it.
std::string refusal(const Bytes& bytes) {
  const MemorySource source(bytes);
  MemorySink sink;
  const auto written = card_of(source, sink);
  if (written) return {};
  CHECK(written.error().code != ErrorCode::kInternal);
  CHECK(written.error().message().find('\n') == std::string::npos);
  return written.error().message();
}

Bytes small_file() { return gguf_of(*ValidCard("ggml_q8_0.card").card); }

template <class Change>
std::string refusal_after(const Change& change) {
  GgufSurgeon file(small_file());
  change(file);
  return refusal(file.bytes());
}

bool holds(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

template <class T>
Bytes bytes_of(T value) {
  const auto bytes = std::as_bytes(std::span(&value, 1));
  return {bytes.begin(), bytes.end()};
}

}  // namespace

TEST_CASE("a GGUF cache with one defect is refused by its name", "[converters]") {
  REQUIRE(refusal(small_file()).empty());
  struct Case {
    const char* part;
    void (*change)(GgufSurgeon&);
  };
  for (const Case& c : {
           Case{"'cache_k_l0' occurs twice", [](GgufSurgeon& f) { f.tensors[1].name = f.tensors[0].name; }},
           Case{"'general.type' occurs twice",
                [](GgufSurgeon& f) { f.keys.push_back(f.key("general.type")); }},
           Case{"where the tensor before ends",  // a gap
                [](GgufSurgeon& f) {
                  for (std::size_t i = 1; i < f.tensors.size(); ++i) f.tensors[i].offset += 32;
                  f.data.resize(f.data.size() + 32);
                }},
           Case{"where the tensor before ends", [](GgufSurgeon& f) { f.tensors[1].offset = 0; }},  // overlap
           Case{"where the tensor before ends",
                [](GgufSurgeon& f) { f.tensors[1].offset -= 2; }},  // not aligned
           Case{"truncated", [](GgufSurgeon& f) { f.tensors.back().offset = 1ull << 60; }},
           Case{"'cache_k_l0' has no possible size",
                [](GgufSurgeon& f) {
                  f.tensors[0].dims = {1ull << 40, 1ull << 40};
                }},
           Case{"bytes behind the last tensor", [](GgufSurgeon& f) { f.data.resize(f.data.size() + 32); }},
           Case{"truncated", [](GgufSurgeon& f) { f.data.resize(f.data.size() / 2); }},
           Case{"general.alignment", [](GgufSurgeon& f) { f.set<std::uint32_t>("general.alignment", 24); }},
           Case{"general.alignment", [](GgufSurgeon& f) { f.set<std::uint32_t>("general.alignment", 0); }},
           Case{"no tensor 'cache_v_l0'", [](GgufSurgeon& f) { f.tensor("cache_v_l0").name = "cache_w_l0"; }},
           Case{"cache_k_l0: found type 24",
                [](GgufSurgeon& f) {
                  f.tensors[0].type = 24, f.tensors[0].dims[0] = f.tensors[0].dims[0] / 32 * 34;
                }},
           Case{"'cache_k_l0': found type 200, which is not known", [](GgufSurgeon& f) { f.tensors[0].type = 200; }},
           Case{"kv_cache.version: found 2",
                [](GgufSurgeon& f) { f.set<std::uint32_t>("kv_cache.version", 2); }},
           Case{"kv_cache.positions: found 0 elements, allowed 7",
                [](GgufSurgeon& f) { f.drop("kv_cache.positions"); }},
           Case{"kv_cache.layer_count: the key is missing",
                [](GgufSurgeon& f) { f.drop("kv_cache.layer_count"); }},
           Case{"kv_cache.stream.window: found 0 elements, the arrays before have 2",
                [](GgufSurgeon& f) { f.drop("kv_cache.stream.window"); }},
           Case{"kv_cache.layer_count: found type i32, allowed u32",
                [](GgufSurgeon& f) { f.key("kv_cache.layer_count").type = 5; }},
           Case{"found elements of type f32, allowed i32",
                [](GgufSurgeon& f) { f.set<std::uint32_t>("kv_cache.token_ids", 6); }},
           Case{"kv_cache.restorable: found",
                [](GgufSurgeon& f) { f.key("kv_cache.restorable").value.back() = std::byte{'?'}; }},
           Case{"general.type: found 'kv-cachf'",
                [](GgufSurgeon& f) { f.key("general.type").value.back() = std::byte{'f'}; }},
           Case{"limit_exceeded",
                [](GgufSurgeon& f) { f.set<std::uint64_t>("kv_cache.token_count", 1ull << 60); }},
           Case{"elements, the arrays before have",
                [](GgufSurgeon& f) {
                  auto& value = f.key("kv_cache.stream.window").value;
                  f.set<std::uint64_t>("kv_cache.stream.window", (value.size() - 12) / 4 - 1, 4);
                  value.resize(value.size() - 4);
                }},
           Case{"cachecard.root", [](GgufSurgeon& f) { f.key("cachecard.root").value[8] = std::byte{'x'}; }},
           Case{"cachecard.zstd_level: found 23",
                [](GgufSurgeon& f) { f.set<std::uint32_t>("cachecard.zstd_level", 23); }},
           Case{"checksum_mismatch in cachecard.sections",
                [](GgufSurgeon& f) { f.data[f.tensor("cachecard.sections").offset] ^= std::byte{1}; }},
           Case{"cachecard.frames",  // another codec
                [](GgufSurgeon& f) {
                  for (std::size_t i = 0; i < f.tensor("cachecard.frames").dims[1]; ++i) {
                    const std::size_t at = f.tensor("cachecard.frames").offset + 128 * i;
                    if (f.data[at] == std::byte{8})
                      f.data[at + 16] = std::byte{200};  // first_token of a chunk
                  }
                }},
           Case{"tensors, 2 are a cache's",
                [](GgufSurgeon& f) {
                  std::erase_if(f.keys, [](const auto& key) { return key.name.starts_with("cachecard."); });
                  f.tensor("cachecard.frames").name = "other";
                }},
       }) {
    INFO(c.part);
    const std::string message = refusal_after(c.change);
    INFO(message);
    CHECK(holds(message, c.part));
  }
}

TEST_CASE("counts of a GGUF file allocate nothing before they are checked", "[converters]") {
  const Bytes original = small_file();
  const std::uint64_t before = peak_memory();
  const auto start = std::chrono::steady_clock::now();
  for (const std::uint64_t count : {1ull << 60, ~0ull, 1ull << 32, 70000ull, (~0ull) / 24 + 2}) {
    for (const std::size_t at : {std::size_t{8}, std::size_t{16}}) {  // tensors, keys
      Bytes bytes = original;
      std::memcpy(bytes.data() + at, &count, 8);
      CHECK_FALSE(refusal(bytes).empty());
    }
    const GgufSurgeon parts(original);
    for (const auto& key : parts.keys) {
      if (key.type != kArrayType && key.type != kStringType) continue;
      GgufSurgeon broken(original);
      broken.set(key.name, count, key.type == kArrayType ? 4 : 0);
      CHECK_FALSE(refusal(broken.bytes()).empty());
    }
  }
  // A file that really holds so many: a hundred bytes in memory for each few in the file are too many.
  GgufSurgeon many(original);
  many.data.clear();
  many.tensors.assign(1u << 18, {"", {}, 0, 0});
  CHECK(holds(refusal(many.bytes()), "n_tensors"));
  GgufSurgeon long_names(original);
  for (int i = 0; i < 300; ++i) {
    long_names.keys.push_back({std::string(60000, 'x') + std::to_string(i), 0, bytes_of(std::uint8_t{0})});
  }
  CHECK(holds(refusal(long_names.bytes()), "bytes of all keys"));
  // The files themselves, and their copies.
  CHECK(peak_memory() - before < kSanitizerFactor * ((64u << 20) + 2 * (40u << 18) + 3 * (18u << 20)));
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
}

TEST_CASE("every truncation of a GGUF cache is refused", "[converters]") {
  const Bytes bytes = small_file();
  for (std::size_t size = 0; size < bytes.size(); size += size < 4096 ? 1 : 37) {
    INFO(size);
    CHECK_FALSE(refusal(Bytes(bytes.begin(), bytes.begin() + static_cast<std::ptrdiff_t>(size))).empty());
  }
}

TEST_CASE("mutated GGUF caches never break the reader", "[converters]") {
  constexpr std::uint32_t kSeed = 20261127;
  std::mt19937 random(kSeed);
  const Bytes original = small_file();
  int taken = 0;
  for (int round = 0; round < 4000; ++round) {
    INFO("round " << round << " seed " << kSeed);
    Bytes bytes = original;
    constexpr std::uint32_t kOdd[] = {0, 1, 9, 12, 0x7F, 0x80, 0xFF};
    for (int i = 0; i < 2; ++i) bytes[random() % bytes.size()] = static_cast<std::byte>(kOdd[random() % 7]);
    if (refusal(bytes).empty()) ++taken;
  }
  CHECK(taken > 100);
}
