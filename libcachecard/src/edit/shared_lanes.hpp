#pragma once

#include "cachecard/edit.hpp"
#include "writer/entropy_plan.hpp"

namespace cachecard {

/// What a card's last segment says of how finely a new one is to be kept.
struct BaseWidths {
  std::vector<TokenBits> layer_bits;  ///< planes: of each layer
  double coded_bits = 0.0;            ///< entropy: bits a coded value, without what each chunk and lane costs
};
/// Errors: the reader's
Result<BaseWidths> widths_of(const CardReader& base, Codec codec);

/// Bits a value that the tokens behind the kept ones take at coded_bits, what each lane, chunk and table costs counted in.
double bits_for(double coded_bits, const CardHeader& header, std::uint64_t kept);

/// The lanes that a new segment of a card can name again: those of each stream's last chunk. Empty where a stream has none
/// that fit its card order, or where they were made for fewer tokens than are to be coded.
/// header: of the new card, kept of its tokens are the base's   source: STATE, with the table that keys are coded with
/// Errors: the reader's
Result<SharedLanes> lanes_to_share(const CardReader& base, const CardHeader& header, std::uint64_t kept,
                                   const CacheSource& source, const ParallelFor& parallel);

}  // namespace cachecard
