#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <memory>

#include "card_compare.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "convert.hpp"
#include "input.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

constexpr int kDifferencesExit = 9;
constexpr std::size_t kRowsShown = 40;

/// What the flags say holds for both sides, as far as a format asks for it.
struct DiffArgs : SourceArgs {
  std::string left;
  std::string right;
  std::optional<double> tolerance;

  bool differs(const Comparison& result) const {
    return tolerance ? result.beyond(*tolerance) : result.different();
  }
};

/// A card at rest; another cache is made one in a temporary file first.
struct OpenCard {
  std::unique_ptr<ByteSource> input;   ///< the foreign file
  std::unique_ptr<ByteSource> source;  ///< the card
  std::optional<CardReader> card;
};

Result<std::unique_ptr<ByteSource>> card_of(const Format& format, const ByteSource& input, const SourceArgs& args,
                                            std::string& at_fault) {
  auto opened = format.open(input, args, at_fault);
  if (!opened) return opened.error();
  auto file = UnlinkedFile::create();
  if (!file) return file.error();
  if (opened->copy) {
    auto copied = opened->copy(**file, nullptr);
    if (!copied) return copied.error();
    return std::unique_ptr<ByteSource>(new UnlinkedSource(std::move(*file)));
  }
  auto written = opened->restore ? opened->restore(*opened->source, **file, {}) : write_card(*opened->source, **file);
  if (!written) return written.error();
  return std::unique_ptr<ByteSource>(new UnlinkedSource(std::move(*file)));
}

/// at_fault: what to name where it fails.
Result<OpenCard> open_card(const std::string& path, const DiffArgs& args, std::string& at_fault) {
  OpenCard opened;
  at_fault = input_name(path);
  auto source = open_input(path);
  if (!source) return source.error();
  opened.source = std::move(*source);
  auto kind = kind_of(*opened.source);
  if (!kind) return kind.error();
  if (const Format* format = format_of(*kind)) {
    SourceArgs side = args;
    side.input = path;
    std::string other;
    opened.input = std::move(opened.source);
    auto card = card_of(*format, *opened.input, side, other);
    if (!card) at_fault = other.empty() ? source_blame(card.error(), side) : other;
    if (!card) return card.error();
    opened.source = std::move(*card);
  }
  auto card = CardReader::open(*opened.source);
  if (!card) return card.error();
  opened.card = std::move(*card);
  return opened;
}

std::string_view verdict_of(const Comparison& result, const DiffArgs& args) {
  if (result.same_root) return "identical";
  if (!result.different()) return "equal values, stored differently";
  return args.differs(result) ? "different" : "different within the tolerance";
}

std::string differences_text(std::string_view title, const std::vector<Difference>& differences) {
  if (differences.empty()) return {};
  Table table({{""}, {"left"}, {"right"}});
  for (std::size_t i = 0; i < std::min(differences.size(), kRowsShown); ++i) {
    table.add({differences[i].what, differences[i].left, differences[i].right});
  }
  std::string text = fmt::format("\n{}\n{}", title, table.text());
  if (differences.size() > kRowsShown) {
    text += fmt::format("  and {} more (--json has all)\n", differences.size() - kRowsShown);
  }
  return text;
}

std::string streams_text(const Comparison& result) {
  constexpr auto kRight = Table::Align::kRight;
  Table table({{"layer", kRight},
               {"stream"},
               {"values", kRight},
               {"differing", kRight},
               {"relative error", kRight},
               {"cosine", kRight},
               {"max_abs", kRight},
               {"worst token", kRight},
               {"its error", kRight}});
  std::size_t rows = 0;
  for (const StreamComparison& stream : result.streams) {
    if (stream.differing == 0 || ++rows > kRowsShown) continue;
    const bool opaque = stream.stream == StreamKind::kOpaque;
    const auto number = [opaque](double value) { return opaque ? std::string("-") : fmt::format("{:.4g}", value); };
    table.add({std::to_string(stream.layer), std::string(name_of(stream.stream)), grouped(stream.value_count),
               grouped(stream.differing), number(stream.relative_error),
               opaque ? "-" : fmt::format("{:.6f}", stream.cosine), number(stream.max_abs),
               opaque ? "-" : std::to_string(stream.worst_token), number(stream.worst_error)});
  }
  if (table.empty()) return {};
  std::string text = "\ndifferent streams\n" + table.text();
  if (rows > kRowsShown) {
    text += fmt::format("  and {} more (--json has all)\n", rows - kRowsShown);
  }
  return text;
}

