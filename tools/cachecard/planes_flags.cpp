#include "planes_flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <fstream>
#include <map>

namespace cachecard::cli {
namespace {

Error usage_error(std::string detail) { return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)}; }

template <class Number>
std::optional<Number> number(std::string_view text) {
  Number value = 0;
  const auto [end, failed] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (text.empty() || failed != std::errc{} || end != text.data() + text.size()) return {};
  return value;
}

std::string_view trimmed(std::string_view text) {
  const auto blank = [](char c) { return c == ' ' || c == '\t' || c == '\r'; };
  while (!text.empty() && blank(text.front())) text.remove_prefix(1);
  while (!text.empty() && blank(text.back())) text.remove_suffix(1);
  return text;
}

std::vector<std::string_view> split(std::string_view text, char at) {
  std::vector<std::string_view> parts;
  for (std::size_t end = text.find(at); end != std::string_view::npos; end = text.find(at)) {
    parts.push_back(trimmed(text.substr(0, end)));
    text.remove_prefix(end + 1);
  }
  parts.push_back(trimmed(text));
  return parts;
}

std::optional<std::uint8_t> bits_of(std::string_view text) {
  if (text == "exact") return std::uint8_t{0};
  const auto bits = number<std::uint8_t>(text);
  return bits && *bits >= 1 && *bits <= 8 ? bits : std::nullopt;
}

/// A file of bits by token, or by layer. flag: as the command has it; items: what A:B counts.
struct BitsFile {
  std::string_view flag;
  std::string_view items;
  const std::string& path;
  std::uint64_t count;
};

/// One line: A:B,K,V for the tokens (or layers) A to B - 1. Extends bits, which ends where A must begin.
Status add_line(std::string_view line, std::size_t number_of_line, const BitsFile& file,
                std::vector<TokenBits>& bits) {
  const auto wrong = [&](std::string detail) {
    return usage_error(fmt::format("{} {}, line {}: {}", file.flag, file.path, number_of_line, detail));
  };
  const auto parts = split(line, ',');
  const auto span = parts.size() == 3 ? split(parts[0], ':') : std::vector<std::string_view>{};
  const auto first = span.size() == 2 ? number<std::uint64_t>(span[0]) : std::nullopt;
  const auto end = span.size() == 2 ? number<std::uint64_t>(span[1]) : std::nullopt;
  if (!first || !end || *end <= *first) {
    return wrong(fmt::format("found '{}', allowed is A:B,K,V with A < B ({} A to B - 1, bits of keys and values)", line, file.items));
  }
  const auto key = bits_of(parts[1]);
  const auto value = bits_of(parts[2]);
  if (!key || !value) return wrong(fmt::format("found '{}', allowed are 1 to 8 bits, or exact", line));
  if (*first != bits.size()) {
    return wrong(fmt::format("found {} from {}, allowed from {}: no hole, no overlap", file.items, *first, bits.size()));
  }
  if (*end > file.count) return wrong(fmt::format("found {} up to {}, the cache has {}", file.items, *end, file.count));
  bits.resize(*end, TokenBits{*key, *value});
  return {};
}

Result<std::vector<TokenBits>> read_bits(const BitsFile& file) {
  std::ifstream in(file.path);
  if (!in) return Error{ErrorCode::kIo, kNoOffset, {}, fmt::format("{} {}: cannot be read", file.flag, file.path)};
  std::vector<TokenBits> bits;
  std::string line;
  for (std::size_t i = 1; std::getline(in, line); ++i) {
    const std::string_view text = trimmed(std::string_view(line).substr(0, line.find('#')));
    if (text.empty()) continue;
    if (Status s = add_line(text, i, file, bits); !s) return s.error();
  }
  if (bits.size() != file.count) {
    return usage_error(fmt::format("{} {}: found bits of {} {}, the cache has {}", file.flag, file.path, bits.size(),
                                   file.items, file.count));
  }
  return bits;
}

Status check_types(const CardHeader& header) {
  for (const StreamRecord& stream : header.streams) {
    const auto kind = static_cast<StreamKind>(stream.stream);
    const DTypeInfo* info = dtype_info(static_cast<DType>(stream.dtype));
    if (kind == StreamKind::kOpaque || info == nullptr || info->block_elements == 1) continue;
    return usage_error(fmt::format("--codec planes: layer {} {} is {}, which ggml keeps: planes are for f32, f16 and bf16",
                                   stream.layer, name_of(kind), info->name));
  }
  return {};
}

}  // namespace

