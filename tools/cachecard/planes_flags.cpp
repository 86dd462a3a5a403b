#include "planes_flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>

#include "cachecard/allocate.hpp"

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

/// Bits of keys and values, or what else a file says of both.
template <class Value>
struct Pair {
  Value key{};
  Value value{};
};

/// 1 to 8, or 0 for exact.
std::optional<std::uint8_t> bits_of(std::string_view text) {
  if (text == "exact") return std::uint8_t{0};
  const auto bits = number<std::uint8_t>(text);
  return bits && *bits >= 1 && *bits <= 8 ? bits : std::nullopt;
}

std::optional<double> sensitivity_of(std::string_view text) {
  const auto found = number<double>(text);
  return found && std::isfinite(*found) && *found >= 0.0 ? found : std::nullopt;
}

/// A file of lines A:B,K,V. flag: as the command has it; items: what A:B counts; allowed: what K and V may be.
template <class Value>
struct SpanFile {
  std::string_view flag;
  std::string_view items;
  std::string_view allowed;
  const std::string& path;
  std::uint64_t count;
  std::optional<Value> (*parse)(std::string_view);
};

/// One line: A:B,K,V for the tokens (or layers) A to B - 1. Extends found, which ends where A must begin.
template <class Value>
Status add_line(std::string_view line, std::size_t number_of_line, const SpanFile<Value>& file,
                std::vector<Pair<Value>>& found) {
  const auto wrong = [&](std::string detail) {
    return usage_error(fmt::format("{} {}, line {}: {}", file.flag, file.path, number_of_line, detail));
  };
  const auto parts = split(line, ',');
  const auto span = parts.size() == 3 ? split(parts[0], ':') : std::vector<std::string_view>{};
  const auto first = span.size() == 2 ? number<std::uint64_t>(span[0]) : std::nullopt;
  const auto end = span.size() == 2 ? number<std::uint64_t>(span[1]) : std::nullopt;
  if (!first || !end || *end <= *first) {
    return wrong(fmt::format("found '{}', allowed is A:B,K,V with A < B ({} A to B - 1, of keys and of values)", line, file.items));
  }
  const auto key = file.parse(parts[1]);
  const auto value = file.parse(parts[2]);
  if (!key || !value) return wrong(fmt::format("found '{}', allowed are {}", line, file.allowed));
  if (*first != found.size()) {
    return wrong(fmt::format("found {} from {}, allowed from {}: no hole, no overlap", file.items, *first, found.size()));
  }
  if (*end > file.count) return wrong(fmt::format("found {} up to {}, the cache has {}", file.items, *end, file.count));
  found.resize(*end, Pair<Value>{*key, *value});
  return {};
}

template <class Value>
Result<std::vector<Pair<Value>>> read_spans(const SpanFile<Value>& file) {
  std::ifstream in(file.path);
  if (!in) return Error{ErrorCode::kIo, kNoOffset, {}, fmt::format("{} {}: cannot be read", file.flag, file.path)};
  std::vector<Pair<Value>> found;
  std::string line;
  for (std::size_t i = 1; std::getline(in, line); ++i) {
    const std::string_view text = trimmed(std::string_view(line).substr(0, line.find('#')));
    if (text.empty()) continue;
    if (Status s = add_line(text, i, file, found); !s) return s.error();
  }
  if (found.size() != file.count) {
    return usage_error(fmt::format("{} {}: found {} {}, the cache has {}", file.flag, file.path, found.size(),
                                   file.items, file.count));
  }
  return found;
}

Result<std::vector<TokenBits>> read_bits(std::string_view flag, std::string_view items, const std::string& path,
                                         std::uint64_t count) {
  auto found = read_spans<std::uint8_t>({flag, items, "1 to 8 bits, or exact", path, count, &bits_of});
  if (!found) return found.error();
  std::vector<TokenBits> bits;
  bits.reserve(found->size());
  for (const auto& pair : *found) bits.push_back({pair.key, pair.value});
  return bits;
}

bool is_value(const StreamRecord& stream) { return stream.stream == static_cast<std::uint8_t>(StreamKind::kValue); }

