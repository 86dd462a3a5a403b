#include <fmt/format.h>

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

}  // namespace

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

namespace {

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

/// Options that go with some formats only: their bit, how messages call them, whether they were given.
struct OptionGroup {
  unsigned bit;
  const char* names;
  bool (*given)(const ConvertArgs& args);
};

constexpr OptionGroup kGroups[] = {
    {kModelOptions, "--model and geometry flags", [](const ConvertArgs& a) { return any_given(a.model); }},
    {kLayoutOption, "--layout", [](const ConvertArgs& a) { return !a.layout.empty(); }},
    {kRotatedOption, "--rotated", [](const ConvertArgs& a) { return !a.rotated.empty(); }},
    {kStateOptions, "--like, --container, --v-trans and --server-tokens",
     [](const ConvertArgs& a) {
       return !a.like.empty() || !a.container.empty() || !a.v_trans.empty() || a.server_tokens;
     }},
    {kTokensOption, "--tokens", [](const ConvertArgs& a) { return !a.torch.tokens.empty(); }},
    {kWindowOption, "--sliding-window", [](const ConvertArgs& a) { return a.torch.sliding_window != 0; }},
    {kPairingOption, "--pairing", [](const ConvertArgs& a) { return !a.torch.pairing.empty(); }},
    {kDtypeOption, "--dtype", [](const ConvertArgs& a) { return !a.torch.dtype.empty(); }},
    {kLibtorchOption, "--libtorch", [](const ConvertArgs& a) { return a.torch.libtorch; }},
    {kHdf5Options, "--coded, --decoded and --deflate", [](const ConvertArgs& a) { return a.hdf5.any_given(); }},
};

/// What the input is: as --from says, else as its first bytes do.
Result<InputKind> input_kind(const ByteSource& input, const ConvertArgs& args) {
  if (args.from == "card") return InputKind::kCard;
  if (const Format* format = format_named(args.from)) return format->kind;
  auto kind = kind_of(input);
  if (!kind) return kind.error();
  if (*kind == InputKind::kEmpty || *kind == InputKind::kUnknown) return unknown_input(*kind, input);
  return *kind;
}

Status check_direction(bool to_card, const Format& format, const ConvertArgs& args) {
  if (!args.to.empty() && (args.to == "card") != to_card) {
    return usage(to_card ? "the input is a cache of a runtime: --to card is what it can become"
                         : "the input is a card already: --to names what it can become");
  }
  const unsigned allowed = to_card ? format.from_options : format.to_options;
  for (const OptionGroup& group : kGroups) {
    if ((allowed & group.bit) != 0 || !group.given(args)) continue;
    return usage(to_card ? fmt::format("{} do not go with {} that becomes a card", group.names, format.noun)
                         : fmt::format("{} do not go with a card that becomes {}", group.names, format.noun));
  }
  if (!to_card && has_card_options(args)) {
    return usage("codec, chunk, compression and --time flags are for what becomes a card");
  }
  if (!to_card && !args.rotated.empty() && args.like.empty()) return usage("--rotated is about the state of --like");
  if (!args.like.empty() && (!args.layout.empty() || !args.container.empty() || !args.v_trans.empty())) {
    return usage("--like says what --layout, --container and --v-trans say");
  }
  return {};
}

int convert_foreign(const Format& format, const ByteSource& input, const ConvertArgs& args, Context& context) {
  std::string at_fault;
  auto opened = format.open(input, args, at_fault);
  if (!opened) {
    return context.fail(opened.error(), at_fault.empty() ? source_blame(opened.error(), args) : at_fault);
  }
  return opened->copy ? copy_card(*opened, input.size(), args, context)
                      : write_converted(*opened, input.size(), args, context);
}

int run(const ConvertArgs& args, Context& context) {
  context.data_on_stdout = args.output == "-" && !context.dry_run;
  auto input = open_input(args.input);
  if (!input) return context.fail(input.error(), input_name(args.input));
  auto kind = input_kind(**input, args);
  if (!kind) return context.fail(kind.error(), input_name(args.input));
  const bool to_card = *kind != InputKind::kCard;
  const Format* named = format_named(args.to);
  const Format& format = to_card ? *format_of(*kind) : named != nullptr ? *named : format_for_output(args.output);
  if (Status s = check_direction(to_card, format, args); !s) return context.fail(s.error(), "convert");
  return to_card ? convert_foreign(format, **input, args, context) : format.from_card(**input, args, context);
}

}  // namespace

bool has_card_options(const ConvertArgs& args) {
  return args.codec.any_given() || args.zstd_level != 0 || args.split || args.span_major ||
         args.chunk_tokens != ConvertArgs{}.chunk_tokens || args.no_source_layout || !args.time.empty();
}

Error usage(std::string detail) { return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)}; }

std::optional<bool> yes_no(const std::string& flag) {
  if (flag.empty()) return std::nullopt;
  return flag == "yes";
}

void add_convert(CLI::App& app, Context& context) {
  auto args = std::make_shared<ConvertArgs>();
  CLI::App& command =
      *app.add_subcommand("convert", "Make a card of a runtime's cache, or such a cache of a card");
  command.add_option("IN", args->input, "Cache of a runtime, or card; - for standard input")->required();
  command.add_option("OUT", args->output, "Card, or cache of a runtime (which one: by its name, or --to); - for standard output")->required();
  for (auto& [name, value] : {std::pair<const char*, std::string*>{"--from", &args->from},
                              std::pair<const char*, std::string*>{"--to", &args->to}}) {
    command
        .add_option(name, *value,
                    fmt::format("{} (default: told by content, and by the name of OUT)", fmt::join(format_names(), ", ")))
        ->check(CLI::IsMember(format_names()))
        ->type_name("FORMAT");
  }
  add_card_options(command, *args);
  add_state_options(command, *args);
  add_torch_options(command, args->torch);
  add_hdf5_options(command, args->hdf5);
  add_dry_run_option(command, context);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
