#pragma once

#include "base/recent.hpp"
#include "cachecard/reader.hpp"
#include "codec/entropy_codec.hpp"
#include "codec/planes_codec.hpp"
#include "codec/rope_angles.hpp"

namespace cachecard {

/// What a planes chunk needs besides its payload: opened sections that it names, shared with other chunks.
struct PlanesContext {
  std::shared_ptr<const PlanesStream> stream;
  std::shared_ptr<const PlanesTokens> tokens;
  std::shared_ptr<const Angles> angles;  ///< null where RoPE was left in

  const float* angle_data() const { return angles == nullptr ? nullptr : angles->data(); }
};

/// The same for an entropy chunk.
struct EntropyContext {
  std::shared_ptr<const EntropyStream> stream;
  std::shared_ptr<const EntropyTokens> tokens;
  std::shared_ptr<const References> references;  ///< of the segment; null without
  std::span<const std::uint16_t> chunk_references;
  std::shared_ptr<const Angles> angles;

  const float* angle_data() const { return angles == nullptr ? nullptr : angles->data(); }
};

/// Opens contexts and keeps the latest: the streams of a card share maps, positions and angles. Thread-safe.
class ContextCache {
 public:
  /// rope_shift: added to the positions of the angles
  /// Errors: what the sections' own readers give; corrupt where they do not fit the chunk
  Result<PlanesContext> open(const CardReader& card, const FrameHeader& frame, std::int64_t rope_shift = 0);
  Result<EntropyContext> open_entropy(const CardReader& card, const FrameHeader& frame, std::int64_t rope_shift = 0);

 private:
  struct TokensKey {
    std::uint32_t segment;
    std::uint16_t row;
    std::uint8_t base;
    std::uint8_t cap;
    std::uint64_t first_token;
    std::uint64_t token_count;
    bool operator==(const TokensKey&) const = default;
  };
  struct StreamKey {
    std::uint64_t parameters;
    std::size_t stream;
    bool operator==(const StreamKey&) const = default;
  };
  struct OpenedStream {
    PlanesStream stream;
    Parameters parameters;
    std::shared_ptr<const RopeTable> table;
  };
  struct OpenedEntropy {
    EntropyStream stream;
    Parameters parameters;
    std::shared_ptr<const RopeTable> table;
  };
  struct SpanKey {
    std::uint32_t segment;
    std::size_t stream;
    std::uint64_t first_token;
    bool operator==(const SpanKey&) const = default;
  };
  using Positions = std::vector<std::int32_t>;

  Result<std::shared_ptr<const RopeTable>> rope_table(const CardReader& card, std::uint64_t digest);
  Result<std::shared_ptr<const OpenedStream>> stream(const CardReader& card, const FrameHeader& frame);
  Result<std::shared_ptr<const PlanesTokens>> tokens(const CardReader& card, const FrameHeader& frame);
  Result<std::shared_ptr<const Lanes>> lanes(const CardReader& card, std::uint64_t digest);
  Result<std::shared_ptr<const References>> references(const CardReader& card, const FrameHeader& frame,
                                                       std::uint64_t digest);
  Result<std::shared_ptr<const OpenedEntropy>> entropy_stream(const CardReader& card, const FrameHeader& frame);
  Result<std::shared_ptr<const EntropyTokens>> entropy_tokens_of(const CardReader& card, const FrameHeader& frame);
  /// Null where RoPE was left in (no table).
  Result<std::shared_ptr<const Angles>> angles(const CardReader& card, const FrameHeader& frame,
                                               const Parameters& parameters, const RopeTable* table,
                                               std::int64_t rope_shift);

  Recent<std::uint32_t, BitWidthMap> maps_{2};
  Recent<std::uint32_t, Positions> positions_{2};
  Recent<std::uint64_t, RopeTable> tables_{4};
  Recent<StreamKey, OpenedStream> streams_{8};
  Recent<TokensKey, PlanesTokens> tokens_{8};
  Recent<std::uint64_t, Lanes> lanes_{2};
  Recent<std::uint64_t, References> references_{4};
  Recent<StreamKey, OpenedEntropy> entropy_streams_{8};
  Recent<SpanKey, EntropyTokens> entropy_tokens_{8};
  AngleCache angles_;
};

}  // namespace cachecard
