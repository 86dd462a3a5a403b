#include <fmt/format.h>

#include <chrono>

#include "convert.hpp"
#include "input.hpp"
#include "llama_cpp/state_source.hpp"
#include "nonfinite_source.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "state_report.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

Codec codec_of(const StreamRecord& stream) {
  const DTypeInfo* info = dtype_info(static_cast<DType>(stream.dtype));
  return info != nullptr && info->block_elements > 1 ? Codec::kGgml : Codec::kRaw;
}

bool is_opaque(const StreamRecord& stream) {
  return static_cast<StreamKind>(stream.stream) == StreamKind::kOpaque;
}

/// Types decide: f32, f16 and bf16 are kept by raw, block types by ggml.
Status check_codec(const CardHeader& header, const std::string& asked) {
  if (asked.empty() || asked == "planes" || asked == "entropy") return {};
  for (const StreamRecord& stream : header.streams) {
    const std::string_view needed = name_of(codec_of(stream));
    if (is_opaque(stream) || needed == asked) continue;
    return usage(fmt::format("--codec {}: layer {} {} is {}, which {} keeps (leave --codec out)", asked,
                             stream.layer, name_of(static_cast<StreamKind>(stream.stream)),
                             name_of(static_cast<DType>(stream.dtype)), needed));
  }
  return {};
}

Status check_split(const CardHeader& header, bool split) {
  if (!split) return {};
  for (const StreamRecord& stream : header.streams) {
    if (is_opaque(stream) || codec_of(stream) == Codec::kRaw) continue;
    return usage(fmt::format("--split is for f32, f16 and bf16, layer {} {} is {}: use --zstd", stream.layer,
                             name_of(static_cast<StreamKind>(stream.stream)),
                             name_of(static_cast<DType>(stream.dtype))));
  }
  return {};
}

}  // namespace

Status check_codec(const CardHeader& header, const ConvertArgs& args) {
  if (Status s = check_codec(header, args.codec.codec); !s) return s;
  return check_split(header, args.split);
}

Result<CardOptions> card_options(const ConvertArgs& args, const OpenedSource& opened) {
  auto time = provenance_time(args.time);
  if (!time) return time.error();
  CardOptions options;
  if (args.split)
    options.compressor = Compressor::kSplitZstd;
  else if (args.zstd_level != 0)
    options.compressor = Compressor::kZstd;
  if (args.zstd_level != 0) options.zstd_level = args.zstd_level;
  options.chunk_tokens = args.chunk_tokens;
  options.chunk_order = args.span_major ? ChunkOrder::kSpanMajor : ChunkOrder::kLayerMajor;
  options.source_layout = !args.no_source_layout;
  options.provenance.operation = ProvenanceOp::kConvert;
  options.provenance.time = time->value_or(0);
  options.provenance.text = opened.provenance;
  options.provenance.parent_root = opened.parent_root;
  return options;
}

namespace {

/// Values that the card keeps although they are not finite. Lossy codecs read rows more than once, and keep such chunks raw.
Result<std::uint64_t> nonfinite_values(const CacheSource& source, const NonfiniteSource& counted, bool lossy,
                                       const WriteReport& written) {
  if (!lossy) return counted.nonfinite_values();
  const NonfiniteSource once(source);
  for (const RawChunk& chunk : written.raw_chunks) {
    const auto stream = source.header().stream_index(chunk.layer, chunk.stream);
    const StreamRecord& record = source.header().streams[*stream];
    std::vector<std::byte> rows(chunk.token_count * row_bytes(record, static_cast<DType>(record.dtype)));
    if (Status s = once.read_rows(*stream, chunk.first_token, chunk.token_count, rows); !s) return s.error();
  }
  return once.nonfinite_values();
}

void report(const CacheSource& source, std::uint64_t nonfinite, std::uint64_t input_size, const WriteReport& written,
            const ConvertArgs& args, const Context& context) {
  const auto bits = bits_per_value(written.file_size, written.summary);
  for (const std::string& note : raw_chunk_notes(written)) context.note(note);
  if (nonfinite > 0) {
    context.note(
        fmt::format("{} of {} values are NaN or infinite: the card keeps them, inject "
                    "refuses them",
                    grouped(nonfinite), grouped(written.summary.value_count)));
  }
  for (const std::string& note : unused_bits_notes(args.codec, bits)) context.note(note);
  Facts facts;
  facts.add(context.dry_run ? "would write" : "card", output_name(args.output));
  facts.add("tokens", grouped(source.header().token_count));
  facts.add("layers", grouped(source.header().layer_count));
  facts.add("in", exact_bytes(input_size));
  facts.add("out", exact_bytes(written.file_size));
  facts.add("bits per value", bits_text(bits));
  if (written.summary.opaque_size > 0) {
    facts.add("opaque state", exact_bytes(written.summary.opaque_size));
  }
  facts.add("root", to_hex(written.root));
  context.say(facts.text() + "\nstages\n" + stages_text(written.summary, written.file_size));
  Json object = {{"output", args.output},
                 {"dry_run", context.dry_run},
                 {"token_count", source.header().token_count},
                 {"layer_count", source.header().layer_count},
                 {"input_bytes", input_size},
                 {"file_bytes", written.file_size},
                 {"value_count", written.summary.value_count},
                 {"opaque_bytes", written.summary.opaque_size},
                 {"nonfinite_values", nonfinite},
                 {"raw_chunks", written.raw_chunks.size()},
                 {"bits_per_value", bits_json(bits)},
                 {"root", to_hex(written.root)}};
  object.update(stages_json(written.summary, written.file_size));
  context.say_json(object);
}

}  // namespace

