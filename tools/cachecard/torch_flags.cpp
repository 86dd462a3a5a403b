#include "torch_flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>

#include "module.hpp"

namespace cachecard::cli {

namespace {

constexpr auto kGroup = "Tensors (.pt, .safetensors, .kv)";

}  // namespace

void add_tensor_options(CLI::App& command, TorchFlags& flags) {
  const std::string group = kGroup;
  command
      .add_option("--tokens", flags.tokens,
                  "Token ids that the file does not list: decimal numbers, or a JSON array")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--pairing", flags.pairing,
                  "Order of RoPE pairs in the file (default: as transformers has the model)")
      ->check(CLI::IsMember({"half-split", "interleaved"}))
      ->type_name("ORDER")
      ->group(group);
  command
      .add_option("--sliding-window", flags.sliding_window,
                  "Window of those layers of the file that hold fewer tokens than others")
      ->check(CLI::Range(1u, 1u << 22))
      ->type_name("N")
      ->group(group);
}

void add_torch_options(CLI::App& command, TorchFlags& flags) {
  add_tensor_options(command, flags);
  const std::string group = kGroup;
  command
      .add_option("--dtype", flags.dtype, "Type of the tensors, also of .gguf: f32, f16 or bf16 (default: as the card has it)")
      ->check(CLI::IsMember({"f32", "f16", "bf16"}))
      ->type_name("TYPE")
      ->group(group);
  command
      .add_flag("--libtorch", flags.libtorch,
                "Read or write the .pt with libtorch instead of CacheCard's own code")
      ->group(group);
}

std::optional<RopePairing> pairing_of(const TorchFlags& flags) {
  if (flags.pairing.empty()) return std::nullopt;
  return flags.pairing == "interleaved" ? RopePairing::kInterleaved : RopePairing::kHalfSplit;
}

std::optional<DType> dtype_of(const TorchFlags& flags) {
  const DTypeInfo* info = dtype_by_name(flags.dtype);
  if (flags.dtype.empty() || info == nullptr) return std::nullopt;
  return info->dtype;
}

Result<const pytorch::TorchModule*> torch_module() {
  return module_of<pytorch::TorchModule>(
      "build CacheCard with -DCACHECARD_WITH_TORCH=ON (Debian: apt-get install libtorch-dev), or leave --libtorch out, which .pt files "
      "do not need");
}

}  // namespace cachecard::cli
