#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "c_api_codec.hpp"
#include "c_api_identity.hpp"
#include "cachecard/writer.hpp"

struct ccd_writer {
  cachecard::CardHeader header;
  std::vector<std::int32_t> token_ids;
  std::vector<std::int32_t> positions;
  std::string text;
  std::optional<cachecard::RopeTable> rope_table;
};

namespace cachecard::c_api {
namespace {

/// The caller's values and the writer's description as write_card wants them.
class CallbackValues final : public CacheSource {
 public:
  CallbackValues(const ccd_writer& writer, const ccd_values& values) : writer_(writer), values_(values) {}
  const CardHeader& header() const override { return writer_.header; }
  std::span<const std::int32_t> token_ids() const override { return writer_.token_ids; }
  std::span<const std::int32_t> positions() const override { return writer_.positions; }
  const RopeTable* rope_table() const override {
    return writer_.rope_table ? &*writer_.rope_table : nullptr;
  }
  std::string_view text() const override { return writer_.text; }
  Status read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out) const override {
    const StreamRecord& stream = writer_.header.streams[stream_index];
    const ccd_status status = values_.read_rows(values_.user, stream.layer, stream.stream, first_token,
                                                token_count, out.data(), out.size());
    if (status != CCD_OK) return callback_error(status, "read_rows");
    return {};
  }
  Status read_opaque(std::size_t stream_index, std::uint64_t offset,
                     std::span<std::byte> out) const override {
    if (values_.read_opaque == nullptr) return argument_error("values.read_opaque is NULL");
    const std::uint32_t layer = writer_.header.streams[stream_index].layer;
    const ccd_status status = values_.read_opaque(values_.user, layer, offset, out.data(), out.size());
    if (status != CCD_OK) return callback_error(status, "read_opaque");
    return {};
  }

 private:
  const ccd_writer& writer_;
  const ccd_values& values_;
};

class CallbackSink final : public ByteSink {
 public:
  explicit CallbackSink(const ccd_output& output) : output_(output) {}
  Status write(std::span<const std::byte> bytes) override {
    if (bytes.empty()) return {};
    const ccd_status status = output_.write(output_.user, bytes.data(), bytes.size());
    if (status != CCD_OK) return callback_error(status, "write");
    return {};
  }
  Status commit() override { return {}; }

