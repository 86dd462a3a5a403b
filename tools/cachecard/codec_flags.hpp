#pragma once

#include <optional>
#include <string>
#include <vector>

#include "cachecard/writer.hpp"

namespace CLI {
class App;
}

namespace cachecard::cli {

/// Codec and its settings, as convert and capture take them.
struct CodecFlags {
  std::string codec;             ///< raw, ggml, planes or entropy; empty: see asked()
  bool entropy_unless_said = false;  ///< where no codec and no setting is given, and all values are floats
  std::string bits;              ///< K,V or one number; entropy: the mean over all values
  std::uint64_t bytes = 0;       ///< of the whole file; 0: not said
  std::string map;               ///< file with the bits of each token
  std::string layer_map;         ///< file with the bits of each layer
  std::string sensitivity;       ///< file with what errors of each layer cost
  std::string profile;           ///< model profile
  std::string model;             ///< GGUF file that the command has anyway: reads probes, tells of queries by its weights; empty: none
  std::string weights;           ///< file with how much each token counts
  std::string queries;           ///< whose look at the tokens counts: newest, centroids, recency or none; empty: the best at hand
  std::vector<std::string> probes;  ///< texts that receivers begin with
  std::string topology;          ///< file with a graph of agents
  std::string link;              ///< which of its links the card is for: sets codec, bits and whose look counts
  std::optional<std::uint64_t> exact_tokens;
  std::uint64_t newest_tokens = 0;
  std::vector<std::string> without;  ///< parts of entropy that are left out, as --without names them
  bool keep_nonfinite = false;
  bool budget_later = false;     ///< the link's budget is for a whole of which this cache is a part

  /// The codec by name or by its settings: planes by a map or bits of keys and values, else entropy; empty: what the types need.
  std::string asked() const;
  bool is_lossy() const { return asked() == "planes" || asked() == "entropy"; }
  bool has_settings() const {
    return !bits.empty() || bytes != 0 || !map.empty() || !layer_map.empty() || has_costs() || has_weights() || exact_tokens ||
           newest_tokens != 0 || keep_nonfinite || !without.empty();
  }
  bool has_costs() const { return !sensitivity.empty() || !profile.empty(); }
  bool has_weights() const { return !weights.empty() || !queries.empty() || !probes.empty() || !link.empty(); }
  bool any_given() const {
    return !codec.empty() || has_settings();
  }
};

void add_codec_options(CLI::App& command, CodecFlags& flags, const std::string& group);

/// K,V or one number for both, 1 to 8 each. Errors: invalid_argument
struct KeyValueBits {
  std::uint8_t key;
  std::uint8_t value;
};
Result<KeyValueBits> parse_bits(const std::string& text);

/// What the settings of a codec came from: for provenance, and lines for the user.
struct CodecNotes {
  std::string provenance;
  std::vector<std::string> notes;
};

/// Sets the lossy codec of a card, or none where exact codecs are wanted, and says so in its provenance. Holds the flags to
/// the cache's types and tokens. Adds to notes.
/// Errors: invalid_argument, io, model_mismatch and geometry_mismatch (of a profile), the source's
Status set_codec(const CodecFlags& flags, const CacheSource& source, CardOptions& card, std::vector<std::string>& notes);

/// A line where an entropy card is clearly smaller than --bits allowed: its steps are as fine as rows reach.
std::vector<std::string> unused_bits_notes(const CodecFlags& flags, std::optional<double> bits_per_value);

/// One line for each reason why chunks that were to be planes or entropy are raw.
std::vector<std::string> raw_chunk_notes(const WriteReport& written);

}  // namespace cachecard::cli
