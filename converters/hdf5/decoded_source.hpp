#pragma once

#include "h5_card.hpp"
#include "h5_file.hpp"

namespace cachecard::hdf5 {

/// The decoded form: values of every stream, as a source of a card. Owns: file
/// Errors: foreign_input, limit_exceeded, corrupt, those of a header
Result<std::unique_ptr<H5Card>> open_decoded_card(H5File file, const Digest128& parent_root);

}  // namespace cachecard::hdf5
