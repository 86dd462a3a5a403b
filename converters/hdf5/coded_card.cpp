#include "coded_card.hpp"

#include <algorithm>
#include <cstring>
#include <map>

#include "h5_layout.hpp"
#include "h5_write.hpp"

namespace cachecard::hdf5 {
namespace {

using StreamKey = std::pair<std::uint32_t, std::uint8_t>;  ///< layer, stream

constexpr std::uint64_t kFrameBytes = encoded_size<FrameHeader>();
constexpr std::uint64_t kFramesAtOnce = 1024;
constexpr std::uint64_t kAlignment = 64;

std::uint64_t padding(std::uint64_t size) { return (kAlignment - size % kAlignment) % kAlignment; }

/// A card's bytes in a file: everything that stands between the payloads, and how large each dataset of them is.
struct CodedParts {
  std::vector<std::byte> begin;  ///< prologue and header, padded
  std::vector<std::byte> trailer;
  H5Array frames;
  H5Array sections;
  std::map<StreamKey, std::uint64_t> payload_bytes;
  std::uint64_t card_bytes = 0;
};

Result<H5Array> open_bytes(const H5Node& parent, const std::string& name, Extent extent) {
  const hid_t type = H5T_STD_U8LE;
  return H5Array::open(parent, name, {&type, 1}, {&extent, 1});
}

template <class Record>
Result<H5Array> open_records(const H5Node& parent, const std::string& name, Extent extent) {
  const Handle compound = record_type<Record>();
  const hid_t type = compound.get();
  return H5Array::open(parent, name, {&type, 1}, {&extent, 1});
}

Result<H5Array> open_payload(const H5Node& root, const StreamKey& key, std::uint64_t size) {
  StreamRecord stream;
  stream.layer = key.first;
  stream.stream = key.second;
  auto layers = open_group(root, "layers");
  if (!layers) return layers.error();
  auto layer = open_group(*layers, numbered(key.first));
  if (!layer) return layer.error();
  auto group = open_group(*layer, stream_name(stream));
  if (!group) return group.error();
  return open_bytes(*group, "payload", exactly(size));
}

/// Calls visit(frame) for each frame header, in order, of which a thousand are in memory.
Status for_each_frame(const H5Array& frames, const std::function<Status(const FrameHeader&)>& visit) {
  std::vector<std::byte> bytes;
  for (std::uint64_t first = 0; first < frames.row_count(); first += kFramesAtOnce) {
    const std::uint64_t count = std::min(kFramesAtOnce, frames.row_count() - first);
    bytes.resize(count * kFrameBytes);
    if (Status s = frames.read_rows(first, count, bytes); !s) return s;
    for (std::uint64_t i = 0; i < count; ++i) {
      if (Status s = visit(load<FrameHeader>(std::span(bytes).subspan(i * kFrameBytes))); !s) return s;
    }
  }
  return {};
}

Result<CodedParts> open_parts(const H5Node& root) {
  const Limits limits;
  auto group = open_group(root, "card");
  if (!group) return group.error();
  auto prologue = open_records<Prologue>(*group, "prologue", exactly(1));
  if (!prologue) return prologue.error();
  auto header = open_bytes(*group, "header", at_most(limits.header_bytes));
  if (!header) return header.error();
  auto trailer = open_records<Trailer>(*group, "trailer", exactly(1));
  if (!trailer) return trailer.error();
  auto frames = open_records<FrameHeader>(*group, "frame_header", at_most(limits.frame_count));
  if (!frames) return frames.error();
  CodedParts parts;
  for (const H5Array* array : {&*prologue, &*header}) {
    auto bytes = read_all(*array);
    if (!bytes) return bytes.error();
    parts.begin.insert(parts.begin.end(), bytes->begin(), bytes->end());
  }
  parts.begin.resize(parts.begin.size() + padding(parts.begin.size()));
  auto end = read_all(*trailer);
  if (!end) return end.error();
  parts.trailer = std::move(*end);
  std::uint64_t section_bytes = 0;
  parts.card_bytes = parts.begin.size() + parts.trailer.size();
  const Status counted = for_each_frame(*frames, [&](const FrameHeader& frame) -> Status {
    const std::uint64_t size = frame.stored_size;
    if (size > limits.section_bytes && !is_directory(frame)) {
      return Error{ErrorCode::kLimitExceeded, kNoOffset, frames->path(),
                   "stored_size: found " + std::to_string(size) + ", allowed is " + std::to_string(limits.section_bytes)};
    }
    parts.card_bytes += kFrameBytes + size + padding(size);
    if (is_chunk(frame)) parts.payload_bytes[{frame.layer, frame.stream}] += size;
    if (!is_chunk(frame) && !is_directory(frame)) section_bytes += size;
    if (parts.payload_bytes.size() <= limits.stream_count) return {};
    return Error{ErrorCode::kLimitExceeded, kNoOffset, frames->path(), "chunks of more streams than a card may have"};
  });
  if (!counted) return counted.error();
  auto sections = open_bytes(*group, "sections", exactly(section_bytes));
  if (!sections) return sections.error();
  for (const auto& [key, size] : parts.payload_bytes) {
    auto payload = open_payload(root, key, size);
    if (!payload) return payload.error();
  }
  parts.frames = std::move(*frames);
  parts.sections = std::move(*sections);
  return parts;
}

/// The card's bytes in file order.
class CodedStream final : public ByteStream {
 public:
  CodedStream(const H5Node& root, const CodedParts& parts) : root_(root), parts_(parts), piece_(parts.begin) {}