std::string diff_text(const Comparison& result, const DiffArgs& args) {
  Facts facts;
  facts.add("left", input_name(args.left));
  facts.add("right", input_name(args.right));
  facts.add("verdict", verdict_of(result, args));
  facts.add("chunks", fmt::format("{} equal, {} of equal values, {} different",
                                  grouped(result.count(ChunkVerdict::kEqual)),
                                  grouped(result.count(ChunkVerdict::kEqualValues)),
                                  grouped(result.count(ChunkVerdict::kDifferent))));
  return facts.text() + differences_text("identity", result.identity) +
         differences_text("structure", result.structure) + differences_text("storage", result.storage) +
         streams_text(result);
}

Json differences_json(const std::vector<Difference>& differences) {
  Json rows = Json::array();
  for (const Difference& row : differences) {
    rows.push_back({{"what", row.what}, {"left", row.left}, {"right", row.right}});
  }
  return rows;
}

Json streams_json(const Comparison& result, const DiffArgs& args) {
  Json rows = Json::array();
  for (const StreamComparison& stream : result.streams) {
    rows.push_back({{"layer", stream.layer},
                    {"stream", name_of(stream.stream)},
                    {"value_count", stream.value_count},
                    {"differing", stream.differing},
                    {"nonfinite", stream.nonfinite},
                    {"relative_error", stream.relative_error},
                    {"cosine", stream.cosine},
                    {"max_abs", stream.max_abs},
                    {"worst_token", stream.worst_token},
                    {"worst_token_error", stream.worst_error},
                    {"beyond_tolerance", stream.beyond(args.tolerance.value_or(0.0))}});
  }
  return rows;
}

Json diff_json(const Comparison& result, const DiffArgs& args) {
  Json chunks = Json::array();
  for (const ChunkComparison& chunk : result.chunks) {
    chunks.push_back({{"layer", chunk.layer},
                      {"stream", name_of(chunk.stream)},
                      {"first_token", chunk.first_token},
                      {"token_count", chunk.token_count},
                      {"verdict", name_of(chunk.verdict)},
                      {"value_count", chunk.value_count},
                      {"differing", chunk.differing},
                      {"max_abs", chunk.max_abs}});
  }
  return {{"different", result.different()},
          {"verdict", verdict_of(result, args)},
          {"tolerance", args.tolerance ? Json(*args.tolerance) : Json()},
          {"beyond_tolerance", args.differs(result)},
          {"same_root", result.same_root},
          {"equal_chunks", result.count(ChunkVerdict::kEqual)},
          {"equal_value_chunks", result.count(ChunkVerdict::kEqualValues)},
          {"different_chunks", result.count(ChunkVerdict::kDifferent)},
          {"identity", differences_json(result.identity)},
          {"structure", differences_json(result.structure)},
          {"storage", differences_json(result.storage)},
          {"streams", streams_json(result, args)},
          {"chunks", std::move(chunks)}};
}

int run(const DiffArgs& args, Context& context) {
  if (args.left == "-" && args.right == "-") {
    return context.fail(
        {ErrorCode::kInvalidArgument, kNoOffset, {}, "only one of the two can come from standard input"},
        "diff");
  }
  std::string at_fault;
  auto left = open_card(args.left, args, at_fault);
  if (!left) return context.fail(left.error(), at_fault);
  auto right = open_card(args.right, args, at_fault);
  if (!right) return context.fail(right.error(), at_fault);
  Workers workers(context.threads);
  auto result = compare(*left->card, *right->card, workers.parallel());
  if (!result) return context.fail(result.error(), args.left + " and " + args.right);
  if (args.differs(*result)) context.exit_code = kDifferencesExit;
  context.say(diff_text(*result, args));
  if (context.json) context.say_json(diff_json(*result, args));
  return context.exit_code;
}

}  // namespace

void add_diff(CLI::App& app, Context& context) {
  auto args = std::make_shared<DiffArgs>();
  args->command = "diff";
  CLI::App& command = *app.add_subcommand("diff", "Compare two caches: exit code 9 where they differ");
  command.add_option("A", args->left, "Card, or cache of a runtime (see convert)")->required();
  command.add_option("B", args->right, "Card, or cache of a runtime")->required();
  command
      .add_option("--tolerance", args->tolerance,
                  "Differ only where tokens or shapes do, or a stream's relative error is above this (0.01: 1 %)")
      ->check(CLI::Range(0.0, 1e9))
      ->type_name("X");
  add_model_options(command, args->model);
  add_geometry_options(command, args->model);
  command.add_option("--layout", args->layout, "Layout of a state that does not say: 10/3 or 11/4")
      ->check(CLI::IsMember({"10/3", "11/4"}))
      ->type_name("LAYOUT");
  command.add_option("--rotated", args->rotated, "Whether a quantised 10/3 state is rotated: yes, no")
      ->check(CLI::IsMember({"yes", "no"}))
      ->type_name("YES|NO");
  add_tensor_options(command, args->torch);
  add_threads_option(command, context);
  add_common_options(command, context);
  command.callback([args, &context] { run(*args, context); });
}

}  // namespace cachecard::cli
