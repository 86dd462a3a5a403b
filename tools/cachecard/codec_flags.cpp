#include "codec_flags.hpp"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <map>

#include "agent_looks.hpp"
#include "cachecard/allocate.hpp"
#include "entropy_settings.hpp"
#include "planes_settings.hpp"
#include "size_flag.hpp"
#include "span_file.hpp"

namespace cachecard::cli {
namespace {

void add_link_options(CLI::App& command, CodecFlags& flags, const std::string& group) {
  auto* topology = command.add_option("--topology", flags.topology, "Graph of the agents that will read the card (cachecard plan shows what it says)")
                       ->type_name("FILE")
                       ->group(group);
  auto* link = command
                   .add_option("--link", flags.link,
                               "Which of its links the card is for, FROM:TO by agents: takes that link's budget, and the weights of all agents behind it (entropy)")
                   ->type_name("LINK")
                   ->group(group);
  topology->needs(link);
  link->needs(topology);
  for (const char* other : {"--bits", "--weights", "--probe", "--map", "--layer-map"}) link->excludes(command.get_option(other));
}

}  // namespace

std::string CodecFlags::asked() const {
  if (!codec.empty() || !has_settings()) return codec;
  const bool of_planes = !map.empty() || !layer_map.empty() || bits.find(',') != std::string::npos;
  return of_planes ? "planes" : "entropy";
}

void add_codec_options(CLI::App& command, CodecFlags& flags, const std::string& group) {
  command.add_option("--codec", flags.codec, "raw, ggml, planes or entropy (without: what the types need and the settings ask for)")
      ->check(CLI::IsMember({"raw", "ggml", "planes", "entropy"}))
      ->type_name("CODEC")
      ->group(group);
  command.add_option("--bits", flags.bits, "Bits a value: the mean over all (entropy; default: 1.5 with a profile, 2 with the model's file, else 3), or of keys and values, 1 to 8 (planes; default: 4,3)")
      ->type_name("N|K,V")
      ->group(group);
  add_size_option(command, "--bytes", flags.bytes, "The most that the whole card may take: 10M, 2.5MiB (entropy)")
      ->excludes("--bits")
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
  command
      .add_option("--profile", flags.profile,
                  "Model profile: what errors of each head cost, and what its queries look like (planes, entropy); or the model's GGUF "
                  "file, whose weights tell of its queries alone (entropy; default: --model, where it is a file)")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--weights", flags.weights,
                  "How much each token counts, .npy of f32 or f64: [token], or [layer x KV head, token]; i8: half bits more than others get, as they are (entropy)")
      ->type_name("FILE")
      ->group(group);
  command
      .add_option("--queries", flags.queries,
                  "Whose look at the tokens counts, without --weights: newest (the newest tokens' queries, estimated), centroids "
                  "(what queries of the model look like), both of them together, recency, none (entropy; default: both with --profile, else recency)")
      ->check(CLI::IsMember({"newest", "centroids", "both", "recency", "none"}))
      ->type_name("WHOSE")
      ->group(group);
  command
      .add_option("--probe", flags.probes,
                  "A text that the receiver begins with: tokens count as the model looks at them while it reads that text behind the "
                  "context (entropy; needs --model and libllama; may be given again for another receiver)")
      ->type_name("FILE")
      ->allow_extra_args(false)
      ->excludes("--weights")
      ->group(group);
  add_link_options(command, flags, group);
  command.add_option("--newest-tokens", flags.newest_tokens, "Last tokens that get a bit more (planes, entropy; default: 0)")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 31))
      ->type_name("N")
      ->group(group);
  command.add_option("--exact-tokens", flags.exact_tokens, "First tokens that stay exact (default: 4; of entropy kept at 8 bits instead, where that is better; with planes other attention sinks get three bits more)")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 31))
      ->type_name("N")
      ->group(group);
  command
      .add_option("--without", flags.without,
                  "Leave parts out, to see what they are worth: means, references, scales (of values), head-gains, channel-gains (entropy)")
      ->delimiter(',')
      ->check(CLI::IsMember({"means", "references", "scales", "head-gains", "channel-gains"}))
      ->type_name("PARTS")
      ->group(group);
  command.add_flag("--keep-nonfinite", flags.keep_nonfinite, "Keep chunks with NaN or infinite values raw (planes, entropy)")
      ->group(group);
}

namespace {

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

Status set_codec(const CodecFlags& given, const CacheSource& source, CardOptions& card, std::vector<std::string>& notes) {
  const CardHeader& header = source.header();
  CodecFlags flags = given;
  if (!given.link.empty() && !given.budget_later) {
    auto of_link = link_flags(given, source, card, notes);
    if (!of_link) return of_link.error();
    flags = std::move(*of_link);
  }
  std::string codec = flags.asked();
  if (codec.empty() && flags.entropy_unless_said && check_types(header, "entropy")) codec = "entropy";
  if (codec == "planes" || codec == "entropy") {
    if (Status s = check_types(header, codec); !s) return s;
  }
  if (flags.bytes != 0 && codec != "entropy") return usage_error("--bytes is for --codec entropy");
  if (codec == "entropy") {
    CodecNotes made;
    auto entropy = entropy_options(flags, source, card.parallel, made);
    if (!entropy) return entropy.error();
    card.entropy = std::move(*entropy);
    card.file_bytes = flags.bytes;
    card.provenance.text += made.provenance;
    notes.insert(notes.end(), made.notes.begin(), made.notes.end());
    return {};
  }
  auto planes = planes_options(flags, header);
  if (!planes) return planes.error();
  card.planes = std::move(*planes);
  if (card.planes && !flags.exact_tokens && flags.map.empty()) {
    auto sinks = find_sinks(source, card.parallel);
    if (!sinks) return sinks.error();
    card.planes->sinks = std::move(*sinks);
  }
  card.provenance.text += describe_planes(card.planes, flags);
  return {};
}

std::vector<std::string> unused_bits_notes(const CodecFlags& flags, std::optional<double> bits_per_value) {
  constexpr double kClearly = 0.97;
  const auto wanted = flags.asked() == "entropy" ? number<double>(flags.bits) : std::nullopt;
  if (!wanted || !bits_per_value || *bits_per_value >= kClearly * *wanted) return {};
  return {fmt::format("the steps are as fine as entropy goes: {:.2f} of {} bits a value are used; for more fidelity --queries none, "
                      "--codec planes --bits 8 or raw", *bits_per_value, flags.bits)};
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
