#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"

namespace cachecard::hdf5 {

/// An HDF5 file that holds a card, in one of two forms. Needs: the source that it was opened from outlives it
class H5Card {
 public:
  virtual ~H5Card() = default;
  /// Decoded form: values to make a card of. nullptr for the coded form.
  virtual const CacheSource* values() const { return nullptr; }
  /// Coded form: the card that the file was made from, byte for byte. What is written was verified as it went by; where
  /// this fails the sink must not be committed. The decoded form gives invalid_argument.
  /// progress: bytes so far and in all; false stops with `interrupted`. Errors: verify's, the file's, the sink's
  virtual Result<Trailer> write_card(ByteSink& sink,
                                     const std::function<bool(std::uint64_t, std::uint64_t)>& progress) const = 0;
  /// What of the file does not go into a card of its values.
  virtual std::vector<std::string> left_out() const { return {}; }
  /// Root of the card that the file was made from; zeros where it names none.
  const Digest128& parent_root() const { return parent_root_; }

 protected:
  Digest128 parent_root_{};
};

/// Opens a file as spec/HDF5.md lays it out, whoever made it. Follows no external or soft link, reads no other file, loads
/// no filter; every count is bounded before it sizes anything.
/// Errors: foreign_input, unsupported_version, limit_exceeded, truncated, corrupt, io
Result<std::unique_ptr<H5Card>> open_h5_card(const ByteSource& source);

}  // namespace cachecard::hdf5
