#include <catch2/catch.hpp>
#include <cstring>
#include <filesystem>
#include <random>

#include "cachecard/reader.hpp"
#include "hdf5/chunk_filter.hpp"
#include "hdf5/h5_card.hpp"
#include "hdf5/h5_writer.hpp"

using namespace cachecard;
using namespace cachecard::hdf5;

namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::byte>;
constexpr unsigned kSeed = 20261127;

std::vector<fs::path> valid_cards() {
  std::vector<fs::path> cards;
  for (const auto& entry : fs::directory_iterator(fs::path(CACHECARD_FIXTURES_DIR) / "valid")) {
    if (entry.path().extension() == ".card") cards.push_back(entry.path());
  }
  std::sort(cards.begin(), cards.end());
  REQUIRE(cards.size() > 50);
  return cards;
}

Bytes file_bytes(const fs::path& path) {
  auto file = open_file(path.string());
  REQUIRE(file);
  Bytes bytes((*file)->size());
  REQUIRE((*file)->read_at(0, bytes));
  return bytes;
}

Bytes h5_of(const Bytes& card, bool coded, int deflate_level = 1) {
  const MemorySource source(card);
  auto reader = CardReader::open(source);
  REQUIRE(reader);
  MemorySink sink;
  H5WriteOptions options;
  options.coded = coded;
  options.deflate_level = deflate_level;
  auto report = write_h5(*reader, sink, options);
  if (!report) FAIL(report.error().message());
  return sink.bytes();
}

/// What verify says of a card, or "ok".
std::string verdict(const Bytes& card) {
  const MemorySource source(card);
  SourceStream stream(source);
  VerifyOptions options;
  options.decode = true;
  const auto report = verify(stream, options);
  return report ? "ok" : report.error().message();
}

/// The card that an HDF5 file gives, or what it is refused with.
Result<Bytes> card_of(const Bytes& h5) {
  const MemorySource source(h5);
  auto file = open_h5_card(source);
  if (!file) return file.error();
  MemorySink sink;
  if ((*file)->values() == nullptr) {
    auto trailer = (*file)->write_card(sink, nullptr);
    if (!trailer) return trailer.error();
  } else {
    CardOptions options;
    options.provenance.parent_root = (*file)->parent_root();
    auto report = write_card(*(*file)->values(), sink, options);
    if (!report) return report.error();
  }
  return sink.bytes();
}

std::vector<float> values_of(const CardReader& card, std::size_t stream) {
  const StreamRecord& record = card.header().streams[stream];
  std::vector<float> values(record.token_count * row_elements(record));
  DecodeTarget target;
  target.base = values.data();
  target.channel_stride = 4;
  target.head_stride = 4 * record.head_dim;
  target.token_stride = target.head_stride * record.kv_head_count;
  DecodeRequest request;
  request.stream = stream;
  request.first_token = record.first_token;
  request.token_count = record.token_count;
  REQUIRE(card.decode(request, target));
  return values;
}

Bytes opaque_of(const CardReader& card, std::size_t stream) {
  Bytes bytes(card.header().streams[stream].opaque_size);
  REQUIRE(card.read_opaque(stream, 0, bytes));
  return bytes;
}

