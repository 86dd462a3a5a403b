#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cachecard/writer.hpp"
#include "stored_form.hpp"

namespace cachecard::gguf {

/// A KV cache in a GGUF file: what its keys and tensor table say. spec: GGUF-KV.md
struct GgufCache {
  CardHeader header;
  std::vector<std::int32_t> token_ids;  ///< empty: unknown
  std::vector<std::int32_t> positions;
  std::string text;
  std::optional<RopeTable> rope_table;
  std::vector<std::uint64_t> data_offsets;  ///< of each stream's tensor in the file; 0: none
  std::optional<StoredForm> form;           ///< how the card stored it that the file was made from
  std::uint64_t sections_offset = 0;        ///< of the form's carried payloads
};

bool looks_like_gguf(std::span<const std::byte> head);

/// Reads keys and tensor table; tensors must tile the data, in the table's order.
/// Errors: foreign_input (what, where, found, allowed), truncated, limit_exceeded, io
Result<GgufCache> read_gguf_cache(const ByteSource& source);

/// The cache as a source of a card; rows are read on demand.
/// Owns: a copy of cache, not the bytes; source must outlive it.
std::unique_ptr<CacheSource> gguf_source(const ByteSource& source, GgufCache cache);

/// Reader of the form's carried payloads. source must outlive it.
ReadCarried read_carried(const ByteSource& source, const GgufCache& cache);

}  // namespace cachecard::gguf
