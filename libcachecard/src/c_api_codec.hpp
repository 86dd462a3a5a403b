#pragma once

#include "c_api_boundary.hpp"
#include "cachecard/writer.hpp"

/// From ccd_write_options to the library's own.
namespace cachecard::c_api {

/// What the caller asks for, held to what there is. Errors: invalid_argument
Result<ccd_write_options> take_write_options(const ccd_write_options* given);

/// Needs: options of take_write_options. parallel is also kept in the result.
/// Errors: those of the source, of read_profile and of allocate.hpp, invalid_argument
Result<CardOptions> card_options(const ccd_write_options& given, const CacheSource& source, const ParallelFor& parallel);

}  // namespace cachecard::c_api
