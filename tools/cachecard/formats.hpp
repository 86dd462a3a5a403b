#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cachecard/writer.hpp"
#include "input.hpp"
#include "model_flags.hpp"
#include "torch_flags.hpp"

/// The foreign formats that the command knows, one row each: a new one is a row in formats.cpp, a file that opens it
/// and writes it, and an enumerator of InputKind.
namespace cachecard::cli {

struct Context;
struct ConvertArgs;

/// A foreign file and what the user says about it.
struct SourceArgs {
  std::string command = "convert";  ///< to blame for flags
  std::string input;
  ModelFlags model;
  std::string layout;   ///< of a state that does not say
  std::string rotated;  ///< of a quantised 10/3 state
  TorchFlags torch;
};

/// A foreign file as the source of a card.
struct OpenedSource {
  std::shared_ptr<const CacheSource> source;  ///< null where the file holds a card as it was
  std::string provenance;          ///< what the card was made from, for its provenance
  std::string detail;              ///< the same, for -v
  std::vector<std::string> notes;  ///< what the user should know
  /// Where the file says how the card was stored that it was made from: writes that card again, with the source's values;
  /// of the options, only limits, parallel and progress count.
  std::function<Result<WriteReport>(const CacheSource&, ByteSink&, const CardOptions&)> restore{};
  Digest128 root{};  ///< of that card
  Digest128 parent_root{};  ///< for provenance: of the card whose values these are, where the file names one
  /// Where the file holds a card as it was: writes it, byte for byte. The sink must not be committed where this fails.
  std::function<Result<Trailer>(ByteSink&, const std::function<bool(std::uint64_t, std::uint64_t)>&)> copy{};
};

/// Groups of convert's options that go with some formats only.
enum FormatOption : unsigned {
  kModelOptions = 1u << 0,   ///< --model and geometry
  kLayoutOption = 1u << 1,   ///< --layout
  kRotatedOption = 1u << 2,  ///< --rotated
  kStateOptions = 1u << 3,   ///< --like, --container, --v-trans, --server-tokens
  kTokensOption = 1u << 4,   ///< --tokens
  kWindowOption = 1u << 5,   ///< --sliding-window
  kPairingOption = 1u << 6,  ///< --pairing
  kDtypeOption = 1u << 7,    ///< --dtype
  kLibtorchOption = 1u << 8, ///< --libtorch
  kHdf5Options = 1u << 9,    ///< --coded, --decoded, --deflate
};

struct Format {
  InputKind kind;
  std::string_view name;  ///< of --from and --to
  std::string_view noun;  ///< in messages: "a PyTorch file"
  std::vector<std::string_view> suffixes;  ///< of outputs; empty: what a card becomes by default
  unsigned from_options;                   ///< that go with format to card
  unsigned to_options;                     ///< with card to format
  bool (*recognises)(std::span<const std::byte> head);  ///< null: another row of the kind does
  /// at_fault: set where an error is not the input's. input must outlive the result.
  Result<OpenedSource> (*open)(const ByteSource& input, const SourceArgs& args, std::string& at_fault);
  /// Makes a file of a card. Reports through context, returns the exit code.
  int (*from_card)(const ByteSource& input, const ConvertArgs& args, Context& context);
};

/// In the order in which content is tried. Owns: nothing; static storage.
std::span<const Format> formats();
const Format* format_of(InputKind kind);
const Format* format_named(std::string_view name);
/// By the suffix of an output's name; a llama.cpp state where none fits.
const Format& format_for_output(const std::string& path);
/// "llama.cpp", "torch", ..., and "card".
std::vector<std::string> format_names();

}  // namespace cachecard::cli
