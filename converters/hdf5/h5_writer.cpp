#include "h5_writer.hpp"

#include <algorithm>
#include <set>

#include "facts_writer.hpp"
#include "h5_layout.hpp"
#include "kept_scratch.hpp"
#include "step_writer.hpp"

namespace cachecard::hdf5 {
namespace {

constexpr std::uint64_t kPieceBytes = 16u << 20;  ///< what is decoded at a time, unless one chunk has more

class CardExport {
 public:
  CardExport(const CardReader& card, const H5WriteOptions& options) : card_(card), options_(options) {}
  Result<H5WriteReport> run(const H5Node& root);

 private:
  Status write_layers(const H5Node& root);
  Status write_stream(const H5Node& group, std::size_t stream);
  Status write_values(const H5Node& group, std::size_t stream);
  Status write_opaque(const H5Node& group, std::size_t stream);
  Status write_payload(const H5Node& group, std::size_t stream);
  Status write_sections(const H5Node& root);
  Status decode(std::size_t stream, std::uint64_t first, std::uint64_t count, ChunkedWriter& values);
  Status advance(std::uint64_t bytes);
  void find_left_out();
  std::uint64_t stored_bytes(const std::function<bool(const FrameHeader&)>& counts) const;

  const CardReader& card_;
  const H5WriteOptions& options_;
  std::uint64_t total_ = 0;
  H5WriteReport report_;
  std::vector<std::byte> buffer_;
  ChunkBuffers buffers_;
  KeptScratch scratch_;
  StepWriter::Buffers step_buffers_;
};

Result<H5WriteReport> CardExport::run(const H5Node& root) {
  if (Status s = write_text(root, "format", kFormatName); !s) return s.error();
  if (Status s = write_number(root, "layout_version", kLayoutVersion); !s) return s.error();
  if (Status s = write_text(root, "content", options_.coded ? kCoded : kDecoded); !s) return s.error();
  if (Status s = write_facts(card_, root); !s) return s.error();
  for (const StreamRecord& stream : card_.header().streams) {
    total_ += is_opaque(stream)
                  ? stream.opaque_size
                  : stream.token_count * row_elements(stream) * dtype_info(decoded_type(stream))->block_bytes;
  }
  if (options_.coded) total_ = stored_bytes([](const FrameHeader&) { return true; });
  if (Status s = write_layers(root); !s) return s.error();
  if (options_.coded) {
    if (Status s = write_sections(root); !s) return s.error();
  } else {
    find_left_out();
  }
  return report_;
}

std::uint64_t CardExport::stored_bytes(const std::function<bool(const FrameHeader&)>& counts) const {
  std::uint64_t bytes = 0;
  for (const FrameHeader& frame : card_.frames()) bytes += counts(frame) ? frame.stored_size : 0;
  return bytes;
}

Status CardExport::advance(std::uint64_t bytes) {
  report_.value_bytes += bytes;
  if (!options_.progress || options_.progress(report_.value_bytes, total_)) return {};
  return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped while writing values"};
}

Status CardExport::write_layers(const H5Node& root) {
  auto layers = create_group(root, "layers");
  if (!layers) return layers.error();
  std::optional<H5Node> layer;
  std::uint32_t at = kNoLayer;
  for (std::size_t i = 0; i < card_.header().streams.size(); ++i) {
    const StreamRecord& stream = card_.header().streams[i];
    if (stream.layer != at) {
      auto group = create_group(*layers, numbered(stream.layer));
      if (!group) return group.error();
      layer.emplace(std::move(*group));
      at = stream.layer;
    }
    auto group = create_group(*layer, stream_name(stream));
    if (!group) return group.error();
    if (Status s = write_stream(*group, i); !s) return s;
  }
  return {};
}

Status CardExport::write_stream(const H5Node& group, std::size_t stream) {
  const StreamRecord& record = card_.header().streams[stream];
  if (Status s = write_stream_facts(record, group); !s) return s;
  std::vector<FrameHeader> frames;
  for (const std::uint32_t index : card_.chunks(stream)) frames.push_back(card_.frames()[index]);
  if (Status s = write_records<FrameHeader>(group, "chunk", frames); !s) return s;
  if (!is_opaque(record)) {
    auto steps = StepWriter::create(card_, stream, group, step_buffers_);
    if (!steps) return steps.error();
    for (const std::uint32_t index : card_.chunks(stream)) {
      if (Status s = steps->append(index); !s) return s;
    }
    if (Status s = steps->finish(group); !s) return s;
  }
  if (options_.coded) return write_payload(group, stream);
  return is_opaque(record) ? write_opaque(group, stream) : write_values(group, stream);
}

Status CardExport::write_values(const H5Node& group, std::size_t stream) {
  const StreamRecord& record = card_.header().streams[stream];
  const std::uint64_t dims[] = {record.token_count, record.kv_head_count, record.head_dim};
  const Handle type = float_type(decoded_type(record));
  auto values = ChunkedWriter::create(group, "values", type.get(), dims, options_.deflate_level, options_.parallel,
                                      buffers_);
  if (!values) return values.error();
  // Whole chunks of the card, as many as decode at once, so that none is decoded twice.
  const std::uint64_t row = row_elements(record) * H5Tget_size(type.get());
  std::uint64_t first = record.first_token;
  std::uint64_t count = 0;
  for (const std::uint32_t index : card_.chunks(stream)) {
    const std::uint64_t more = card_.frames()[index].token_count;
    if (count > 0 && (count + more) * row > kPieceBytes) {
      if (Status s = decode(stream, first, count, *values); !s) return s;
      first += count;
      count = 0;
    }
    count += more;
  }
  return count > 0 ? decode(stream, first, count, *values) : Status{};
}

Status CardExport::decode(std::size_t stream, std::uint64_t first, std::uint64_t count, ChunkedWriter& values) {
  const StreamRecord& record = card_.header().streams[stream];
  DecodeTarget target;
  target.dtype = decoded_type(record);
  target.channel_stride = dtype_info(target.dtype)->block_bytes;
  target.head_stride = target.channel_stride * record.head_dim;
  target.token_stride = target.head_stride * record.kv_head_count;
  const std::span<std::byte> room = values.room(count * static_cast<std::uint64_t>(target.token_stride));
  target.base = room.data();
  DecodeRequest request;
  request.stream = stream;
  request.first_token = first;
  request.token_count = count;
  if (Status s = card_.decode(request, target, options_.parallel, scratch_.allocator()); !s) return s;
  if (Status s = values.write_room(); !s) return s;
  return advance(room.size());
}

Status CardExport::write_opaque(const H5Node& group, std::size_t stream) {
  const std::uint64_t dims[] = {card_.header().streams[stream].opaque_size};
  auto bytes = ChunkedWriter::create(group, "bytes", H5T_STD_U8LE, dims, options_.deflate_level, options_.parallel,
                                     buffers_);
  if (!bytes) return bytes.error();
  for (const std::uint32_t index : card_.chunks(stream)) {
    auto piece = card_.read_section(index);
    if (!piece) return piece.error();
    if (Status s = bytes->append(*piece); !s) return s;
    if (Status s = advance(piece->size()); !s) return s;
  }
  return {};
}

/// The payloads of a stream's chunks as the card has them, one behind the other.
Status CardExport::write_payload(const H5Node& group, std::size_t stream) {
  std::uint64_t size = 0;
  for (const std::uint32_t index : card_.chunks(stream)) size += card_.frames()[index].stored_size;
  auto payload = create_array(group, "payload", H5T_STD_U8LE, {&size, 1});
  if (!payload) return payload.error();
  std::uint64_t at = 0;
  for (const std::uint32_t index : card_.chunks(stream)) {
    buffer_.resize(card_.frames()[index].stored_size);
    if (Status s = card_.read_stored(index, buffer_); !s) return s;
    if (Status s = write_rows(*payload, H5T_STD_U8LE, at, buffer_.size(), buffer_); !s) return s;
    if (Status s = advance(buffer_.size()); !s) return s;
    at += buffer_.size();
  }
  return {};
}

/// All of the card but its chunks' payloads; the directory's is the frame headers before it.
Status CardExport::write_sections(const H5Node& root) {
  auto group = create_group(root, "card");
  if (!group) return group.error();
  const Prologue& prologue = card_.prologue();
  if (Status s = write_records<Prologue>(*group, "prologue", {&prologue, 1}); !s) return s;
  std::vector<std::uint8_t> header(prologue.header_size);
  if (Status s = card_.source().read_at(encoded_size<Prologue>(), std::as_writable_bytes(std::span(header))); !s) {
    return s;
  }
  if (Status s = write_numbers<std::uint8_t>(*group, "header", header); !s) return s;
  if (Status s = write_records<FrameHeader>(*group, "frame_header", card_.frames()); !s) return s;
  if (Status s = write_records<Trailer>(*group, "trailer", {&card_.trailer(), 1}); !s) return s;
  const auto is_small = [](const FrameHeader& frame) { return !is_chunk(frame) && !is_directory(frame); };
  const std::uint64_t size = stored_bytes(is_small);
  auto sections = create_array(*group, "sections", H5T_STD_U8LE, {&size, 1});
  if (!sections) return sections.error();
  std::uint64_t at = 0;
  for (std::size_t i = 0; i < card_.frames().size(); ++i) {
    if (!is_small(card_.frames()[i]) || card_.frames()[i].stored_size == 0) continue;
    buffer_.resize(card_.frames()[i].stored_size);
    if (Status s = card_.read_stored(i, buffer_); !s) return s;
    if (Status s = write_rows(*sections, H5T_STD_U8LE, at, buffer_.size(), buffer_); !s) return s;
    if (Status s = advance(buffer_.size()); !s) return s;
    at += buffer_.size();
  }
  return {};
}

/// What only the coded form carries.
void CardExport::find_left_out() {
  std::set<std::string> names;
  for (const FrameHeader& frame : card_.frames()) {
    switch (static_cast<SectionType>(frame.section_type)) {
      case SectionType::kTokenIds:
      case SectionType::kText:
      case SectionType::kPositions:
      case SectionType::kBitWidthMap:
      case SectionType::kParameters:
      case SectionType::kRopeTable:
      case SectionType::kChunk:
      case SectionType::kProvenance:
      case SectionType::kSummary:
      case SectionType::kDirectory: break;
      default: names.insert(std::string(name_of(static_cast<SectionType>(frame.section_type)))); break;
    }
  }
  report_.left_out.assign(names.begin(), names.end());
}

}  // namespace

Result<H5WriteReport> write_h5(const CardReader& card, RandomSink& sink, const H5WriteOptions& options) {
  auto file = H5File::create(sink);
  if (!file) return file.error();
  Result<H5WriteReport> report = CardExport(card, options).run(root_of(*file));
  const Status closed = file->close();
  if (!report) return report;
  if (!closed) return closed.error();
  return report;
}

}  // namespace cachecard::hdf5
