#include "llama_server/encoded_check.hpp"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <mutex>
#include <optional>

#include "llama_cpp/float_types.hpp"

namespace cachecard::llama_server {
namespace {

constexpr std::uint64_t kOpaqueStep = 1u << 20;

/// What was written, as bytes to read, before it is committed.
class WrittenSource final : public ByteSource {
 public:
  WrittenSource(const RandomSink& sink, std::uint64_t size) : sink_(sink), size_(size) {}
  std::uint64_t size() const override { return size_; }
  Status read_at(std::uint64_t offset, std::span<std::byte> out) const override {
    if (offset > size_ || out.size() > size_ - offset) {
      return Error{ErrorCode::kTruncated, size_, {}, "the card ends before it"};
    }
    return sink_.read_at(offset, out);
  }

 private:
  const RandomSink& sink_;
  std::uint64_t size_;
};

Error differs(const StreamRecord& stream, std::uint64_t token) {
  return {ErrorCode::kInternal,
          kNoOffset,
          {},
          "the card decodes to other values than were encoded: layer " + std::to_string(stream.layer) + ", " +
              std::string(name_of(static_cast<StreamKind>(stream.stream))) + ", token " +
              std::to_string(token)};
}

/// One chunk, or one stream's opaque bytes.
struct Piece {
  std::size_t stream = 0;
  std::size_t frame = 0;
  std::uint64_t first_token = 0;
  std::uint64_t token_count = 0;
};

std::vector<Piece> pieces_of(const CardReader& card) {
  std::vector<Piece> pieces;
  for (std::size_t s = 0; s < card.header().streams.size(); ++s) {
    if (static_cast<StreamKind>(card.header().streams[s].stream) == StreamKind::kOpaque) {
      pieces.push_back({s, 0, 0, 0});
      continue;
    }
    for (const std::uint32_t frame : card.chunks(s)) {
      pieces.push_back({s, frame, card.frames()[frame].first_token, card.frames()[frame].token_count});
    }
  }
  return pieces;
}

/// Compares pieces until none is left or one differs. Several of it run at once.
class Comparison {
 public:
  Comparison(const CardReader& card, const CacheSource& source, const std::function<bool()>& interrupted)
      : card_(card), source_(source), interrupted_(interrupted), pieces_(pieces_of(card)) {}

  void work() {
    Buffers buffers;
    for (std::size_t i = next_++; i < pieces_.size() && !failed_; i = next_++) {
      const bool stop = interrupted_ && interrupted_();
      Status same =
          stop ? Status(Error{ErrorCode::kInterrupted, kNoOffset, {}, ""}) : compare(pieces_[i], buffers);
      if (same) continue;
      const std::lock_guard guard(mutex_);
      if (!failed_.exchange(true)) error_ = same.error();
    }
  }

  Result<std::uint64_t> result() const {
    if (error_) return *error_;
    return nonfinite_.load();
  }

 private:
  struct Buffers {
    std::vector<std::byte> encoded, original, scratch;
  };

  Status compare(const Piece& piece, Buffers& buffers) {
    const StreamRecord& stream = card_.header().streams[piece.stream];
    if (piece.token_count == 0) return compare_opaque(piece.stream, stream, buffers);
    const std::uint64_t row = row_bytes(stream, static_cast<DType>(stream.dtype));
    buffers.encoded.resize(static_cast<std::size_t>(row * piece.token_count));
    buffers.original.resize(buffers.encoded.size());
    buffers.scratch.resize(card_.scratch_bytes(piece.stream));
    Status got =
        card_.read_rows(piece.stream, piece.first_token, piece.token_count, buffers.encoded, buffers.scratch);
    if (!got) return got;
    got = source_.read_rows(piece.stream, piece.first_token, piece.token_count, buffers.original);
    if (!got) return got;
    if (std::memcmp(buffers.encoded.data(), buffers.original.data(), buffers.encoded.size()) == 0) {
      nonfinite_ += count_nonfinite(static_cast<DType>(stream.dtype), buffers.encoded);
      return {};
    }
    const std::uint8_t codec = card_.frames()[piece.frame].codec;
    if (codec == static_cast<std::uint8_t>(Codec::kPlanes) || codec == static_cast<std::uint8_t>(Codec::kEntropy)) {
      return compare_lossy(piece, stream, buffers);
    }
    const auto where =
        std::mismatch(buffers.encoded.begin(), buffers.encoded.end(), buffers.original.begin());
    const auto byte = static_cast<std::uint64_t>(where.first - buffers.encoded.begin());
    return differs(stream, piece.first_token + byte / row);
  }

