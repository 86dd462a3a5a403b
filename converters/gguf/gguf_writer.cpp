#include "gguf_writer.hpp"

#include <algorithm>
#include <array>
#include <vector>

#include "gguf_head.hpp"
#include "gguf_names.hpp"
#include "stored_form.hpp"

namespace cachecard::gguf {
namespace {

bool is_opaque(const StreamRecord& stream) {
  return static_cast<StreamKind>(stream.stream) == StreamKind::kOpaque;
}

template <class Record>
void add_records(GgufHead& head, const std::vector<Record>& records) {
  for_each_field<Record>([&](const auto& field, std::size_t) {
    using Member = std::remove_cvref_t<decltype(std::declval<Record&>().*(field.member))>;
    if constexpr (std::is_integral_v<Member>) {
      std::vector<Member> values;
      for (const Record& record : records) values.push_back(record.*(field.member));
      head.array(field_key<Record>(field.name), std::span<const Member>(values));
    }
  });
}

template <class Number>
Number number_of(const std::string& bytes) {
  Number number{};
  std::memcpy(&number, bytes.data(), std::min(bytes.size(), sizeof(number)));
  return number;
}

void add_identity(GgufHead& head, const Identity& identity) {
  for (const Identity::Value& value : identity.values()) {
    const IdentityFieldInfo* info = identity_field_info(value.field_id);
    const std::string key =
        identity_key(info != nullptr ? std::string(info->name) : std::to_string(value.field_id));
    switch (value.type) {
      case ValueType::kText:
        head.text(key, value.bytes);
        break;
      case ValueType::kU64:
        head.number(key, number_of<std::uint64_t>(value.bytes));
        break;
      case ValueType::kF64:
        head.number(key, number_of<double>(value.bytes));
        break;
      case ValueType::kDigest:
        if (info != nullptr) {
          head.text(key, format_identity_value(value));
        } else {
          const std::vector<std::uint8_t> bytes(value.bytes.begin(), value.bytes.end());
          head.array(key, std::span<const std::uint8_t>(bytes));
        }
        break;
    }
  }
}

class GgufWriter {
 public:
  GgufWriter(const CardReader& card, ByteSink& sink, const GgufWriteOptions& options)
      : card_(card), header_(card.header()), sink_(sink), options_(options) {}

  Result<GgufWriteReport> run();

 private:
  Status make_head();
  void add_header();
  Status add_lists();
  Status add_rope();
  void add_tensors();
  void add_form();
  Status write_data();
  Status write_rows(std::size_t stream);
  Status write_opaque(std::size_t stream);
  Status write_form();
  Status write(std::span<const std::byte> bytes);
  Status pad();
  Status read(std::size_t stream, const FrameHeader& chunk, std::vector<std::byte>& rows) const;
  std::uint64_t data_bytes(const StreamRecord& stream) const;

