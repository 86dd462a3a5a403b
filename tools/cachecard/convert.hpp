#pragma once

#include <optional>
#include <string>

#include "context.hpp"
#include "model_flags.hpp"
#include "planes_flags.hpp"

namespace cachecard::cli {

struct ConvertArgs {
  std::string input;
  std::string output;
  std::string from;
  std::string to;
  ModelFlags model;
  // To a card.
  CodecFlags codec;
  int zstd_level = 0;  ///< 0: not asked for
  bool split = false;
  std::uint64_t chunk_tokens = 2048;
  bool span_major = false;
  bool no_source_layout = false;
  std::string rotated;
  std::string time;
  // To a card of a container that does not say; to a state.
  std::string layout;
  // To a state.
  std::string container;
  std::string v_trans;
  bool server_tokens = false;
};

/// yes and no, as --rotated and --v-trans take them; nullopt where the flag was not given.
std::optional<bool> yes_no(const std::string& flag);
Error usage(std::string detail);

/// A llama.cpp state becomes a card. Reports through context.
int convert_to_card(const ByteSource& input, const ConvertArgs& args, Context& context);
/// A card becomes a llama.cpp state: its own file again, or one laid out as the flags say.
int convert_to_state(const ByteSource& input, const ConvertArgs& args, Context& context);

}  // namespace cachecard::cli