  /// A lossy chunk: its errors stay under half a step, but for the rounding to the element type.
  Status compare_lossy(const Piece& piece, const StreamRecord& stream, Buffers& buffers) const {
    auto bound = card_.squared_error_bound(piece.frame);
    if (!bound) return bound.error();
    const auto dtype = static_cast<DType>(stream.dtype);
    const std::size_t count = static_cast<std::size_t>(piece.token_count * row_elements(stream));
    std::vector<float> encoded(count);
    std::vector<float> original(count);
    llama_cpp::convert_floats(dtype, DType::kF32, buffers.encoded, std::as_writable_bytes(std::span(encoded)));
    llama_cpp::convert_floats(dtype, DType::kF32, buffers.original, std::as_writable_bytes(std::span(original)));
    double error = 0.0;
    double energy = 0.0;
    for (std::size_t i = 0; i < count; ++i) {
      const double difference = double{encoded[i]} - double{original[i]};
      error += difference * difference;
      energy += double{original[i]} * double{original[i]};
    }
    const double rounding = energy * (dtype == DType::kBf16 ? 0x1p-15 : 0x1p-20);
    if (error <= *bound * 1.0001 + rounding) return {};
    return Error{ErrorCode::kInternal, kNoOffset, {},
                 "the card decodes further from what was encoded than its steps allow: layer " +
                     std::to_string(stream.layer) + ", " + std::string(name_of(static_cast<StreamKind>(stream.stream)))};
  }

  Status compare_opaque(std::size_t index, const StreamRecord& stream, Buffers& buffers) const {
    for (std::uint64_t done = 0; done < stream.opaque_size; done += kOpaqueStep) {
      const auto size = static_cast<std::size_t>(std::min(kOpaqueStep, stream.opaque_size - done));
      buffers.encoded.resize(size);
      buffers.original.resize(size);
      if (Status s = card_.read_opaque(index, done, buffers.encoded); !s) return s;
      if (Status s = source_.read_opaque(index, done, buffers.original); !s) return s;
      if (buffers.encoded != buffers.original) return differs(stream, 0);
    }
    return {};
  }

  const CardReader& card_;
  const CacheSource& source_;
  const std::function<bool()>& interrupted_;
  std::vector<Piece> pieces_;
  std::atomic<std::size_t> next_{0};
  std::atomic<bool> failed_{false};
  std::atomic<std::uint64_t> nonfinite_{0};
  std::mutex mutex_;
  std::optional<Error> error_;
};

Status check_tokens(const CardReader& card, const CacheSource& source) {
  const auto wrong = [](const char* what) {
    return Error{ErrorCode::kInternal,
                 kNoOffset,
                 {},
                 std::string("the card holds other ") + what + " than were encoded"};
  };
  if ((card.header().flags & kHeaderTokensUnknown) == 0) {
    auto tokens = card.token_ids();
    if (!tokens) return tokens.error();
    const auto given = source.token_ids();
    if (!std::equal(tokens->begin(), tokens->end(), given.begin(), given.end())) {
      return wrong("token ids");
    }
  }
  auto runs = card.positions();
  if (!runs) return runs.error();
  const std::vector<std::int32_t> positions = expand_positions(*runs);
  const auto given = source.positions();
  if (!std::equal(positions.begin(), positions.end(), given.begin(), given.end())) {
    return wrong("positions");
  }
  return {};
}

}  // namespace

Result<std::uint64_t> check_encoded(const RandomSink& sink, std::uint64_t file_size,
                                    const CacheSource& source, const ParallelFor& parallel,
                                    const std::function<bool()>& interrupted) {
  const WrittenSource written(sink, file_size);
  auto card = CardReader::open(written);
  if (!card) return card.error();
  if (Status s = check_tokens(*card, source); !s) return s.error();
  Comparison comparison(*card, source, interrupted);
  const auto task = [](void* user, std::size_t) { static_cast<Comparison*>(user)->work(); };
  parallel(parallel.width, task, &comparison);
  return comparison.result();
}

}  // namespace cachecard::llama_server
