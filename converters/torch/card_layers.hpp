#pragma once

#include <optional>
#include <vector>

#include "cachecard/reader.hpp"

namespace cachecard::pytorch {

/// The key and value streams of one layer.
struct CardLayer {
  std::size_t key = 0;  ///< indices into header().streams
  std::size_t value = 0;
};

/// Every layer's streams. Errors: geometry_mismatch (latent and opaque streams, by name), partial_card
Result<std::vector<CardLayer>> card_layers(const CardHeader& header);

/// What a decode into tensors needs beside the target.
struct DecodeOptions {
  std::uint64_t token_count = ~std::uint64_t{0};  ///< of the card's first tokens; default: all
  /// The target's order of RoPE pairs; nullopt: as the card has it.
  std::optional<RopePairing> pairing;
  ParallelFor parallel;
  bool finite = false;  ///< NaN and infinities in the target's type are non_finite
};

/// Tokens of a stream among the first options.token_count of the card.
std::uint64_t held_tokens(const StreamRecord& stream, const DecodeOptions& options);

/// Errors: invalid_argument (more tokens than the card has), not_restorable (a prefix that no runtime
///         could go on from)
Status check_prefix(const CardHeader& header, const DecodeOptions& options);

/// Decodes a stream's held tokens straight into the target, its channels in the order asked for.
/// Errors: as CardReader::decode, identity_unknown
Status decode_stream(const CardReader& card, std::size_t stream, const DecodeTarget& target,
                     const DecodeOptions& options);

/// The type that holds a stream's values as they are: its own, or f32 for ggml's blocks.
DType float_type_of(const StreamRecord& stream);

}  // namespace cachecard::pytorch
