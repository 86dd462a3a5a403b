#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <array>
#include <memory>

#include "cachecard/match.hpp"
#include "commands.hpp"
#include "context.hpp"
#include "output.hpp"

namespace cachecard::cli {
namespace {

struct Meaning {
  std::string_view name;
  std::string_view meaning;
};

std::array<Meaning, 4> codec_meanings() {
  return {Meaning{name_of(Codec::kRaw), "f32, f16 and bf16 as they are"},
          Meaning{name_of(Codec::kGgml), "ggml's block types as they are"},
          Meaning{name_of(Codec::kPlanes), "1 to 8 bits a value by token, as bit planes (--bits, --map)"},
          Meaning{name_of(Codec::kEntropy), "uniform steps, entropy coded, at a mean of so many bits a value (--bits)"}};
}

std::array<Meaning, 3> compressor_meanings() {
  return {Meaning{name_of(Compressor::kNone), "bytes as they are"},
          Meaning{name_of(Compressor::kZstd), "zstd (--zstd)"},
          Meaning{name_of(Compressor::kSplitZstd),
                  "bytes sorted by significance, then zstd "
                  "(--split)"}};
}

std::vector<Json> codec_rows() {
  std::vector<Json> rows;
  for (const Meaning& row : codec_meanings()) {
    rows.push_back({{"codec", row.name}, {"meaning", row.meaning}});
  }
  return rows;
}

std::vector<Json> compressor_rows() {
  std::vector<Json> rows;
  for (const Meaning& row : compressor_meanings()) {
    rows.push_back({{"compressor", row.name}, {"meaning", row.meaning}});
  }
  return rows;
}

std::vector<Json> type_rows() {
  std::vector<Json> rows;
  for (unsigned number = 0; number < 255; ++number) {
    const DTypeInfo* info = dtype_info(static_cast<DType>(number));
    if (info == nullptr) continue;
    rows.push_back({{"dtype", info->name},
                    {"number", number},
                    {"codec", name_of(info->block_elements > 1 ? Codec::kGgml : Codec::kRaw)},
                    {"width_bits", info->width_half_bits / 2.0},
                    {"block_elements", info->block_elements},
                    {"block_bytes", info->block_bytes}});
  }
  return rows;
}

std::vector<Json> limit_rows() {
  const Limits limits;
  const auto row = [](std::string_view name, std::uint64_t value) {
    return Json{{"limit", name}, {"value", value}};
  };
  return {row("header_bytes", limits.header_bytes), row("section_bytes", limits.section_bytes),
          row("map_bytes", limits.map_bytes),       row("summary_bytes", limits.summary_bytes),
          row("frame_count", limits.frame_count),   row("token_count", limits.token_count),
          row("stream_count", limits.stream_count), row("segment_count", limits.segment_count)};
}

std::vector<Json> override_rows() {
  std::vector<Json> rows;
  for (const OverrideInfo& info : overrides()) {
    rows.push_back({{"allow", info.name}, {"meaning", info.meaning}});
  }
  return rows;
}

std::vector<Json> error_rows() {
  std::size_t count = 0;
  const ErrorInfo* table = error_table(&count);
  std::vector<Json> rows;
  for (const ErrorInfo& info : std::span(table, count)) {
    rows.push_back({{"code", static_cast<int>(info.code)},
                    {"name", info.name},
                    {"exit_code", info.exit_code},
                    {"meaning", info.meaning}});
  }
  rows.push_back({{"code", nullptr},
                  {"name", "differences"},
                  {"exit_code", 9},
                  {"meaning", "diff: the cards differ (no error)"}});
  return rows;
}

void run(bool errors, const Context& context) {
  if (errors) {
    const auto rows = error_rows();
    context.say(objects_table(rows, {"exit_code"}));
    context.say_json({{"errors", rows}});
    return;
  }
  context.say("codecs\n" + objects_table(codec_rows()) + "\ntypes\n" +
              objects_table(type_rows(), {"number"}) + "\ncompressors\n" +
              objects_table(compressor_rows(), {"compressor"}) + "\nlimits\n" + objects_table(limit_rows()) +
              "\noverrides (inject --allow NAME)\n" + objects_table(override_rows()));
  context.say_json({{"codecs", codec_rows()},
                    {"types", type_rows()},
                    {"compressors", compressor_rows()},
                    {"limits", limit_rows()},
                    {"overrides", override_rows()}});
}

}  // namespace

void add_codecs(CLI::App& app, Context& context) {
  auto errors = std::make_shared<bool>(false);
  CLI::App& command = *app.add_subcommand("codecs", "List codecs, types, limits and error codes");
  command.add_flag("--errors", *errors, "The table of error codes and exit codes");
  add_common_options(command, context);
  command.callback([errors, &context] { run(*errors, context); });
}

}  // namespace cachecard::cli
