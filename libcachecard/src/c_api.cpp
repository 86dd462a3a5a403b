#include <array>
#include <optional>

#include "base/checked.hpp"
#include "c_api_boundary.hpp"

namespace cachecard::c_api {
namespace {

static_assert(CCD_VERSION_MAJOR == CACHECARD_VERSION_MAJOR && CCD_VERSION_MINOR == CACHECARD_VERSION_MINOR &&
                  CCD_VERSION_PATCH == CACHECARD_VERSION_PATCH,
              "cachecard.h and CMakeLists.txt name different versions");

/// Positions read through the caller's function.
class CallbackSource final : public ByteSource {
 public:
  explicit CallbackSource(const ccd_source& source) : source_(source) {}
  std::uint64_t size() const override { return source_.size; }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    if (!span_within(offset, out.size(), source_.size)) {
      return Error{ErrorCode::kTruncated, source_.size, {}, "the source is too short"};
    }
    if (out.empty()) return {};
    const ccd_status status = source_.read_at(source_.user, offset, out.data(), out.size());
    if (status != CCD_OK) return callback_error(status, "read_at");
    return {};
  }

 private:
  ccd_source source_;
};

using Source = std::unique_ptr<ByteSource>;

Result<Source> source_of_file(const char* path, std::uint32_t flags) {
  if (path == nullptr) return argument_error("path is NULL");
  return (flags & CCD_OPEN_MMAP) != 0 ? map_file(path) : open_file(path);
}

Result<Source> source_of_bytes(const void* bytes, std::size_t size) {
  if (bytes == nullptr && size > 0) return argument_error("bytes is NULL");
  return Source(new MemorySource({static_cast<const std::byte*>(bytes), size}));
}

Result<Source> source_of_callbacks(const ccd_source* source) {
  if (source == nullptr) return argument_error("source is NULL");
  auto taken = take(source, "ccd_source");
  if (!taken) return taken.error();
  if (taken->read_at == nullptr) return argument_error("source.read_at is NULL");
  return Source(new CallbackSource(*taken));
}

Result<ccd_open_options> take_options(const ccd_open_options* given) {
  auto options = take_optional(given, "ccd_open_options");
  if (!options) return options.error();
  if ((options->flags & ~std::uint32_t{CCD_OPEN_MMAP}) != 0) return argument_error("an unknown open flag");
  if ((options->allocator.allocate == nullptr) != (options->allocator.release == nullptr)) {
    return argument_error("allocator.allocate and allocator.release: both or neither");
  }
  return options;
}

Result<Limits> take_limits(const ccd_limits* given) {
  auto taken = take_optional(given, "ccd_limits");
  if (!taken) return taken.error();
  Limits limits;
  const auto set = [](std::uint64_t& limit, std::uint64_t value) { limit = value != 0 ? value : limit; };
  set(limits.header_bytes, taken->header_bytes);
  set(limits.section_bytes, taken->section_bytes);
  set(limits.map_bytes, taken->map_bytes);
  set(limits.summary_bytes, taken->summary_bytes);
  set(limits.frame_count, taken->frame_count);
  set(limits.token_count, taken->token_count);
  set(limits.stream_count, taken->stream_count);
  set(limits.segment_count, taken->segment_count);
  return limits;
}

/// make(flags) gives the source; the three ways to open differ in nothing else.
template <class Make>
ccd_status open_card(Make&& make, const ccd_open_options* given, ccd_card** card, ccd_error* error) noexcept {
  if (card != nullptr) *card = nullptr;
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    auto options = take_options(given);
    if (!options) return options.error();
    auto limits = take_limits(options->limits);
    if (!limits) return limits.error();
    Result<Source> source = make(options->flags);
    if (!source) return source.error();
    auto reader = CardReader::open(**source, *limits);
    if (!reader) return reader.error();
    *card = new ccd_card{std::move(*source), std::move(*reader), options->allocator, options->parallel};
    return {};
  });
}

template <class Make>
ccd_status verify_card(Make&& make, std::uint32_t flags, const ccd_open_options* given,
                       ccd_verify_report* out, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if ((flags & ~std::uint32_t{CCD_VERIFY_DECODE}) != 0) return argument_error("an unknown verify flag");
    if (Status s = out == nullptr ? Status() : can_give(out, "report"); !s) return s;
    auto options = take_options(given);
    if (!options) return options.error();
    auto limits = take_limits(options->limits);
    if (!limits) return limits.error();
    Result<Source> source = make(options->flags);
    if (!source) return source.error();
    GuardedParallel parallel(options->parallel);
    SourceStream stream(**source);
    auto verified = verify(stream, {(flags & CCD_VERIFY_DECODE) != 0, *limits, parallel.view()});
    if (Status s = parallel.status(); !s) return s;
    if (!verified) return verified.error();
    if (out == nullptr) return {};
    ccd_verify_report report{};
    report.file_size = verified->trailer.file_size;
    report.frame_count = verified->trailer.frame_count;
    report.skipped_sections = verified->skipped_sections;
    std::copy(verified->trailer.root.begin(), verified->trailer.root.end(), report.root);
    give(report, out);
    return {};
  });
}

