#pragma once

#include <memory>
#include <string>

#include "cachecard/writer.hpp"
#include "formats.hpp"

namespace cachecard::cli {

/// A cache to be looked at: what a card holds, or whatever else convert reads.
struct CacheFile {
  std::shared_ptr<const CacheSource> source;
  std::uint64_t card_bytes = 0;  ///< of the card, where the file is or holds one; else 0
};

/// args.input names the file. at_fault: what to name where it fails. Errors: io, the reader's, those of
/// Format::open
Result<CacheFile> open_cache(const SourceArgs& args, const std::string& from, std::string& at_fault);

/// K and V values; opaque streams have none.
std::uint64_t value_count(const CardHeader& header);
/// Bytes of a card that keeps all as it is, where that could be as few as `budget`: then it is made, to
/// nowhere; else the bytes of its rows alone, which are more. Errors: those of write_card
Result<std::uint64_t> exact_card_bytes(const CacheSource& source, CardOptions options, std::uint64_t budget);

}  // namespace cachecard::cli
