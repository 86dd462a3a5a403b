#pragma once

#include <functional>
#include <vector>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"

namespace cachecard::gguf {

/// How a card of exact codecs stores what it holds, beside the values: with them it becomes the same card
/// again.
struct StoredForm {
  Digest128 root{};
  std::uint64_t required_features = 0;
  std::uint64_t optional_features = 0;
  double predicted_error = 0.0;
  std::uint32_t zstd_level = 3;     ///< of compressed chunks
  std::vector<FrameHeader> frames;  ///< of all sections but summary and directory, in file order
  /// Stored payloads of those sections that is_carried() names, one behind the other, without padding.
  std::uint64_t carried_size = 0;
};

/// Whether a section travels as it is: what keys and tensors do not say anyway.
bool is_carried(const FrameHeader& frame);

/// nullopt for a card with chunks of a lossy codec (their values do not give the chunk back) and for one
/// whose header is not laid out canonically.
std::optional<StoredForm> stored_form_of(const CardReader& card, const Summary& summary);

/// Bytes [offset, offset + out.size()) of the carried payloads.
using ReadCarried = std::function<Status(std::uint64_t offset, std::span<std::byte> out)>;

/// Whether token ids, positions, text and RoPE table of a source are those that the form's sections held.
/// Takes as long as digesting them.
bool fits(const StoredForm& form, const CacheSource& source);

/// Writes the card again: sections as carried, chunks cut and compressed as they were. Needs: fits(). The
/// root is form.root where the values are the card's, too. Errors: foreign_input (the form breaks a rule of
/// cards), checksum_mismatch (a carried section), those of source and
///         sink, interrupted.   Memory: options.parallel.width chunks
Result<WriteReport> restore_card(const StoredForm& form, const ReadCarried& carried,
                                 const CacheSource& source, ByteSink& sink, const CardOptions& options);

}  // namespace cachecard::gguf
