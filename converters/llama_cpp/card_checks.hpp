#pragma once

#include "cachecard/reader.hpp"

namespace cachecard::llama_cpp {

/// Digests of all sections that write_state does not read: everything but the chunks of a prefix.
/// Errors: checksum_mismatch and the reader's
Status check_other_sections(const CardReader& card, std::uint64_t token_count);

}  // namespace cachecard::llama_cpp