/// Everything that the decoded form promises to carry.
void check_same_context(const Bytes& before, const Bytes& after) {
  const MemorySource first(before);
  const MemorySource second(after);
  auto a = CardReader::open(first);
  auto b = CardReader::open(second);
  REQUIRE(a);
  REQUIRE(b);
  CHECK(a->header().token_count == b->header().token_count);
  CHECK(a->header().flags == b->header().flags);
  CHECK(a->header().next_position == b->header().next_position);
  CHECK(a->header().restorable == b->header().restorable);
  CHECK(a->header().segments.size() == b->header().segments.size());
  for (const IdentityFieldInfo& info : identity_fields()) {
    const auto* wanted = a->header().identity.find(info.field);
    const auto* found = b->header().identity.find(info.field);
    REQUIRE((wanted == nullptr) == (found == nullptr));
    if (wanted != nullptr) CHECK(*wanted == *found);
  }
  const auto runs_a = a->positions();
  const auto runs_b = b->positions();
  REQUIRE(runs_a);
  REQUIRE(runs_b);
  CHECK(expand_positions(*runs_a) == expand_positions(*runs_b));
  if ((a->header().flags & kHeaderTokensUnknown) == 0) CHECK(*a->token_ids() == *b->token_ids());
  REQUIRE(a->header().streams.size() == b->header().streams.size());
  for (std::size_t i = 0; i < a->header().streams.size(); ++i) {
    INFO("stream " << i);
    const StreamRecord& stream = a->header().streams[i];
    if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) {
      CHECK(opaque_of(*a, i) == opaque_of(*b, i));
      continue;
    }
    CHECK(b->header().streams[i].rope_state == stream.rope_state);
    CHECK(b->header().streams[i].window == stream.window);
    const auto wanted = values_of(*a, i);
    const auto found = values_of(*b, i);
    REQUIRE(wanted.size() == found.size());
    CHECK((wanted.empty() || std::memcmp(wanted.data(), found.data(), 4 * wanted.size()) == 0));
  }
  const auto steps = b->provenance();
  REQUIRE(steps);
  CHECK(steps->back().parent_root == a->trailer().root);
}

}  // namespace

TEST_CASE("the coded form of every valid card comes back byte for byte", "[converters]") {
  for (const fs::path& path : valid_cards()) {
    INFO(path.filename().string());
    const Bytes card = file_bytes(path);
    const auto back = card_of(h5_of(card, true));
    if (!back) FAIL(back.error().message());
    CHECK(*back == card);
  }
}

TEST_CASE("the decoded form of every valid card becomes a card of the same values", "[converters]") {
  for (const fs::path& path : valid_cards()) {
    INFO(path.filename().string());
    const Bytes card = file_bytes(path);
    for (const int level : {0, 1}) {
      const auto back = card_of(h5_of(card, false, level));
      if (!back) FAIL(back.error().message());
      CHECK(verdict(*back) == "ok");
      check_same_context(card, *back);
    }
  }
}

TEST_CASE("equal cards give equal HDF5 files", "[converters]") {
  const Bytes card = file_bytes(valid_cards().front());
  for (const bool coded : {true, false}) CHECK(h5_of(card, coded) == h5_of(card, coded));
}

#if defined(__SANITIZE_ADDRESS__)
/// libhdf5 1.10.8 loses some of its own memory over files that are damaged or cannot be read; all else leaks nothing.
extern "C" const char* __lsan_default_suppressions();
extern "C" const char* __lsan_default_suppressions() { return "leak:libhdf5"; }
#endif

TEST_CASE("an HDF5 file with any byte changed is refused or gives a whole card", "[converters]") {
  std::mt19937 random(kSeed);
  const fs::path valid = fs::path(CACHECARD_FIXTURES_DIR) / "valid";
  for (const char* name : {"planes_all_exact.card", "ggml_q4_1.card"}) {
    const Bytes card = file_bytes(valid / name);
    for (const bool coded : {true, false}) {
      const Bytes whole = h5_of(card, coded);
      for (int i = 0; i < 400; ++i) {
        Bytes broken = whole;
        const std::size_t at = random() % broken.size();
        broken[at] ^= static_cast<std::byte>(1 + random() % 255);
        INFO(name << (coded ? " coded" : " decoded") << ", byte " << at << ", seed " << kSeed);
        const auto back = card_of(broken);
        if (!back) {
          CHECK(back.error().code != ErrorCode::kInternal);
          continue;
        }
        CHECK(verdict(*back) == "ok");
        if (coded) CHECK(*back == card);  // its root covers every byte that is used
      }
    }
  }
}