  const CardReader& card_;
  CardHeader header_;  ///< as the file has it: types of options.dtype
  ByteSink& sink_;
  const GgufWriteOptions& options_;
  GgufHead head_;
  std::optional<StoredForm> form_;
  std::uint64_t written_ = 0;
};

std::uint64_t GgufWriter::data_bytes(const StreamRecord& stream) const {
  if (is_opaque(stream)) return stream.opaque_size;
  return stream.token_count * row_bytes(stream, static_cast<DType>(stream.dtype));
}

void GgufWriter::add_header() {
  const Identity& identity = header_.identity;
  head_.text("general.type", kCacheType);
  head_.text("general.architecture", identity.text(IdentityField::kArchitecture).value_or("unknown"));
  if (const auto name = identity.text(IdentityField::kModelName)) head_.text("general.name", *name);
  head_.number("general.alignment", static_cast<std::uint32_t>(kAlignment));
  head_.number("kv_cache.version", kConventionVersion);
  head_.number("kv_cache.token_count", header_.token_count);
  head_.number("kv_cache.next_position", header_.next_position);
  head_.number("kv_cache.layer_count", header_.layer_count);
  head_.number("kv_cache.flags", header_.flags);
  head_.text("kv_cache.restorable", name_of(header_.restorable));
  head_.number("kv_cache.restorable_from", header_.restorable_from);
  add_records(head_, header_.streams);
  add_records(head_, header_.parts);
  add_records(head_, header_.segments);
  add_identity(head_, identity);
}

Status GgufWriter::add_lists() {
  auto runs = card_.positions();
  if (!runs) return runs.error();
  const auto positions = expand_positions(*runs);
  head_.array("kv_cache.positions", std::span<const std::int32_t>(positions));
  if ((header_.flags & kHeaderTokensUnknown) == 0) {
    auto ids = card_.token_ids();
    if (!ids) return ids.error();
    head_.array("kv_cache.token_ids", std::span<const std::int32_t>(*ids));
  }
  if (const auto frame = card_.find(SectionType::kText, 0)) {
    auto text = card_.read_section(*frame);
    if (!text) return text.error();
    head_.text("kv_cache.text", {reinterpret_cast<const char*>(text->data()), text->size()});
  }
  return {};
}

Status GgufWriter::add_rope() {
  const auto frame = card_.find(SectionType::kRopeTable);
  if (!frame) return {};
  auto payload = card_.read_section(*frame);
  if (!payload) return payload.error();
  auto table = parse_rope_table(*payload);
  if (!table) return table.error();
  head_.number("kv_cache.rope.pairing", std::uint32_t{table->record.pairing});
  head_.number("kv_cache.rope.rotated_offset", table->record.rotated_offset);
  head_.number("kv_cache.rope.rotated_width", table->record.rotated_width);
  head_.number("kv_cache.rope.magnitude", table->record.magnitude);
  head_.array("kv_cache.rope.inverse_frequencies", std::span<const double>(table->inverse_frequencies));
  return {};
}

void GgufWriter::add_tensors() {
  for (const StreamRecord& stream : header_.streams) {
    const std::uint64_t rows[] = {row_elements(stream), stream.token_count};
    const std::uint64_t bytes[] = {stream.opaque_size};
    if (is_opaque(stream)) {
      head_.tensor(tensor_name(stream), bytes, kI8Tensor, stream.opaque_size);
    } else if (stream.token_count > 0) {
      head_.tensor(tensor_name(stream), rows, stream.dtype, data_bytes(stream));
    }
  }
}

void GgufWriter::add_form() {
  constexpr std::uint64_t kFrameBytes = encoded_size<FrameHeader>();
  head_.text("cachecard.root", to_hex(form_->root));
  head_.number("cachecard.required_features", form_->required_features);
  head_.number("cachecard.optional_features", form_->optional_features);
  head_.number("cachecard.predicted_error", form_->predicted_error);
  head_.number("cachecard.zstd_level", form_->zstd_level);
  const std::uint64_t frames[] = {kFrameBytes, form_->frames.size()};
  head_.tensor(kFramesTensor, frames, kI8Tensor, kFrameBytes * form_->frames.size());
  const std::uint64_t sections[] = {form_->carried_size};
  if (form_->carried_size > 0) head_.tensor(kSectionsTensor, sections, kI8Tensor, form_->carried_size);
}

Status GgufWriter::make_head() {
  if (options_.dtype) {
    for (StreamRecord& stream : header_.streams) {
      if (is_opaque(stream)) continue;
      stream.dtype = static_cast<std::uint8_t>(*options_.dtype);
      stream.hadamard_size = 1;
    }
  } else {
    auto summary = card_.summary();
    if (!summary) return summary.error();
    form_ = stored_form_of(card_, *summary);
  }
  add_header();
  if (Status s = add_lists(); !s) return s;
  if (Status s = add_rope(); !s) return s;
  add_tensors();
  if (form_) add_form();
  return {};
}

Status GgufWriter::write(std::span<const std::byte> bytes) {
  written_ += bytes.size();
  return sink_.write(bytes);
}

Status GgufWriter::pad() {
  static constexpr std::array<std::byte, kAlignment> kZeros{};
  return write(std::span(kZeros).first(padded(written_) - written_));
}

/// One chunk of the card as the tensor has it.
Status GgufWriter::read(std::size_t index, const FrameHeader& chunk, std::vector<std::byte>& rows) const {
  const StreamRecord& stream = header_.streams[index];
  rows.resize(chunk.token_count * row_bytes(stream, static_cast<DType>(stream.dtype)));
  if (!options_.dtype) {
    std::vector<std::byte> scratch(card_.scratch_bytes(index));
    return card_.read_rows(index, chunk.first_token, chunk.token_count, rows, scratch);
  }
  DecodeTarget target;
  target.base = rows.data();
  target.dtype = *options_.dtype;
  target.channel_stride = dtype_info(*options_.dtype)->block_bytes;
  target.head_stride = target.channel_stride * stream.head_dim;
  target.token_stride = target.head_stride * stream.kv_head_count;
  return card_.decode({index, chunk.first_token, chunk.token_count, false, {}}, target);
}

Status GgufWriter::write_rows(std::size_t stream) {
  struct Batch {
    const GgufWriter& self;
    std::size_t stream;
    std::span<const std::uint32_t> frames;
    std::vector<std::vector<std::byte>> rows;
    std::vector<Status> statuses;
  };
  const std::size_t width = std::max<std::size_t>(1, options_.parallel.width);
  Batch batch{*this, stream, {}, std::vector<std::vector<std::byte>>(width), std::vector<Status>(width)};
  const auto chunks = card_.chunks(stream);
  for (std::size_t at = 0; at < chunks.size(); at += width) {
    batch.frames = chunks.subspan(at, std::min(width, chunks.size() - at));
    options_.parallel(
        batch.frames.size(),
        [](void* context, std::size_t i) {
          auto& b = *static_cast<Batch*>(context);
          b.statuses[i] = b.self.read(b.stream, b.self.card_.frames()[b.frames[i]], b.rows[i]);
        },
        &batch);
    for (std::size_t i = 0; i < batch.frames.size(); ++i) {
      if (!batch.statuses[i]) return batch.statuses[i];
      if (Status s = write(batch.rows[i]); !s) return s;
    }
    if (options_.progress && !options_.progress(written_, head_.data_size())) {
      return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped while writing tensors"};
    }
  }
  return {};
}

Status GgufWriter::write_opaque(std::size_t stream) {
  const std::uint64_t size = header_.streams[stream].opaque_size;
  std::vector<std::byte> piece;
  for (std::uint64_t at = 0; at < size; at += piece.size()) {
    piece.resize(std::min<std::uint64_t>(1u << 20, size - at));
    if (Status s = card_.read_opaque(stream, at, piece); !s) return s;
    if (Status s = write(piece); !s) return s;
  }
  return {};
}

Status GgufWriter::write_form() {
  std::vector<std::byte> bytes(encoded_size<FrameHeader>());
  for (const FrameHeader& frame : form_->frames) {
    store(frame, bytes);
    if (Status s = write(bytes); !s) return s;
  }
  if (Status s = pad(); !s) return s;
  for (std::size_t i = 0; i < card_.frames().size(); ++i) {
    const FrameHeader& frame = card_.frames()[i];
    if (!is_carried(frame)) continue;
    bytes.resize(frame.stored_size);
    if (Status s = card_.read_stored(i, bytes); !s) return s;
    if (Status s = write(bytes); !s) return s;
  }
  return pad();
}

Status GgufWriter::write_data() {
  for (std::size_t i = 0; i < header_.streams.size(); ++i) {
    if (Status s = is_opaque(header_.streams[i]) ? write_opaque(i) : write_rows(i); !s) return s;
    if (Status s = pad(); !s) return s;
  }
  return form_ ? write_form() : Status();
}

Result<GgufWriteReport> GgufWriter::run() {
  if (Status s = make_head(); !s) return s.error();
  const auto head = head_.bytes();
  if (Status s = write(head); !s) return s.error();
  if (Status s = write_data(); !s) return s.error();
  if (written_ != head.size() + head_.data_size()) {
    return Error{ErrorCode::kInternal, kNoOffset, {}, "the tensors are not as large as the table says"};
  }
  return GgufWriteReport{written_, form_.has_value()};
}

}  // namespace

Result<GgufWriteReport> write_gguf(const CardReader& card, ByteSink& sink, const GgufWriteOptions& options) {
  return GgufWriter(card, sink, options).run();
}

}  // namespace cachecard::gguf
