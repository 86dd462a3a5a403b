#pragma once

#include "c_api_boundary.hpp"

namespace cachecard::c_api {

/// A fact as the caller gives it, held to the table of fields. Errors: invalid_argument
Result<Identity::Value> take_identity_value(const ccd_identity_value& given);

}  // namespace cachecard::c_api