/// Layers share the bits that --bits gives to all of them, those of the newest tokens included.
Status set_layer_bits(const CodecFlags& flags, const CardHeader& header, PlanesOptions& planes) {
  if (!flags.layer_map.empty() || !flags.map.empty()) {
    return usage_error("--sensitivity finds the bits of every layer: leave --layer-map and --map out");
  }
  auto costs = read_spans<double>({"--sensitivity", "layers", "numbers from 0 on", flags.sensitivity,
                                   header.layer_count, &sensitivity_of});
  if (!costs) return costs.error();
  std::vector<StreamWeight> weights;
  double bits = 0.0;
  double values = 0.0;
  for (const StreamRecord& stream : header.streams) {
    const auto& cost = (*costs)[stream.layer];
    const std::uint64_t count = stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)
                                    ? 0
                                    : stream.token_count * row_elements(stream);
    weights.push_back({is_value(stream) ? cost.value : cost.key, count});
    bits += static_cast<double>(count) * (is_value(stream) ? planes.value_bits : planes.key_bits);
    values += static_cast<double>(count);
  }
  if (values == 0.0) return {};
  const bool newest = planes.newest_tokens != 0;
  const double share = static_cast<double>(std::min(planes.newest_tokens, header.token_count)) /
                       static_cast<double>(std::max<std::uint64_t>(header.token_count, 1));
  const double mean = std::max(bits / values - share, 1.0);
  // Room for the newest tokens' bit, unless all bits are wanted.
  auto shared = allocate_bits(weights, mean, newest && mean <= 7.0 ? 7 : 8);
  if (!shared) return shared.error();
  planes.layer_bits.assign(header.layer_count, {planes.key_bits, planes.value_bits});
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].value_count == 0) continue;
    TokenBits& layer = planes.layer_bits[header.streams[i].layer];
    (is_value(header.streams[i]) ? layer.value : layer.key) = (*shared)[i];
  }
  return {};
}

Status check_types(const CardHeader& header, std::string_view codec) {
  for (const StreamRecord& stream : header.streams) {
    const auto kind = static_cast<StreamKind>(stream.stream);
    const DTypeInfo* info = dtype_info(static_cast<DType>(stream.dtype));
    if (kind == StreamKind::kOpaque || info == nullptr || info->block_elements == 1) continue;
    return usage_error(fmt::format("--codec {}: layer {} {} is {}, which ggml keeps: {} {} for f32, f16 and bf16", codec,
                                   stream.layer, name_of(kind), info->name, codec, codec == "planes" ? "are" : "is"));
  }
  return {};
}

}  // namespace

void add_codec_options(CLI::App& command, CodecFlags& flags, const std::string& group) {
  command.add_option("--codec", flags.codec, "raw, ggml, planes or entropy (default: raw and ggml, as the types need)")
      ->check(CLI::IsMember({"raw", "ggml", "planes", "entropy"}))
      ->type_name("CODEC")
      ->group(group);
  command.add_option("--bits", flags.bits, "Bits a value of keys and values, 1 to 8 (planes; default: 4,3), or the mean over all (entropy; default: 2)")
      ->type_name("K,V")
      ->group(group);
  command.add_option("--map", flags.map, "Bits by token: lines A:B,K,V with numbers or 'exact' (planes)")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--layer-map", flags.layer_map, "Bits by layer: lines A:B,K,V; with --map a token adds what its bits are above --bits (planes)")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--sensitivity", flags.sensitivity,
                  "What errors cost by layer: lines A:B,K,V; layers then share --bits by it (planes, entropy)")
      ->type_name("FILE")
      ->group(group);
  command.add_option("--newest-tokens", flags.newest_tokens, "Last tokens that get a bit more (planes, entropy; default: 0)")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 31))
      ->type_name("N")
      ->group(group);
  command.add_option("--exact-tokens", flags.exact_tokens, "First tokens that stay exact (planes; default: 4, of entropy 0 exact and 4 at 8 bits)")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 31))
      ->type_name("N")
      ->group(group);
  command.add_flag("--keep-nonfinite", flags.keep_nonfinite, "Keep chunks with NaN or infinite values raw (planes, entropy)")
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

