// cxx_consumer CARD: the C++ headers through a shared library, with a source of our own deriving from theirs.
#include <cachecard/edit.hpp>
#include <cachecard/match.hpp>
#include <cstdio>

namespace {

class CountingSource final : public cachecard::ByteSource {
 public:
  explicit CountingSource(const cachecard::ByteSource& file) : file_(file) {}
  std::uint64_t size() const override { return file_.size(); }
  cachecard::Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    ++reads;
    return file_.read_at(offset, out);
  }
  mutable int reads = 0;

 private:
  const cachecard::ByteSource& file_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) return 2;
  auto file = cachecard::open_file(argv[1]);
  if (!file) return 1;
  CountingSource source(**file);
  auto card = cachecard::CardReader::open(source);
  if (!card) {
    std::fprintf(stderr, "%s\n", card.error().message().c_str());
    return 1;
  }
  auto match = cachecard::match_identity(card->header().identity, card->header().identity, {});
  cachecard::MemorySink sink;
  auto trimmed = cachecard::trim(*card, sink, {.end_token = 10});
  if (!match || !trimmed || source.reads == 0) return 1;
  std::printf("%zu fields, %zu bytes\n", match->fields.size(), sink.bytes().size());
  return 0;
}
