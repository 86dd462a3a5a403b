#include "cache_file.hpp"

#include "convert.hpp"
#include "output_file.hpp"

namespace cachecard::cli {
namespace {

/// A card's values as the source of another.
class CardSource final : public CacheSource {
 public:
  static Result<std::shared_ptr<const CardSource>> open(std::unique_ptr<ByteSource> file);

  const CardHeader& header() const override { return card_->header(); }
  std::span<const std::int32_t> token_ids() const override { return token_ids_; }
  std::span<const std::int32_t> positions() const override { return positions_; }
  const RopeTable* rope_table() const override { return table_ ? &*table_ : nullptr; }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count,
                   std::span<std::byte> out) const override {
    std::vector<std::byte> scratch(card_->scratch_bytes(stream));
    return card_->read_rows(stream, first, count, out, scratch);
  }
  Status read_opaque(std::size_t stream, std::uint64_t offset, std::span<std::byte> out) const override {
    return card_->read_opaque(stream, offset, out);
  }

 private:
  Status load();

  std::unique_ptr<ByteSource> file_;
  std::optional<CardReader> card_;
  std::vector<std::int32_t> token_ids_;
  std::vector<std::int32_t> positions_;
  std::optional<RopeTable> table_;
};

Status CardSource::load() {
  if ((header().flags & kHeaderTokensUnknown) == 0) {
    auto ids = card_->token_ids();
    if (!ids) return ids.error();
    token_ids_ = std::move(*ids);
  }
  auto runs = card_->positions();
  if (!runs) return runs.error();
  for (const PositionRun& run : *runs) {
    for (std::uint64_t i = 0; i < run.token_count; ++i) {
      positions_.push_back(
          static_cast<std::int32_t>(run.first_position + static_cast<std::int64_t>(i) * run.step));
    }
  }
  const auto table = card_->find(SectionType::kRopeTable);
  if (!table) return {};
  auto payload = card_->read_section(*table);
  if (!payload) return payload.error();
  auto parsed = parse_rope_table(*payload);
  if (!parsed) return parsed.error();
  table_ = std::move(*parsed);
  return {};
}

Result<std::shared_ptr<const CardSource>> CardSource::open(std::unique_ptr<ByteSource> file) {
  auto source = std::make_shared<CardSource>();
  source->file_ = std::move(file);
  auto card = CardReader::open(*source->file_);
  if (!card) return card.error();
  source->card_ = std::move(*card);
  if (Status s = source->load(); !s) return s.error();
  return std::shared_ptr<const CardSource>(source);
}

Result<CacheFile> card_cache(std::unique_ptr<ByteSource> file) {
  CacheFile cache;
  cache.card_bytes = file->size();
  auto source = CardSource::open(std::move(file));
  if (!source) return source.error();
  cache.source = std::move(*source);
  return cache;
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
