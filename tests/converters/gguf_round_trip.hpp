#pragma once

#include <catch2/catch.hpp>
#include <filesystem>

#include "gguf/gguf_cache.hpp"
#include "gguf/gguf_writer.hpp"
#include "gguf_surgeon.hpp"

namespace cachecard::gguf::test {

/// An opened card of fixtures/valid, or of an absolute path.
struct ValidCard {
  explicit ValidCard(const std::filesystem::path& path)
      : file(std::move(
            *open_file((std::filesystem::path(CACHECARD_FIXTURES_DIR) / "valid" / path).string()))) {
    auto opened = CardReader::open(*file);
    REQUIRE(opened);
    card.emplace(std::move(*opened));
  }
  std::unique_ptr<ByteSource> file;
  std::optional<CardReader> card;
};

inline Bytes gguf_of(const CardReader& card, const GgufWriteOptions& options = {}) {
  MemorySink sink;
  auto written = write_gguf(card, sink, options);
  REQUIRE(written);
  REQUIRE(written->file_size == sink.bytes().size());
  return std::move(sink.bytes());
}

/// The card that a file becomes, as the command makes it.
inline Result<WriteReport> card_of(const ByteSource& source, ByteSink& sink) {
  auto cache = read_gguf_cache(source);
  if (!cache) return cache.error();
  const auto form = cache->form;
  const auto carried = read_carried(source, *cache);
  const auto values = gguf_source(source, std::move(*cache));
  if (form && fits(*form, *values)) return restore_card(*form, carried, *values, sink, {});
  return write_card(*values, sink);
}

}  // namespace cachecard::gguf::test
