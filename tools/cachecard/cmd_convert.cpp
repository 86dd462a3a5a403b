#include <CLI/CLI.hpp>
#include <memory>

#include "commands.hpp"
#include "convert.hpp"
#include "input.hpp"
#include "state_report.hpp"

namespace cachecard::cli {
namespace {

constexpr auto kToCard = "To a card";
constexpr auto kToState = "To a llama.cpp state";

void add_card_options(CLI::App& command, ConvertArgs& args) {
  add_model_options(command, args.model);
  add_geometry_options(command, args.model);
  add_codec_options(command, args.codec, kToCard);
  command.add_flag("--zstd{3}", args.zstd_level, "Compress chunks; --zstd=LEVEL, else level 3")
      ->check(CLI::Range(1, 22))
      ->group(kToCard);
  command.add_flag("--split", args.split, "Byte split before zstd, for f32, f16 and bf16")->group(kToCard);
  command.add_option("--chunk-tokens", args.chunk_tokens, "Tokens in a chunk (default: 2048)")
      ->check(CLI::Range(std::uint64_t{1}, std::uint64_t{1} << 22))
      ->type_name("N")
      ->group(kToCard);
  command.add_flag("--span-major", args.span_major, "Chunks by token span, then by layer")->group(kToCard);
  command
      .add_flag("--no-source-layout", args.no_source_layout,
                "Leave out what gives the state back byte for byte")
      ->group(kToCard);
  command.add_option("--rotated", args.rotated, "Whether a quantised 10/3 cache is rotated: yes, no")
      ->check(CLI::IsMember({"yes", "no"}))
      ->type_name("YES|NO")
      ->group(kToCard);
  add_time_option(command, args.time);
}

void add_state_options(CLI::App& command, ConvertArgs& args) {
  command
      .add_option("--like", args.like,
                  "A state of the target: layout, container, types, rotation and V order are taken from it")
      ->type_name("FILE")
      ->group(kToState);
  command.add_option("--layout", args.layout, "State layout, 10/3 or 11/4 (also of a memory blob)")
      ->check(CLI::IsMember({"10/3", "11/4"}))
      ->type_name("LAYOUT")
      ->group(kToState);
  command.add_option("--container", args.container, "session, whole-context, sequence or sequence-memory")
      ->check(CLI::IsMember(container_names()))
      ->type_name("NAME")
      ->group(kToState);
  command.add_option("--v-trans", args.v_trans, "V channel by channel (flash attention off): yes, no")
      ->check(CLI::IsMember({"yes", "no"}))
      ->type_name("YES|NO")
      ->group(kToState);
  command.add_flag("--server-tokens", args.server_tokens, "Token list as llama-server packs it")
      ->group(kToState);
}

bool has_card_options(const ConvertArgs& args) {
  return args.codec.any_given() || args.zstd_level != 0 || args.split || args.span_major ||
         args.chunk_tokens != ConvertArgs{}.chunk_tokens || args.no_source_layout ||
         (!args.rotated.empty() && args.like.empty()) || !args.time.empty() || any_given(args.model);
}

bool has_state_options(const ConvertArgs& args) {
  return !args.like.empty() || !args.container.empty() || !args.v_trans.empty() || args.server_tokens;
}

/// What the input is: as --from says, else as its first bytes do.
Result<InputKind> input_kind(const ByteSource& input, const ConvertArgs& args) {
  if (args.from == "card") return InputKind::kCard;
  if (args.from == "llama.cpp") return InputKind::kState;
  if (args.from == "torch") return InputKind::kTorch;
  auto kind = kind_of(input);
  if (!kind) return kind.error();
  if (*kind == InputKind::kEmpty || *kind == InputKind::kUnknown) return unknown_input(*kind, input);
  return *kind;
}

/// A card becomes a .pt where --to or the output's name says so.
bool to_torch(InputKind kind, const ConvertArgs& args) {
  if (kind != InputKind::kCard) return false;
  return args.to.empty() ? is_pt_name(args.output) : args.to == "torch";
}

Status check_torch(InputKind kind, const ConvertArgs& args) {
  const bool from = kind == InputKind::kTorch;
  const bool to = to_torch(kind, args);
  if ((from || to) && (has_state_options(args) || !args.layout.empty() || !args.rotated.empty())) {
    return usage("options of llama.cpp states do not go with a .pt");
  }
  if (!from && args.torch.from_given()) return usage("--tokens and --sliding-window are for .pt to card");
  if (!to && args.torch.to_given()) return usage("--dtype is for card to .pt");
  if (!from && !to && args.torch.any_given()) return usage("--pairing and --libtorch are for .pt files");
  return {};
}

Status check_direction(InputKind kind, const ConvertArgs& args) {
  const bool to_card = kind != InputKind::kCard;
  if (!args.to.empty() && (args.to == "card") != to_card) {
    return usage(to_card ? "the input is a cache of a runtime: --to card is what it can become"
                         : "the input is a card already: --to llama.cpp or torch is what it can become");
  }
  if (Status s = check_torch(kind, args); !s) return s;
  if (to_card && has_state_options(args)) {
    return usage("--like, --container, --v-trans and --server-tokens are for card to state");
  }
  if (!to_card && has_card_options(args)) {
    return usage("--model, geometry, codec and compression flags are for what becomes a card");
  }
  if (!args.like.empty() && (!args.layout.empty() || !args.container.empty() || !args.v_trans.empty())) {
    return usage("--like says what --layout, --container and --v-trans say");
  }
  return {};
}

int run(const ConvertArgs& args, Context& context) {
  context.data_on_stdout = args.output == "-" && !context.dry_run;
  auto input = open_input(args.input);
  if (!input) return context.fail(input.error(), input_name(args.input));
  auto kind = input_kind(**input, args);
  if (!kind) return context.fail(kind.error(), input_name(args.input));
  if (Status s = check_direction(*kind, args); !s) return context.fail(s.error(), "convert");
  if (*kind == InputKind::kTorch) return convert_pt_to_card(**input, args, context);
  if (to_torch(*kind, args)) return convert_card_to_pt(**input, args, context);
  return *kind == InputKind::kState ? convert_to_card(**input, args, context)
                                    : convert_to_state(**input, args, context);
}

}  // namespace

Error usage(std::string detail) { return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)}; }

std::optional<bool> yes_no(const std::string& flag) {
  if (flag.empty()) return std::nullopt;
  return flag == "yes";
}

void add_convert(CLI::App& app, Context& context) {
  auto args = std::make_shared<ConvertArgs>();
  CLI::App& command =
      *app.add_subcommand("convert", "Make a card of a llama.cpp state or a PyTorch file, or one of these of a card");
  command.add_option("IN", args->input, "State, .pt or card, - for standard input")->required();
  command.add_option("OUT", args->output, "Card, state or .pt (by its name, or --to torch), - for standard output")->required();
  for (auto& [name, value] : {std::pair<const char*, std::string*>{"--from", &args->from},
                              std::pair<const char*, std::string*>{"--to", &args->to}}) {
    command.add_option(name, *value, "llama.cpp, torch or card (default: told by content)")
        ->check(CLI::IsMember({"llama.cpp", "torch", "card"}))
        ->type_name("FORMAT");
  }
  add_card_options(command, *args);
  add_state_options(command, *args);
  add_torch_options(command, args->torch);
  add_dry_run_option(command, context);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
