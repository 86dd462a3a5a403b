// Any bytes as a PyTorch file: as they are, and as the pickle of the legacy container.

#include <cstdlib>
#include <vector>

#include "torch/pickle_machine.hpp"
#include "torch/pt_source.hpp"

using namespace cachecard;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  const MemorySource source(bytes);
  auto cache = pytorch::read_pt_cache(source);
  if (!cache && cache.error().code == ErrorCode::kInternal) std::abort();
  if (cache) {
    auto values = pytorch::pt_source(source, std::move(*cache), {});
    const auto& streams = values ? (*values)->header().streams : std::vector<StreamRecord>{};
    for (std::size_t i = 0; i < streams.size() && i < 4; ++i) {
      std::vector<std::byte> row(row_bytes(streams[i], static_cast<DType>(streams[i].dtype)));
      if (!(*values)->read_rows(i, streams[i].first_token, 1, row))
        std::abort();  // checked when it was opened
    }
  }
  pytorch::PickleValues values;
  const auto root = pytorch::PickleMachine(bytes, 0, values).run();
  if (!root && root.error().code == ErrorCode::kInternal) std::abort();
  return 0;
}
