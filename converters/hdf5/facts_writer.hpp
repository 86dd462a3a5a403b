#pragma once

#include "cachecard/reader.hpp"
#include "h5_write.hpp"

namespace cachecard::hdf5 {

/// What stands beside the values, in both forms: header, identity, tokens, positions, maps, RoPE tables, provenance.
/// Errors: the card's, the sink's.   Spec: HDF5.md#facts
Status write_facts(const CardReader& card, const H5Node& root);

/// The stream's row of the header's table as attributes, enumerations by name.
Status write_stream_facts(const StreamRecord& stream, const H5Node& group);

}  // namespace cachecard::hdf5
