#pragma once

#include <memory>

#include "h5_array.hpp"
#include "h5_card.hpp"

namespace cachecard::hdf5 {

/// The coded form. Counts and sizes of all datasets are held against the frames first.
/// Owns: file. Errors: foreign_input, limit_exceeded, corrupt
Result<std::unique_ptr<H5Card>> open_coded_card(H5File file, const Digest128& parent_root);

}  // namespace cachecard::hdf5
