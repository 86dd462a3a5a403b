#pragma once

#include "cachecard/writer.hpp"

/// What the lossy codecs share when they take a source's streams. spec: CODECS.md#card-order
namespace cachecard {

bool is_float_stream(const StreamRecord& stream);  ///< f32, f16 or bf16
bool is_value_stream(const StreamRecord& stream);
double float_value_count(const CardHeader& header);  ///< of all f32, f16 and bf16 streams

/// Parameters that say a stream's card order: RoPE removed where the source's table can undo it, parts in card order.
/// Digests are those of the card's sections; rope_table_digest is 0 where there is none.
Parameters card_order_parameters(const CacheSource& source, const CardHeader& header, const StreamRecord& stream,
                                 Codec codec, std::uint64_t rope_table_digest, std::uint64_t positions_digest);

/// Where in a row the first value that is not finite stands.   Needs: there is one. token: of the card
Error nonfinite_error(std::string_view codec, const StreamRecord& stream, std::uint64_t token,
                      std::span<const std::byte> row);

}  // namespace cachecard
