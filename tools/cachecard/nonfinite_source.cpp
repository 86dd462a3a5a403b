#include "nonfinite_source.hpp"

#include <cstring>

namespace cachecard::cli {
Status NonfiniteSource::read_rows(std::size_t stream_index, std::uint64_t first_token,
                                  std::uint64_t token_count, std::span<std::byte> out) const {
  if (Status s = source_.read_rows(stream_index, first_token, token_count, out); !s) return s;
  const auto dtype = static_cast<DType>(source_.header().streams[stream_index].dtype);
  count_.fetch_add(count_nonfinite(dtype, out), std::memory_order_relaxed);
  return {};
}

}  // namespace cachecard::cli
