#include <CLI/CLI.hpp>
#include <memory>

#include "card_report.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "input.hpp"
#include "model_flags.hpp"
#include "output_file.hpp"
#include "state_report.hpp"

namespace cachecard::cli {
namespace {

struct InspectArgs {
  std::string input;
  ModelFlags model;
  std::string layout;
  DetailOptions details;
};

/// Gathers from a pipe what read_facts takes from a file.
class FactsVisitor final : public SequentialVisitor {
 public:
  CardFacts facts;

  Status on_header(const Prologue& prologue, const CardHeader& header) override {
    facts.prologue = prologue;
    facts.header = header;
    return {};
  }
  Status on_section(const FrameHeader& frame, std::span<const std::byte> stored) override {
    if (frame.section_type != static_cast<std::uint16_t>(SectionType::kSummary)) return {};
    auto summary = parse_summary(stored);
    if (!summary) return summary.error();
    facts.summary = std::move(*summary);
    return {};
  }
};

/// Passes a stream on and keeps a copy of it.
class CopyingStream final : public ByteStream {
 public:
  CopyingStream(ByteStream& stream, ByteSink& copy) : stream_(stream), copy_(copy) {}
  Result<std::size_t> read(std::span<std::byte> out) override {
    auto got = stream_.read(out);
    if (!got) return got;
    if (Status s = copy_.write(out.first(*got)); !s) return s.error();
    return got;
  }

 private:
  ByteStream& stream_;
  ByteSink& copy_;
};

Result<CardFacts> facts_from_stream(ByteStream& stream) {
  FactsVisitor visitor;
  auto report = verify(stream, {}, &visitor);
  if (!report) return report.error();
  visitor.facts.trailer = report->trailer;
  return visitor.facts;
}

int show(const CardFacts& facts, const ByteSource* source, const InspectArgs& args, Context& context) {
  Json object;
  if (context.json) object = facts_json(facts);
  std::string text;
  if (!context.json) text = facts_text(facts, input_name(args.input));
  if (args.details.any() && source != nullptr) {
    auto card = CardReader::open(*source);
    if (!card) return context.fail(card.error(), input_name(args.input));
    if (context.json) {
      if (Status s = add_details(*card, args.details, object); !s) {
        return context.fail(s.error(), input_name(args.input));
      }
    } else {
      auto more = details_text(*card, args.details);
      if (!more) return context.fail(more.error(), input_name(args.input));
      text += *more;
    }
  }
  context.say(text);
  context.say_json(object);
  return 0;
}

int show_state(const ByteSource& source, const InspectArgs& args, Context& context) {
  if (args.details.any()) {
    return context.fail({ErrorCode::kInvalidArgument,
                         kNoOffset,
                         {},
                         "the input is a llama.cpp state: only cards have sections to show"},
                        "inspect");
  }
  auto facts = model_facts(args.model);
  if (!facts) return context.fail(facts.error(), model_blame(facts.error(), args.model, "inspect"));
  llama_cpp::ParseOptions options;
  options.layout = layout_by_name(args.layout);
  auto state = llama_cpp::parse_state(source, *facts ? &**facts : nullptr, options);
  if (!state) return context.fail(state.error(), input_name(args.input));
  context.say("state       " + printable(input_name(args.input)) + "\n" + state_text(*state));
  context.say_json(state_json(*state));
  return 0;
}

int inspect_file(const InspectArgs& args, Context& context) {
  auto source = open_input(args.input);
  if (!source) return context.fail(source.error(), args.input);
  auto kind = kind_of(**source);
  if (!kind) return context.fail(kind.error(), args.input);
  if (*kind == InputKind::kState) return show_state(**source, args, context);
  auto facts = read_facts(**source);
  if (!facts) return context.fail(facts.error(), args.input);
  return show(*facts, source->get(), args, context);
}

/// A pipe's card is walked to its end; a copy is kept only where details want one.
int inspect_card_stream(ByteStream& stream, const InspectArgs& args, Context& context) {
  const std::string name = input_name(args.input);
  if (!args.details.any()) {
    auto facts = facts_from_stream(stream);
    if (!facts) return context.fail(facts.error(), name);
    return show(*facts, nullptr, args, context);
  }
  auto copy = UnlinkedFile::create();
  if (!copy) return context.fail(copy.error(), name);
  CopyingStream copying(stream, **copy);
  auto facts = facts_from_stream(copying);
  if (!facts) return context.fail(facts.error(), name);
  const UnlinkedSource source(std::move(*copy));
  return show(*facts, &source, args, context);
}

int inspect_pipe(const InspectArgs& args, Context& context) {
  const std::string name = input_name(args.input);
  auto pipe = open_input_stream(args.input);
  if (!pipe) return context.fail(pipe.error(), name);
  std::vector<std::byte> head(kHeadBytes);
  auto got = read_up_to(**pipe, head);
  if (!got) return context.fail(got.error(), name);
  head.resize(*got);
  const InputKind kind = kind_of(head);
  HeadStream stream(std::move(head), **pipe);
  if (kind != InputKind::kState) return inspect_card_stream(stream, args, context);
  auto source = spool(stream);
  if (!source) return context.fail(source.error(), name);
  return show_state(**source, args, context);
}

int run(const InspectArgs& args, Context& context) {
  return is_pipe(args.input) ? inspect_pipe(args, context) : inspect_file(args, context);
}

}  // namespace

void add_inspect(CLI::App& app, Context& context) {
  auto args = std::make_shared<InspectArgs>();
  CLI::App& command = *app.add_subcommand("inspect", "Say what a card (or llama.cpp state) holds");
  command.add_option("CARD", args->input, "Card or state, - for standard input")->required();
  DetailOptions& details = args->details;
  command.add_flag("--streams", details.streams, "Every stream, with the bytes of its chunks");
  command.add_flag("--map", details.map, "Bit-width map: widths in bits, by token");
  command.add_flag("--tokens", details.tokens, "Token ids, positions, and text if present");
  command.add_flag("--sections", details.sections, "Every frame in file order");
  command.add_flag("--provenance", details.provenance, "By which steps the card was made");
  command.add_flag("--source-layout", details.source_layout, "What the foreign file was");
  add_model_options(command, args->model);
  command.add_option("--layout", args->layout, "Layout of a state that does not say: 10/3 or 11/4")
      ->check(CLI::IsMember({"10/3", "11/4"}))
      ->type_name("LAYOUT");
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
