#pragma once

#include "cachecard/edit.hpp"
#include "codec_flags.hpp"

namespace cachecard::cli {

/// Makes the next hop's card fit the link of --topology and --link: with BASE's steps where they do, else
/// with as many bits as are left beside what is kept of BASE. The card is made once to nowhere, up to three
/// times more where it is too large. Errors: invalid_argument (BASE alone takes more; what is left is too
/// little), those of extend_card
Status fit_link(const CodecFlags& flags, const CardReader& base, const CacheSource& state,
                ExtendOptions& options, std::vector<std::string>& notes);

}  // namespace cachecard::cli
