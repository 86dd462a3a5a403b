#pragma once

#include <cstdint>
#include <string_view>

namespace cachecard::llama_cpp {

/// llama_rope_type of an architecture; the last two: M-RoPE where rope.dimension_sections says so.
enum class RopeType : std::uint8_t { kNone, kNorm, kNeox, kMrope, kImrope, kNormOrMrope, kNeoxOrMrope };

/// What memory llama.cpp builds for it. kOther: recurrent, hybrid, sparse or none; kept opaque.
enum class MemoryRule : std::uint8_t { kOther, kPlain, kSliding };

/// Which layers rotate.
enum class RopeLayers : std::uint8_t {
  kAll,
  kNotEveryFourth,        ///< all but layers 3, 7, 11, ...
  kNotEveryFourthFrom0,   ///< all but layers 0, 4, 8, ... where it slides, else all
  kSlidingOnly,           ///< those with a window, where there are any, else all
  kUnlessFinetunedFalse,  ///< none where rope.scaling.finetuned is false (Granite)
};

/// Where the sliding layers are. Pattern n: every n-th layer is full, the last of n or the first.
struct SlidingRule {
  std::uint32_t pattern = 0;  ///< 0: only attention.sliding_window_pattern says it
  bool full_first = false;
  std::uint32_t default_window = 0;    ///< 0: attention.sliding_window must be there, else plain
  std::uint32_t fixed_window = 0;      ///< window whatever the key says, 0: the key's
  std::uint32_t only_layer_count = 0;  ///< slides only with that many layers, 0: always
  bool window_base_is_base = true;     ///< rope.freq_base_swa defaults to rope.freq_base, not 10000
  std::uint32_t cached_layers = 0;     ///< layers from here on reuse another's cache, 0: none do
};

struct Architecture {
  std::string_view name;
  RopeType rope = RopeType::kNone;
  MemoryRule memory = MemoryRule::kOther;
  RopeLayers rope_layers = RopeLayers::kAll;
  SlidingRule sliding{};
  bool rotated_last = false;  ///< keys are (unrotated, rotated), not (rotated, rest)
};

/// nullptr for an architecture that is not known here.
const Architecture* find_architecture(std::string_view name) noexcept;

/// "none", "norm", "neox", "mrope", "imrope"; Needs: an unconditional type.
std::string_view rope_type_name(RopeType type) noexcept;

}  // namespace cachecard::llama_cpp