void add_codec_options(CLI::App& command, CodecFlags& flags, const std::string& group) {
  command.add_option("--codec", flags.codec, "raw, ggml or planes (default: raw and ggml, as the types need)")
      ->check(CLI::IsMember({"raw", "ggml", "planes"}))
      ->type_name("CODEC")
      ->group(group);
  command.add_option("--bits", flags.bits, "Bits a value of keys and values, 1 to 8 (planes; default: 4,3)")
      ->type_name("K,V")
      ->group(group);
  command.add_option("--map", flags.map, "Bits by token: lines A:B,K,V with numbers or 'exact' (planes)")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--layer-map", flags.layer_map, "Bits by layer: lines A:B,K,V (planes)")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--exact-tokens", flags.exact_tokens, "First tokens that stay exact (planes; default: 4)")
      ->type_name("N")
      ->group(group);
  command.add_flag("--keep-nonfinite", flags.keep_nonfinite, "Keep chunks with NaN or infinite values raw (planes)")
      ->group(group);
}

Result<KeyValueBits> parse_bits(const std::string& text) {
  const auto parts = split(text, ',');
  const auto key = number<std::uint8_t>(parts[0]);
  const auto value = parts.size() == 1 ? key : number<std::uint8_t>(parts[1]);
  if (parts.size() > 2 || !key || !value || *key < 1 || *key > 8 || *value < 1 || *value > 8) {
    return usage_error(fmt::format("--bits: found '{}', allowed is K,V or one number, 1 to 8 each", text));
  }
  return KeyValueBits{*key, *value};
}

Result<std::optional<PlanesOptions>> planes_options(const CodecFlags& flags, const CardHeader& header) {
  const bool settings = !flags.bits.empty() || !flags.map.empty() || !flags.layer_map.empty() || flags.exact_tokens || flags.keep_nonfinite;
  if (flags.codec != "planes") {
    if (settings && !flags.codec.empty()) {
      return usage_error("--bits, --map, --layer-map, --exact-tokens and --keep-nonfinite are for --codec planes");
    }
    if (!settings) return std::optional<PlanesOptions>();
  }
  if (Status s = check_types(header); !s) return s.error();
  PlanesOptions planes;
  if (!flags.bits.empty()) {
    auto bits = parse_bits(flags.bits);
    if (!bits) return bits.error();
    planes.key_bits = bits->key;
    planes.value_bits = bits->value;
  }
  if (!flags.layer_map.empty()) {
    if (!flags.bits.empty() || !flags.map.empty()) return usage_error("--layer-map says the bits of every layer: leave --bits and --map out");
    auto layers = read_bits({"--layer-map", "layers", flags.layer_map, header.layer_count});
    if (!layers) return layers.error();
    planes.layer_bits = std::move(*layers);
  }
  planes.exact_tokens = flags.exact_tokens.value_or(planes.exact_tokens);
  planes.keep_nonfinite = flags.keep_nonfinite;
  if (flags.map.empty()) return std::optional(planes);
  if (!flags.bits.empty() || flags.exact_tokens) return usage_error("--map says the bits of every token: leave --bits and --exact-tokens out");
  auto map = read_bits({"--map", "tokens", flags.map, header.token_count});
  if (!map) return map.error();
  planes.token_bits = std::move(*map);
  return std::optional(planes);
}

std::string describe(const std::optional<PlanesOptions>& planes, const CodecFlags& flags) {
  if (!planes) return {};
  if (!flags.map.empty()) return ", planes, bits by token";
  if (!flags.layer_map.empty()) return fmt::format(", planes, bits by layer, {} exact tokens", planes->exact_tokens);
  return fmt::format(", planes {},{} bits, {} exact tokens", planes->key_bits, planes->value_bits, planes->exact_tokens);
}

std::vector<std::string> raw_chunk_notes(const WriteReport& written) {
  static const std::map<RawReason, std::string_view> kWhy{
      {RawReason::kNonFinite, "it holds NaN or infinite values, which inject refuses"},
      {RawReason::kOutOfReach, "its values span more than the codec's scale reaches"},
      {RawReason::kWorse, "8 bits would keep it worse than q8_0 does"}};
  std::map<RawReason, std::vector<const RawChunk*>> by_reason;
  for (const RawChunk& chunk : written.raw_chunks) by_reason[chunk.reason].push_back(&chunk);
  std::vector<std::string> notes;
  for (const auto& [reason, chunks] : by_reason) {
    const RawChunk& first = *chunks.front();
    notes.push_back(fmt::format("{} chunk{} kept raw (layer {} {}, tokens {}:{}{}): {}", chunks.size(),
                                chunks.size() == 1 ? "" : "s", first.layer, name_of(first.stream), first.first_token,
                                first.first_token + first.token_count, chunks.size() == 1 ? "" : ", ...", kWhy.at(reason)));
  }
  return notes;
}

}  // namespace cachecard::cli
