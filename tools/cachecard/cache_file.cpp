#include "cache_file.hpp"

#include "cachecard/edit.hpp"
#include "convert.hpp"
#include "output_file.hpp"

namespace cachecard::cli {
namespace {

/// A card, its file and its values as the source of another.
struct OpenCard {
  std::unique_ptr<ByteSource> file;
  std::optional<CardReader> card;
  std::unique_ptr<CacheSource> source;
};

Result<CacheFile> card_cache(std::unique_ptr<ByteSource> file) {
  auto open = std::make_shared<OpenCard>();
  open->file = std::move(file);
  auto card = CardReader::open(*open->file);
  if (!card) return card.error();
  open->card = std::move(*card);
  auto source = card_as_source(*open->card);
  if (!source) return source.error();
  open->source = std::move(*source);
  const CacheSource* values = open->source.get();
  const std::uint64_t bytes = open->file->size();
  return CacheFile{{std::move(open), values}, bytes};
}

/// Keeps the file that a source reads from.
std::shared_ptr<const CacheSource> keep(std::unique_ptr<ByteSource> file,
                                        std::shared_ptr<const CacheSource> source) {
  struct Kept {
    std::unique_ptr<ByteSource> file;
    std::shared_ptr<const CacheSource> source;
  };
  auto kept = std::make_shared<Kept>(Kept{std::move(file), std::move(source)});
  const CacheSource* pointer = kept->source.get();
  return {std::move(kept), pointer};
}

}  // namespace

Result<CacheFile> open_cache(const SourceArgs& args, const std::string& from, std::string& at_fault) {
  at_fault = input_name(args.input);
  auto file = open_input(args.input);
  if (!file) return file.error();
  const Format* format = format_named(from);
  if (format == nullptr && from != "card") {
    auto kind = kind_of(**file);
    if (!kind) return kind.error();
    if (*kind == InputKind::kEmpty || *kind == InputKind::kUnknown) return unknown_input(*kind, **file);
    format = format_of(*kind);
  }
  if (format == nullptr) return card_cache(std::move(*file));
  std::string other;
  auto opened = format->open(**file, args, other);
  if (!opened) {
    at_fault = other.empty() ? source_blame(opened.error(), args) : other;
    return opened.error();
  }
  if (!opened->copy) return CacheFile{keep(std::move(*file), std::move(opened->source)), 0};
  auto copy = UnlinkedFile::create();
  if (!copy) return copy.error();
  auto copied = opened->copy(**copy, nullptr);
  if (!copied) return copied.error();
  return card_cache(std::make_unique<UnlinkedSource>(std::move(*copy)));
}

std::uint64_t value_count(const CardHeader& header) {
  std::uint64_t count = 0;
  for (const StreamRecord& stream : header.streams) {
    if (stream.stream != static_cast<std::uint8_t>(StreamKind::kOpaque))
      count += stream.token_count * row_elements(stream);
  }
  return count;
}

Result<std::uint64_t> exact_card_bytes(const CacheSource& source, CardOptions options, std::uint64_t budget) {
  std::uint64_t rows = 0;
  for (const StreamRecord& stream : source.header().streams) {
    const bool opaque = stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
    if (!opaque) rows += stream.token_count * row_bytes(stream, static_cast<DType>(stream.dtype));
  }
  if (rows > budget && options.compressor == Compressor::kNone) return rows;
  options.planes.reset();
  options.entropy.reset();
  options.progress = nullptr;
  auto nowhere = open_output("-", true);
  if (!nowhere) return nowhere.error();
  auto written = write_card(source, **nowhere, options);
  if (!written) return written.error();
  return written->file_size;
}

}  // namespace cachecard::cli