TEST_CASE("an HDF5 file cut anywhere is refused, unless nothing was lost", "[converters]") {
  const Bytes card = file_bytes(valid_cards().front());
  for (const bool coded : {true, false}) {
    const Bytes whole = h5_of(card, coded);
    const auto uncut = card_of(whole);
    REQUIRE(uncut);
    std::size_t refused = 0;
    std::size_t cuts = 0;
    for (std::size_t size = 0; size < whole.size(); size += 97, ++cuts) {
      const auto back = card_of(Bytes(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size)));
      refused += back ? 0 : 1;
      if (back) CHECK(*back == *uncut);  // the library gives back space at the end, a sink does not shrink
    }
    CHECK(refused > cuts * 9 / 10);
  }
}

namespace {

/// Takes a number of bytes, then the disk is full.
class FullSink final : public RandomSink {
 public:
  explicit FullSink(std::uint64_t room) : room_(room) {}
  Status write(std::span<const std::byte> bytes) override { return inner_.write(bytes); }
  Status commit() override { return {}; }
  Status reserve(std::uint64_t) override { return {}; }
  Status write_at(std::uint64_t offset, std::span<const std::byte> bytes) override {
    if (offset + bytes.size() > room_) return Error{ErrorCode::kIo, kNoOffset, {}, "no space left on device"};
    return inner_.write_at(offset, bytes);
  }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override { return inner_.read_at(offset, out); }

 private:
  MemorySink inner_;
  std::uint64_t room_;
};

/// Fails with `interrupted` behind a number of reads.
class StoppedSource final : public ByteSource {
 public:
  StoppedSource(const Bytes& bytes, int reads) : inner_(bytes), left_(reads) {}
  std::uint64_t size() const override { return inner_.size(); }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    if (left_-- <= 0) return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped"};
    return inner_.read_at(offset, out);
  }

 private:
  MemorySource inner_;
  mutable int left_;
};

}  // namespace

TEST_CASE("a full disk is said as the sink said it, at any byte", "[converters]") {
  const Bytes card = file_bytes(valid_cards().front());
  const MemorySource source(card);
  auto reader = CardReader::open(source);
  REQUIRE(reader);
  for (const bool coded : {true, false}) {
    const std::size_t size = h5_of(card, coded).size();
    for (std::uint64_t room = 0; room < size; room += size / 16) {
      FullSink sink(room);
      H5WriteOptions options;
      options.coded = coded;
      const auto report = write_h5(*reader, sink, options);
      REQUIRE_FALSE(report);
      CHECK(report.error().code == ErrorCode::kIo);
      CHECK(report.error().detail == "no space left on device");
    }
  }
}

TEST_CASE("a source that fails is said as it failed", "[converters]") {
  const Bytes card = file_bytes(valid_cards().front());
  for (const bool coded : {true, false}) {
    const Bytes h5 = h5_of(card, coded);
    for (int reads = 0; reads < 6; ++reads) {
      const StoppedSource source(h5, reads);
      const auto file = open_h5_card(source);
      REQUIRE_FALSE(file);
      CHECK(file.error().code == ErrorCode::kInterrupted);
    }
  }
}

TEST_CASE("shuffle and deflate give bytes back, and inflate keeps to its bound", "[converters]") {
  std::mt19937 random(kSeed);
  for (const std::size_t width : {1U, 2U, 4U, 8U, 128U}) {
    Bytes in(width * 100), mixed(in.size()), out(in.size());
    for (std::byte& b : in) b = static_cast<std::byte>(random() % 7);
    shuffle(in, width, mixed);
    if (width > 1) CHECK(mixed[1] == in[width]);
    unshuffle(mixed, width, out);
    CHECK(out == in);
  }
  const Bytes zeros(1u << 20);
  Bytes packed(deflate_bound(zeros.size()));
  packed.resize(deflate(zeros, 1, packed));
  REQUIRE_FALSE(packed.empty());
  Bytes out(zeros.size());
  CHECK(inflate(packed, out));
  for (const std::size_t size : {zeros.size() - 1, zeros.size() + 1, std::size_t{16}}) {
    Bytes other(size);
    const Status refused = inflate(packed, other);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == ErrorCode::kCorrupt);
  }
}
