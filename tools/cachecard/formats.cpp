#include "formats.hpp"

#include "convert.hpp"
#include "gguf/gguf_cache.hpp"
#include "hdf5_flags.hpp"
#include "llama_cpp/state_file.hpp"
#include "safetensors/safetensors_file.hpp"
#include "torch/pt_file.hpp"

namespace cachecard::cli {
namespace {

constexpr unsigned kTensorOptions = kModelOptions | kTokensOption | kWindowOption | kPairingOption;

const std::vector<Format>& table() {
  static const std::vector<Format> rows{
      {InputKind::kTorch, "torch", "a PyTorch file", {".pt", ".pth"},
       kTensorOptions | kLibtorchOption,
       kPairingOption | kDtypeOption | kLibtorchOption, pytorch::looks_like_pt, open_pt, convert_card_to_pt},
      {InputKind::kGguf, "gguf", "a GGUF cache", {".gguf"}, 0, kDtypeOption, gguf::looks_like_gguf, open_gguf,
       convert_card_to_gguf},
      {InputKind::kHdf5, "hdf5", "an HDF5 file", {".h5", ".hdf5"}, 0, kHdf5Options, looks_like_hdf5, open_hdf5,
       convert_card_to_hdf5},
      {InputKind::kSafetensors, "mlx", "a safetensors cache", {".safetensors"}, kTensorOptions, kPairingOption | kDtypeOption,
       safetensors::looks_like_safetensors, open_safetensors, convert_card_to_mlx},
      {InputKind::kSafetensors, "kvcdn", "a safetensors cache", {".kv"}, kTensorOptions, kPairingOption | kDtypeOption,
       nullptr, open_safetensors, convert_card_to_kvcdn},
      {InputKind::kState, "llama.cpp", "a llama.cpp state", {}, kModelOptions | kLayoutOption | kRotatedOption,
       kStateOptions | kLayoutOption | kRotatedOption, llama_cpp::looks_like_state, open_state, convert_to_state},
  };
  return rows;
}

}  // namespace

std::span<const Format> formats() { return table(); }

const Format* format_of(InputKind kind) {
  for (const Format& format : table()) {
    if (format.kind == kind) return &format;
  }
  return nullptr;
}

const Format* format_named(std::string_view name) {
  for (const Format& format : table()) {
    if (format.name == name) return &format;
  }
  return nullptr;
}

const Format& format_for_output(const std::string& path) {
  for (const Format& format : table()) {
    for (const std::string_view suffix : format.suffixes) {
      if (path.ends_with(suffix)) return format;
    }
  }
  return *format_of(InputKind::kState);
}

std::vector<std::string> format_names() {
  std::vector<std::string> names;
  for (const Format& format : table()) names.emplace_back(format.name);
  names.emplace_back("card");
  return names;
}

}  // namespace cachecard::cli