namespace {

/// The settings of planes, or nothing where exact codecs are wanted.
Result<std::optional<PlanesOptions>> planes_options(const CodecFlags& flags, const CardHeader& header) {
  if (flags.codec != "planes") {
    if (flags.has_settings() && !flags.codec.empty()) {
      return usage_error("--bits, --map, --layer-map, --sensitivity, --exact-tokens, --newest-tokens and --keep-nonfinite are "
                         "for --codec planes or entropy");
    }
    if (!flags.has_settings()) return std::optional<PlanesOptions>();
  }
  if (Status s = check_types(header, "planes"); !s) return s.error();
  PlanesOptions planes;
  if (!flags.bits.empty()) {
    auto bits = parse_bits(flags.bits);
    if (!bits) return bits.error();
    planes.key_bits = bits->key;
    planes.value_bits = bits->value;
  }
  if (!flags.layer_map.empty()) {
    if (!flags.bits.empty() && flags.map.empty()) return usage_error("--layer-map says the bits of every layer: leave --bits out");
    auto layers = read_bits("--layer-map", "layers", flags.layer_map, header.layer_count);
    if (!layers) return layers.error();
    planes.layer_bits = std::move(*layers);
  }
  planes.exact_tokens = flags.exact_tokens.value_or(planes.exact_tokens);
  planes.newest_tokens = flags.newest_tokens;
  if (!flags.sensitivity.empty()) {
    if (Status s = set_layer_bits(flags, header, planes); !s) return s.error();
  }
  planes.keep_nonfinite = flags.keep_nonfinite;
  if (flags.map.empty()) return std::optional(planes);
  if ((!flags.bits.empty() && flags.layer_map.empty()) || flags.exact_tokens || flags.newest_tokens != 0) {
    return usage_error("--map says the bits of every token: leave --bits, --exact-tokens and --newest-tokens out");
  }
  auto map = read_bits("--map", "tokens", flags.map, header.token_count);
  if (!map) return map.error();
  planes.token_bits = std::move(*map);
  return std::optional(planes);
}

/// For provenance: "" or ", planes 4,3 bits".
std::string describe(const std::optional<PlanesOptions>& planes, const CodecFlags& flags) {
  if (!planes) return {};
  if (!flags.map.empty()) return flags.layer_map.empty() ? ", planes, bits by token" : ", planes, bits by layer and token";
  if (!flags.layer_map.empty()) return fmt::format(", planes, bits by layer, {} exact tokens", planes->exact_tokens);
  if (!flags.sensitivity.empty()) {
    return fmt::format(", planes {},{} bits shared by layer, {} exact tokens", planes->key_bits, planes->value_bits,
                       planes->exact_tokens);
  }
  return fmt::format(", planes {},{} bits, {} exact tokens", planes->key_bits, planes->value_bits, planes->exact_tokens);
}

/// Steps go with the square root of what an error costs: then a bit more takes as much off each stream's error.
Status set_gains(const CodecFlags& flags, const CardHeader& header, EntropyOptions& entropy) {
  if (flags.sensitivity.empty()) return {};
  auto costs = read_spans<double>({"--sensitivity", "layers", "numbers from 0 on", flags.sensitivity,
                                   header.layer_count, &sensitivity_of});
  if (!costs) return costs.error();
  double most = 0.0;
  for (const auto& cost : *costs) most = std::max({most, cost.key, cost.value});
  if (most == 0.0) return {};
  constexpr double kLeast = 1e-3;  // of the largest: what is measured lower is noise
  for (const StreamRecord& stream : header.streams) {
    const auto& cost = (*costs)[stream.layer];
    const double share = std::max((is_value(stream) ? cost.value : cost.key) / most, kLeast);
    entropy.gains.insert(entropy.gains.end(), stream.kv_head_count, static_cast<float>(1.0 / std::sqrt(share)));
  }
  return {};
}

void set_newest_tokens(const CodecFlags& flags, const CardHeader& header, EntropyOptions& entropy) {
  const std::uint64_t newest = std::min(flags.newest_tokens, header.token_count);
  if (newest == 0) return;
  constexpr std::int8_t kHalfStep = 2;
  std::size_t uses = 0;
  for (const StreamRecord& stream : header.streams) uses += stream.kv_head_count;
  entropy.token_offsets.assign(uses * header.token_count, 0);
  for (std::size_t use = 0; use < uses; ++use) {
    const auto end = entropy.token_offsets.begin() + static_cast<std::ptrdiff_t>((use + 1) * header.token_count);
    std::fill(end - static_cast<std::ptrdiff_t>(newest), end, kHalfStep);
  }
}

Result<EntropyOptions> entropy_options(const CodecFlags& flags, const CardHeader& header) {
  if (Status s = check_types(header, "entropy"); !s) return s.error();
  if (!flags.map.empty() || !flags.layer_map.empty()) {
    return usage_error("--map and --layer-map are for --codec planes");
  }
  EntropyOptions entropy;
  if (!flags.bits.empty()) {
    const auto bits = number<double>(flags.bits);
    if (!bits || !(*bits >= 0.05 && *bits <= 32.0)) {
      return usage_error(fmt::format("--bits: found '{}', allowed for entropy is one number, 0.05 to 32", flags.bits));
    }
    entropy.bits = *bits;
  }
  if (flags.exact_tokens) {
    entropy.fine_tokens -= std::min(entropy.fine_tokens, *flags.exact_tokens);
    entropy.exact_tokens = *flags.exact_tokens;
  }
  entropy.keep_nonfinite = flags.keep_nonfinite;
  if (Status s = set_gains(flags, header, entropy); !s) return s.error();
  set_newest_tokens(flags, header, entropy);
  return entropy;
}

}  // namespace

Status set_codec(const CodecFlags& flags, const CardHeader& header, CardOptions& card) {
  if (flags.codec == "entropy") {
    auto entropy = entropy_options(flags, header);
    if (!entropy) return entropy.error();
    card.entropy = std::move(*entropy);
    card.provenance.text += fmt::format(", entropy {} bits, {} exact tokens, {} fine tokens", card.entropy->bits,
                                        card.entropy->exact_tokens, card.entropy->fine_tokens);
    return {};
  }
  auto planes = planes_options(flags, header);
  if (!planes) return planes.error();
  card.planes = std::move(*planes);
  card.provenance.text += describe(card.planes, flags);
  return {};
}

std::vector<std::string> raw_chunk_notes(const WriteReport& written) {
  static const std::map<RawReason, std::string_view> kWhy{
      {RawReason::kNonFinite, "it holds NaN or infinite values, which inject refuses"},
      {RawReason::kOutOfReach, "its values span more than the codec's scale reaches"},
      {RawReason::kWorse, "8 bits would keep it worse than q8_0 does"},
      {RawReason::kLarger, "coded it would not be smaller"}};
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
