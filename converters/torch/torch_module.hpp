#pragma once

#include <memory>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"
#include "pt_cache.hpp"
#include "pt_writer.hpp"

namespace cachecard::pytorch {

/// A zip .pt, read by libtorch's reader into tensors. cache: what read_pt_cache found; facts complete.
Result<std::unique_ptr<CacheSource>> read_with_torch(const ByteSource& source, const PtCache& cache,
                                                     CacheFacts facts);
/// A card as a .pt of libtorch's pickler. Memory: the whole cache twice.
Result<PtWriteReport> write_with_torch(const CardReader& card, ByteSink& sink, const PtWriteOptions& options);

/// What the module built on libtorch gives to the command, which opens it by name. Both are built
/// together: the number refuses a module of another build.
struct TorchModule {
  static constexpr std::uint32_t kVersion = 1;
  static constexpr const char* kFile = "cachecard_torch.so";
  static constexpr const char* kSymbol = "cachecard_torch_module";

  std::uint32_t version = kVersion;
  decltype(&read_with_torch) read = nullptr;
  decltype(&write_with_torch) write = nullptr;
};

}  // namespace cachecard::pytorch

/// The module's one symbol.
extern "C" const cachecard::pytorch::TorchModule* cachecard_torch_module();