  Result<std::size_t> read(std::span<std::byte> out) override {
    while (true) {
      if (!piece_.empty()) {
        const std::size_t size = std::min(out.size(), piece_.size());
        std::memcpy(out.data(), piece_.data(), size);
        piece_ = piece_.subspan(size);
        return size;
      }
      if (payload_left_ > 0) return read_payload(out);
      if (padding_left_ > 0) {
        padding_.assign(std::exchange(padding_left_, 0), std::byte{0});
        piece_ = padding_;
      } else if (next_frame_ < parts_.frames.row_count()) {
        if (Status s = begin_frame(); !s) return s.error();
      } else if (!at_trailer_) {
        at_trailer_ = true;
        piece_ = parts_.trailer;
      } else {
        return std::size_t{0};
      }
    }
  }

 private:
  Status begin_frame() {
    const std::uint64_t in_window = next_frame_ % kFramesAtOnce;
    if (in_window == 0) {
      window_.resize(std::min(kFramesAtOnce, parts_.frames.row_count() - next_frame_) * kFrameBytes);
      if (Status s = parts_.frames.read_rows(next_frame_, window_.size() / kFrameBytes, window_); !s) return s;
    }
    piece_ = std::span<const std::byte>(window_).subspan(in_window * kFrameBytes, kFrameBytes);
    const auto frame = load<FrameHeader>(piece_);
    payload_left_ = frame.stored_size;
    padding_left_ = padding(frame.stored_size);
    at_ = 0;
    payload_ = is_directory(frame) ? &parts_.frames : &parts_.sections;
    if (is_directory(frame)) payload_left_ = std::min(payload_left_, next_frame_ * kFrameBytes);
    ++next_frame_;
    if (!is_chunk(frame)) {
      if (!is_directory(frame)) at_ = std::exchange(section_at_, section_at_ + frame.stored_size);
      return {};
    }
    const StreamKey key{frame.layer, frame.stream};
    if (!open_ || *open_ != key) {
      auto array = open_payload(root_, key, parts_.payload_bytes.at(key));
      if (!array) return array.error();
      stream_payload_ = std::move(*array);
      open_ = key;
    }
    payload_ = &stream_payload_;
    at_ = std::exchange(stream_at_[key], stream_at_[key] + frame.stored_size);
    return {};
  }

  Result<std::size_t> read_payload(std::span<std::byte> out) {
    const std::uint64_t row = payload_->grid().row_bytes();
    std::uint64_t size = std::min<std::uint64_t>(out.size(), payload_left_);
    if (row > 1) {  // the directory's payload: frame headers, of which a piece may begin or end inside one
      const std::uint64_t first = at_ / row;
      size = std::min(size, row - at_ % row);
      std::array<std::byte, kFrameBytes> one;
      if (Status s = payload_->read_rows(first, 1, one); !s) return s.error();
      std::memcpy(out.data(), one.data() + at_ % row, size);
    } else if (Status s = payload_->read_rows(at_, size, out.first(size)); !s) {
      return s.error();
    }
    at_ += size;
    payload_left_ -= size;
    return static_cast<std::size_t>(size);
  }

  const H5Node& root_;
  const CodedParts& parts_;
  std::span<const std::byte> piece_;  ///< to be given next
  std::vector<std::byte> window_, padding_;
  std::uint64_t next_frame_ = 0;
  std::uint64_t payload_left_ = 0, padding_left_ = 0;
  const H5Array* payload_ = nullptr;
  std::uint64_t at_ = 0;  ///< of the payload's next byte in its dataset
  std::uint64_t section_at_ = 0;
  H5Array stream_payload_;
  std::optional<StreamKey> open_;
  std::map<StreamKey, std::uint64_t> stream_at_;
  bool at_trailer_ = false;
};

/// Hands on what another stream gives and writes it to a sink.
class TeeStream final : public ByteStream {
 public:
  using Progress = std::function<bool(std::uint64_t, std::uint64_t)>;
  TeeStream(ByteStream& from, ByteSink& to, const Progress& progress, std::uint64_t total)
      : from_(from), to_(to), progress_(progress), total_(total) {}

  Result<std::size_t> read(std::span<std::byte> out) override {
    auto got = from_.read(out);
    if (!got) return got;
    if (Status s = to_.write(out.first(*got)); !s) return s.error();
    done_ += *got;
    if (!progress_ || progress_(done_, total_)) return got;
    return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped while writing the card"};
  }

 private:
  ByteStream& from_;
  ByteSink& to_;
  const Progress& progress_;
  std::uint64_t total_;
  std::uint64_t done_ = 0;
};

class CodedCard final : public H5Card {
 public:
  CodedCard(H5File file, const Digest128& parent_root) : file_(std::move(file)), root_(root_of(file_)) {
    parent_root_ = parent_root;
  }

  Status open() {
    auto parts = open_parts(root_);
    if (!parts) return parts.error();
    parts_ = std::move(*parts);
    return {};
  }

  Result<Trailer> write_card(ByteSink& sink, const TeeStream::Progress& progress) const override {
    CodedStream stream(root_, parts_);
    TeeStream tee(stream, sink, progress, parts_.card_bytes);
    auto report = verify(tee);
    if (!report) return report.error();
    return report->trailer;
  }

 private:
  H5File file_;
  H5Node root_;
  CodedParts parts_;
};

}  // namespace

Result<std::unique_ptr<H5Card>> open_coded_card(H5File file, const Digest128& parent_root) {
  auto card = std::make_unique<CodedCard>(std::move(file), parent_root);
  if (Status s = card->open(); !s) return s.error();
  return std::unique_ptr<H5Card>(std::move(card));
}

}  // namespace cachecard::hdf5