 private:
  const ccd_output& output_;
};

Result<StreamRecord> stream_record(const ccd_stream& stream) {
  if (stream.stream > CCD_STREAM_OPAQUE || stream.dtype > 0xFF || stream.rope_state > CCD_ROPE_AFTER ||
      stream.rope_pairing > CCD_PAIRING_HALF_SPLIT ||
      dtype_info(static_cast<DType>(stream.dtype)) == nullptr) {
    return argument_error("the stream's kind, dtype, rope_state or rope_pairing names nothing");
  }
  StreamRecord record;
  record.layer = stream.layer;
  record.stream = static_cast<std::uint8_t>(stream.stream);
  record.dtype = static_cast<std::uint8_t>(stream.dtype);
  record.rope_state = static_cast<std::uint8_t>(stream.rope_state);
  record.rope_pairing = static_cast<std::uint8_t>(stream.rope_pairing);
  record.kv_head_count = stream.kv_head_count;
  record.head_dim = stream.head_dim;
  record.hadamard_size = std::max<std::uint32_t>(1, stream.hadamard_size);
  record.window = stream.window;
  record.first_token = stream.first_token;
  record.token_count = stream.token_count;
  record.opaque_size = stream.opaque_size;
  return record;
}

Status put_stream(CardHeader& header, const StreamRecord& record) {
  const auto key = [](const StreamRecord& s) { return std::pair(s.layer, s.stream); };
  const auto at = std::lower_bound(header.streams.begin(), header.streams.end(), record,
                                   [&](const auto& a, const auto& b) { return key(a) < key(b); });
  if (at != header.streams.end() && key(*at) == key(record)) {
    return argument_error("layer " + std::to_string(record.layer) + " already has a stream " +
                          std::to_string(record.stream));
  }
  header.streams.insert(at, record);
  return {};
}

Result<RopeTable> take_rope_table(const ccd_rope_table& given, const double* inverse_frequencies) {
  if (given.pairing != CCD_PAIRING_INTERLEAVED && given.pairing != CCD_PAIRING_HALF_SPLIT) {
    return argument_error("table.pairing must be interleaved or half_split");
  }
  if (given.layer != CCD_ALL_LAYERS) return argument_error("table.layer must be CCD_ALL_LAYERS");
  constexpr std::uint32_t kMostPairs = 1u << 20;  // a section's 16 MiB hold twice as many
  if (given.pair_count == 0 || given.pair_count > kMostPairs) {
    return argument_error("table.pair_count must be 1 to " + std::to_string(kMostPairs));
  }
  RopeTable table;
  table.record.pairing = static_cast<std::uint8_t>(given.pairing);
  table.record.rotated_offset = given.rotated_offset;
  table.record.rotated_width = 2 * given.pair_count;
  table.record.pair_count = given.pair_count;
  table.record.magnitude = given.magnitude;
  table.inverse_frequencies.assign(inverse_frequencies, inverse_frequencies + given.pair_count);
  const auto finite = [](double number) { return std::isfinite(number); };
  if (!finite(given.magnitude) ||
      !std::all_of(table.inverse_frequencies.begin(), table.inverse_frequencies.end(), finite)) {
    return Error{ErrorCode::kNonFinite, kNoOffset, "rope_table.magnitude", "a number is NaN or infinite"};
  }
  return table;
}

/// What both ways of writing are given.
struct WriteCall {
  const ccd_writer* writer;
  const ccd_values* values;
  const ccd_write_options* options;
  ccd_write_report* report;
};

/// open_sink(flags) is called when all else is known to be good.
template <class OpenSink>
Status write_to(const WriteCall& call, OpenSink&& open_sink) {
  if (call.writer == nullptr) return argument_error("writer is NULL");
  if (call.values == nullptr) return argument_error("values is NULL");
  auto values = take(call.values, "ccd_values");
  if (!values) return values.error();
  if (values->read_rows == nullptr) return argument_error("values.read_rows is NULL");
  if (Status s = call.report == nullptr ? Status() : can_give(call.report, "report"); !s) return s;
  auto options = take_write_options(call.options);
  if (!options) return options.error();

  const CallbackValues source(*call.writer, *values);
  GuardedParallel parallel(options->parallel);
  auto card = card_options(*options, source, parallel.view());
  if (Status s = parallel.status(); !s) return s;
  if (!card) return card.error();
  Result<std::unique_ptr<ByteSink>> sink = open_sink(options->flags);
  if (!sink) return sink.error();
  auto written = write_card(source, **sink, *card);
  if (Status s = parallel.status(); !s) return s;
  if (!written) return written.error();
  if (Status s = (*sink)->commit(); !s) return s;
  if (call.report == nullptr) return {};
  ccd_write_report report{};
  report.file_size = written->file_size;
  report.value_count = written->summary.value_count;
  std::copy(written->root.begin(), written->root.end(), report.root);
  give(report, call.report);
  return {};
}

}  // namespace
}  // namespace cachecard::c_api

using namespace cachecard;
using namespace cachecard::c_api;

ccd_status ccd_writer_create(const ccd_writer_facts* facts, ccd_writer** writer, ccd_error* error) noexcept {
  if (writer != nullptr) *writer = nullptr;
  return guarded(error, [&]() -> Status {
    if (facts == nullptr || writer == nullptr) return argument_error("facts or writer is NULL");
    auto taken = take(facts, "ccd_writer_facts");
    if (!taken) return taken.error();
    constexpr std::uint32_t kFlagsKnown = CCD_CARD_NOT_A_PREFIX | CCD_CARD_PARTIAL_LAYERS;
    if ((taken->flags & ~kFlagsKnown) != 0) return argument_error("an unknown card flag");
    if (taken->restorable > CCD_RESTORABLE_FROM_COUNT) return argument_error("restorable names nothing");
    auto made = std::make_unique<ccd_writer>();
    made->header.flags = taken->flags;
    made->header.layer_count = taken->layer_count;
    made->header.next_position = taken->next_position;
    made->header.restorable = static_cast<Restorable>(taken->restorable);
    made->header.restorable_from = taken->restorable_from;
    made->header.segments.emplace_back();
    *writer = made.release();
    return {};
  });
}