std::string source_blame(const Error& error, const SourceArgs& args) {
  const bool usage = error.code == ErrorCode::kInvalidArgument || error.code == ErrorCode::kUnsupportedFeature;
  return usage ? args.command : input_name(args.input);
}

Result<OpenedSource> open_state(const ByteSource& input, const SourceArgs& args, std::string& at_fault) {
  auto facts = model_facts(args.model);
  if (!facts) {
    at_fault = model_blame(facts.error(), args.model, args.command);
    return facts.error();
  }
  if (!*facts) return no_model_error();
  llama_cpp::ParseOptions options;
  options.layout = layout_by_name(args.layout);
  options.rotated = yes_no(args.rotated);
  auto state = llama_cpp::parse_state(input, &**facts, options);
  if (!state) return state.error();
  const auto container = container_name(state->container);
  const auto layout = layout_name(state->layout);
  OpenedSource opened;
  opened.provenance = fmt::format("cachecard convert: llama.cpp {}, layout {}", container, layout);
  opened.detail = fmt::format("{}: {} container, layout {}, {}", input_name(args.input), container, layout,
                              state->opaque ? "kept whole" : "keys and values become streams");
  auto source = llama_cpp::state_source(input, std::move(*state), **facts);
  if (!source) return source.error();
  opened.source = std::move(*source);
  return opened;
}

int write_converted(const OpenedSource& opened, std::uint64_t input_size, const ConvertArgs& args, Context& context) {
  const CacheSource& source = *opened.source;
  if (Status s = check_codec(source.header(), args); !s) return context.fail(s.error(), "convert");
  auto options = card_options(args, opened);
  if (!options) return context.fail(options.error(), "convert");
  Workers workers(context.threads);
  options->parallel = workers.parallel();
  std::vector<std::string> notes;
  CodecFlags codec = args.codec;
  codec.model = args.model.model;
  if (Status s = set_codec(codec, source, *options, notes); !s) return context.fail(s.error(), "convert");
  context.detail(opened.detail);
  for (const std::string& note : notes) context.note(note);
  for (const std::string& note : opened.notes) context.note(note);
  const auto start = std::chrono::steady_clock::now();
  auto sink = open_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  options->progress = progress_line(context, "convert");
  const NonfiniteSource counted(source);
  const bool lossy = options->planes || options->entropy;  // they read rows more than once, and nonfinite_values once more
  const bool again = opened.restore && !has_card_options(args);
  auto written = again ? opened.restore(counted, **sink, *options)
                       : write_card(lossy ? source : static_cast<const CacheSource&>(counted), **sink, *options);
  options->progress = nullptr;
  if (!written) {
    const bool outside = written.error().code == ErrorCode::kIo;
    const bool asked = written.error().code == ErrorCode::kInvalidArgument;
    return context.fail(written.error(), asked ? "convert" : outside ? output_name(args.output) : input_name(args.input));
  }
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  context.detail_speed(start, input_size);
  if (again && written->root != opened.root) {
    context.note(fmt::format("the values are others than those of card {}, which the file was made from", to_hex(opened.root)));
  }
  auto nonfinite = nonfinite_values(source, counted, lossy, *written);
  if (!nonfinite) return context.fail(nonfinite.error(), input_name(args.input));
  report(source, *nonfinite, input_size, *written, args, context);
  return 0;
}

}  // namespace cachecard::cli
