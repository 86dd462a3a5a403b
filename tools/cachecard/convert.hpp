#pragma once

#include <optional>
#include <string>

#include "cachecard/writer.hpp"
#include "context.hpp"
#include "model_flags.hpp"
#include "planes_flags.hpp"
#include "torch_flags.hpp"

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
  std::string like;
  std::string container;
  std::string v_trans;
  bool server_tokens = false;
  TorchFlags torch;
};

/// yes and no, as --rotated and --v-trans take them; nullopt where the flag was not given.
std::optional<bool> yes_no(const std::string& flag);
Error usage(std::string detail);

/// A llama.cpp state becomes a card. Reports through context.
int convert_to_card(const ByteSource& input, const ConvertArgs& args, Context& context);
/// A .pt of torch.save becomes a card, and back.
int convert_pt_to_card(const ByteSource& input, const ConvertArgs& args, Context& context);
int convert_card_to_pt(const ByteSource& input, const ConvertArgs& args, Context& context);

/// What a card was made from: for its provenance, and for -v.
struct CardOrigin {
  std::string provenance;
  std::string detail;
};
/// Writes a source as the card that the flags ask for. Reports through context.
int write_converted(const CacheSource& source, std::uint64_t input_size, const CardOrigin& origin,
                    const ConvertArgs& args, Context& context);
/// A card becomes a llama.cpp state: its own file again, or one laid out as the flags say.
int convert_to_state(const ByteSource& input, const ConvertArgs& args, Context& context);

}  // namespace cachecard::cli