void ccd_writer_destroy(ccd_writer* writer) noexcept { delete writer; }

ccd_status ccd_writer_add_stream(ccd_writer* writer, const ccd_stream* stream, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (writer == nullptr || stream == nullptr) return argument_error("writer or stream is NULL");
    auto taken = take(stream, "ccd_stream");
    if (!taken) return taken.error();
    auto record = stream_record(*taken);
    if (!record) return record.error();
    return put_stream(writer->header, *record);
  });
}

ccd_status ccd_writer_set_identity(ccd_writer* writer, const ccd_identity_value* value,
                                   ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (writer == nullptr || value == nullptr) return argument_error("writer or value is NULL");
    auto taken = take_identity_value(*value);
    if (!taken) return taken.error();
    writer->header.identity.set(std::move(*taken));
    return {};
  });
}

ccd_status ccd_writer_set_tokens(ccd_writer* writer, const int32_t* token_ids, const int32_t* positions,
                                 size_t token_count, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (writer == nullptr) return argument_error("writer is NULL");
    if (token_count > Limits().token_count) {
      return Error{
          ErrorCode::kLimitExceeded, kNoOffset, "header.token_count",
          "found " + std::to_string(token_count) + ", allowed " + std::to_string(Limits().token_count)};
    }
    std::vector<std::int32_t> ids;
    std::vector<std::int32_t> places(token_count);
    if (token_ids != nullptr) ids.assign(token_ids, token_ids + token_count);
    for (std::size_t i = 0; i < token_count; ++i) {
      places[i] = positions != nullptr ? positions[i] : static_cast<std::int32_t>(i);
    }
    writer->token_ids = std::move(ids);
    writer->positions = std::move(places);
    CardHeader& header = writer->header;
    header.token_count = token_count;
    header.segments.front().token_count = token_count;
    header.flags &= ~kHeaderTokensUnknown;
    if (token_ids == nullptr) header.flags |= kHeaderTokensUnknown;
    return {};
  });
}

ccd_status ccd_writer_set_text(ccd_writer* writer, const char* text, size_t size, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (writer == nullptr) return argument_error("writer is NULL");
    if (text == nullptr && size > 0) return argument_error("text is NULL");
    writer->text = size > 0 ? std::string(text, size) : std::string();
    return {};
  });
}

ccd_status ccd_writer_set_rope_table(ccd_writer* writer, const ccd_rope_table* table,
                                     const double* inverse_frequencies, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (writer == nullptr || table == nullptr || inverse_frequencies == nullptr) {
      return argument_error("writer, table or inverse_frequencies is NULL");
    }
    auto taken = take(table, "ccd_rope_table");
    if (!taken) return taken.error();
    auto rope = take_rope_table(*taken, inverse_frequencies);
    if (!rope) return rope.error();
    writer->rope_table = std::move(*rope);
    return {};
  });
}

ccd_status ccd_writer_write_file(const ccd_writer* writer, const char* path, const ccd_values* values,
                                 const ccd_write_options* options, ccd_write_report* report,
                                 ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (path == nullptr) return argument_error("path is NULL");
    return write_to(
        {writer, values, options, report}, [&](std::uint32_t flags) -> Result<std::unique_ptr<ByteSink>> {
          auto file =
              create_file(path, {(flags & CCD_WRITE_NO_SYNC) == 0, (flags & CCD_WRITE_KEEP_EXISTING) == 0});
          if (!file) return file.error();
          return std::unique_ptr<ByteSink>(std::move(*file));
        });
  });
}

ccd_status ccd_writer_write_to(const ccd_writer* writer, const ccd_output* output, const ccd_values* values,
                               const ccd_write_options* options, ccd_write_report* report,
                               ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (output == nullptr) return argument_error("output is NULL");
    auto taken = take(output, "ccd_output");
    if (!taken) return taken.error();
    if (taken->write == nullptr) return argument_error("output.write is NULL");
    return write_to({writer, values, options, report},
                    [&](std::uint32_t) -> Result<std::unique_ptr<ByteSink>> {
                      return std::unique_ptr<ByteSink>(new CallbackSink(*taken));
                    });
  });
}
