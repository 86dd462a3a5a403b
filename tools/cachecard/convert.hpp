#pragma once

#include <optional>
#include <string>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"
#include "context.hpp"
#include "formats.hpp"
#include "hdf5_flags.hpp"
#include "codec_flags.hpp"

namespace cachecard::cli {

/// layout and rotated of SourceArgs also say what a state is to be.
struct ConvertArgs : SourceArgs {
  std::string output;
  std::string from;
  std::string to;
  // To a card.
  CodecFlags codec;
  int zstd_level = 0;  ///< 0: not asked for
  bool split = false;
  std::uint64_t chunk_tokens = 2048;
  bool span_major = false;
  bool no_source_layout = false;
  std::string time;
  // To a state.
  std::string like;
  std::string container;
  std::string v_trans;
  bool server_tokens = false;
  Hdf5Flags hdf5;
};

/// yes and no, as --rotated and --v-trans take them; nullopt where the flag was not given.
std::optional<bool> yes_no(const std::string& flag);
Error usage(std::string detail);

/// Of the model, the geometry, the codec and the card's layout.
void add_card_options(CLI::App& command, ConvertArgs& args);
/// What these say of a card of opened, codec aside; its provenance is that of a conversion. Errors: invalid_argument
Result<CardOptions> card_options(const ConvertArgs& args, const OpenedSource& opened);
/// Codec and byte split against the types of the cache. Errors: invalid_argument
Status check_codec(const CardHeader& header, const ConvertArgs& args);

/// Whether flags say how the card is to be stored.
bool has_card_options(const ConvertArgs& args);

/// Sources of cards, one for each format: see Format::open.
Result<OpenedSource> open_state(const ByteSource& input, const SourceArgs& args, std::string& at_fault);
Result<OpenedSource> open_pt(const ByteSource& input, const SourceArgs& args, std::string& at_fault);
Result<OpenedSource> open_gguf(const ByteSource& input, const SourceArgs& args, std::string& at_fault);
Result<OpenedSource> open_safetensors(const ByteSource& input, const SourceArgs& args, std::string& at_fault);
Result<OpenedSource> open_hdf5(const ByteSource& input, const SourceArgs& args, std::string& at_fault);

/// What to blame for an error of a source: the command for what flags say, else the input.
std::string source_blame(const Error& error, const SourceArgs& args);

/// Writes a source as the card that the flags ask for. Reports through context.
int write_converted(const OpenedSource& opened, std::uint64_t input_size, const ConvertArgs& args, Context& context);

/// Writes the card that a file holds as it was. Reports through context.
int copy_card(const OpenedSource& opened, std::uint64_t input_size, const ConvertArgs& args, Context& context);

int convert_card_to_hdf5(const ByteSource& input, const ConvertArgs& args, Context& context);
int convert_card_to_pt(const ByteSource& input, const ConvertArgs& args, Context& context);
int convert_card_to_gguf(const ByteSource& input, const ConvertArgs& args, Context& context);
int convert_card_to_mlx(const ByteSource& input, const ConvertArgs& args, Context& context);
int convert_card_to_kvcdn(const ByteSource& input, const ConvertArgs& args, Context& context);

/// The order of RoPE pairs that a card's keys get as tensors: as transformers has the model, unless the user knows better;
/// nullopt: no layer rotates. Errors: invalid_argument
Result<std::optional<RopePairing>> transformers_order(const CardReader& card, const TorchFlags& flags);
/// A card becomes a llama.cpp state: its own file again, or one laid out as the flags say.
int convert_to_state(const ByteSource& input, const ConvertArgs& args, Context& context);

}  // namespace cachecard::cli