ccd_stream stream_facts(const StreamRecord& record) {
  ccd_stream stream{};
  stream.layer = record.layer;
  stream.stream = record.stream;
  stream.dtype = record.dtype;
  stream.rope_state = record.rope_state;
  stream.rope_pairing = record.rope_pairing;
  stream.kv_head_count = record.kv_head_count;
  stream.head_dim = record.head_dim;
  stream.hadamard_size = record.hadamard_size;
  stream.window = record.window;
  stream.first_token = record.first_token;
  stream.token_count = record.token_count;
  stream.opaque_size = record.opaque_size;
  const bool has_rows = record.stream != CCD_STREAM_OPAQUE;
  stream.row_size = has_rows ? row_bytes(record, static_cast<DType>(record.dtype)) : 0;
  return stream;
}

ccd_facts card_facts(const CardReader& reader, const Summary& summary) {
  const CardHeader& header = reader.header();
  ccd_facts facts{};
  facts.format_major = reader.prologue().format_major;
  facts.format_minor = reader.prologue().format_minor;
  facts.flags = header.flags;
  facts.layer_count = header.layer_count;
  facts.token_count = header.token_count;
  facts.next_position = header.next_position;
  facts.restorable = static_cast<std::uint32_t>(header.restorable);
  facts.restorable_from = header.restorable_from;
  facts.stream_count = static_cast<std::uint32_t>(header.streams.size());
  facts.segment_count = static_cast<std::uint32_t>(header.segments.size());
  facts.identity_count = static_cast<std::uint32_t>(header.identity.values().size());
  facts.value_count = summary.value_count;
  facts.opaque_size = summary.opaque_size;
  facts.file_size = reader.trailer().file_size;
  std::copy(reader.trailer().root.begin(), reader.trailer().root.end(), facts.root);
  return facts;
}

}  // namespace
}  // namespace cachecard::c_api

using namespace cachecard;
using namespace cachecard::c_api;

uint32_t ccd_version(void) noexcept { return CCD_VERSION; }

// Names are literals of constant tables: static, and ended by a zero.
const char* ccd_status_name(ccd_status status) noexcept {
  return error_info(static_cast<ErrorCode>(status)).name.data();
}

const char* ccd_dtype_name(uint32_t dtype) noexcept {
  return dtype > 255 ? "unknown" : name_of(static_cast<DType>(dtype)).data();
}

const char* ccd_stream_name(uint32_t stream_kind) noexcept {
  return stream_kind > 255 ? "unknown" : name_of(static_cast<StreamKind>(stream_kind)).data();
}

ccd_status ccd_open_file(const char* path, const ccd_open_options* options, ccd_card** card,
                         ccd_error* error) noexcept {
  return open_card([&](std::uint32_t flags) { return source_of_file(path, flags); }, options, card, error);
}

ccd_status ccd_open_bytes(const void* bytes, size_t size, const ccd_open_options* options, ccd_card** card,
                          ccd_error* error) noexcept {
  return open_card([&](std::uint32_t) { return source_of_bytes(bytes, size); }, options, card, error);
}

ccd_status ccd_open_callbacks(const ccd_source* source, const ccd_open_options* options, ccd_card** card,
                              ccd_error* error) noexcept {
  return open_card([&](std::uint32_t) { return source_of_callbacks(source); }, options, card, error);
}

void ccd_close(ccd_card* card) noexcept { delete card; }

ccd_status ccd_verify_file(const char* path, uint32_t flags, const ccd_open_options* options,
                           ccd_verify_report* report, ccd_error* error) noexcept {
  return verify_card([&](std::uint32_t open_flags) { return source_of_file(path, open_flags); }, flags,
                     options, report, error);
}

ccd_status ccd_verify_bytes(const void* bytes, size_t size, uint32_t flags, const ccd_open_options* options,
                            ccd_verify_report* report, ccd_error* error) noexcept {
  return verify_card([&](std::uint32_t) { return source_of_bytes(bytes, size); }, flags, options, report,
                     error);
}

ccd_status ccd_verify_callbacks(const ccd_source* source, uint32_t flags, const ccd_open_options* options,
                                ccd_verify_report* report, ccd_error* error) noexcept {
  return verify_card([&](std::uint32_t) { return source_of_callbacks(source); }, flags, options, report,
                     error);
}

ccd_status ccd_card_get_facts(const ccd_card* card, ccd_facts* facts, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    if (Status s = can_give(facts, "facts"); !s) return s;
    auto summary = card->reader.summary();
    if (!summary) return summary.error();
    give(card_facts(card->reader, *summary), facts);
    return {};
  });
}

ccd_status ccd_card_get_stream(const ccd_card* card, uint32_t index, ccd_stream* stream,
                               ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    if (Status s = can_give(stream, "stream"); !s) return s;
    const auto& streams = card->reader.header().streams;
    if (index >= streams.size()) return argument_error("no stream " + std::to_string(index));
    give(stream_facts(streams[index]), stream);
    return {};
  });
}

ccd_status ccd_card_find_stream(const ccd_card* card, uint32_t layer, uint32_t stream_kind,
                                ccd_stream* stream, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (Status s = can_give(stream, "stream"); !s) return s;
    auto index = find_stream(card, layer, stream_kind);
    if (!index) return index.error();
    give(stream_facts(card->reader.header().streams[*index]), stream);
    return {};
  });
}
