#include <fmt/format.h>

#include <chrono>
#include <filesystem>

#include "convert.hpp"
#include "input.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "safetensors/tensor_cache.hpp"
#include "safetensors/tensor_writer.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

using safetensors::KvcdnSidecar;
using safetensors::Naming;
using safetensors::TensorCache;
using safetensors::TensorWriteOptions;
using safetensors::TensorWriteReport;

std::string_view owner(Naming naming) { return naming == Naming::kMlx ? "mlx-lm" : "kvcdn"; }
std::string sidecar_path(const std::string& path) { return path + ".json"; }

/// What kvcdn keeps beside a file; nothing where there is none.
Result<KvcdnSidecar> sidecar_of(const TensorCache& cache, const SourceArgs& args, std::string& at_fault) {
  const std::string path = sidecar_path(args.input);
  if (cache.naming != Naming::kKvcdn || is_pipe(args.input) || !std::filesystem::exists(path))
    return KvcdnSidecar{};
  at_fault = path;
  auto bytes = open_input(path);
  if (!bytes) return bytes.error();
  auto sidecar = safetensors::read_kvcdn_sidecar(**bytes, cache.tensors);
  if (sidecar) at_fault.clear();
  return sidecar;
}

/// "none" says that they are not known; a file of that name is "./none".
Result<pytorch::CacheFacts> facts_of(TensorCache& cache, const KvcdnSidecar& sidecar,
                                     const SourceArgs& args) {
  TorchFlags flags = args.torch;
  const bool unknown = flags.tokens == "none" || args.command != "convert";
  if (flags.tokens == "none") flags.tokens.clear();
  if (flags.tokens.empty() && sidecar.token_ids.empty() && !unknown) {
    return usage(fmt::format(
        "files of {} list no token ids{}: give --tokens FILE, or --tokens none to leave them unknown",
        owner(cache.naming), cache.naming == Naming::kKvcdn ? " without their .json" : ""));
  }
  auto facts = torch_facts(args.model, flags, cache.tensors);
  if (!facts) return facts;
  if (facts->token_ids.empty()) facts->token_ids = sidecar.token_ids;
  const auto model = cache.metadata.find("model");
  const std::string name = model != cache.metadata.end() ? model->second : sidecar.model_name;
  if (!name.empty() && !facts->identity.text(IdentityField::kModelName)) {
    facts->identity.set_text(IdentityField::kModelName, name);
  }
  return facts;
}

/// The sidecar is there before the file gets its name, and gets its own name after it.
Result<std::unique_ptr<ByteSink>> written_sidecar(const CardReader& card, const ConvertArgs& args,
                                                  const TensorWriteReport& written, const Context& context) {
  auto text = safetensors::kvcdn_sidecar(card, written);
  if (!text) return text.error();
  auto sink = open_output(sidecar_path(args.output), context.dry_run);
  if (!sink) return sink;
  if (Status s = (*sink)->write(std::as_bytes(std::span(*text))); !s) return s.error();
  return sink;
}

void report(const CardReader& card, const TensorWriteReport& written, Naming naming, bool sidecar,
            const ConvertArgs& args, const Context& context) {
  if (!sidecar)
    context.note(fmt::format("files of {} have no place for token ids: --tokens gives them on the way back",
                             owner(naming)));
  Facts facts;
  facts.add(context.dry_run ? "would write" : "safetensors", output_name(args.output));
  if (sidecar) facts.add("beside it", sidecar_path(args.output));
  facts.add("names as", owner(naming));
  facts.add("tokens", grouped(card.header().token_count));
  facts.add("layers", grouped(card.header().layer_count));
  facts.add("in", exact_bytes(card.trailer().file_size));
  facts.add("out", exact_bytes(written.file_size));
  context.say(facts.text());
  context.say_json({{"output", args.output},
                    {"dry_run", context.dry_run},
                    {"naming", owner(naming)},
                    {"sidecar", sidecar},
                    {"token_count", card.header().token_count},
                    {"layer_count", card.header().layer_count},
                    {"input_bytes", card.trailer().file_size},
                    {"file_bytes", written.file_size}});
}

int convert_card(Naming naming, const ByteSource& input, const ConvertArgs& args, Context& context) {
  auto card = CardReader::open(input);
  if (!card) return context.fail(card.error(), input_name(args.input));
  const auto start = std::chrono::steady_clock::now();
  auto pairing = transformers_order(*card, args.torch);
  if (!pairing) return context.fail(pairing.error(), source_blame(pairing.error(), args));
  auto sink = open_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  Workers workers(context.threads);
  TensorWriteOptions options;
  options.naming = naming;
  options.dtype = dtype_of(args.torch);
  options.decode.pairing = *pairing;
  options.decode.parallel = workers.parallel();
  options.progress = progress_line(context, "convert");
  auto written = safetensors::write_safetensors(*card, **sink, options);
  options.progress = nullptr;
  if (!written) {
    const bool outside = written.error().code == ErrorCode::kIo;
    return context.fail(written.error(),
                        outside ? output_name(args.output) : source_blame(written.error(), args));
  }
  const bool sidecar = naming == Naming::kKvcdn && !is_pipe(args.output);
  std::unique_ptr<ByteSink> beside;
  if (sidecar) {
    auto opened = written_sidecar(*card, args, *written, context);
    if (!opened) return context.fail(opened.error(), sidecar_path(args.output));
    beside = std::move(*opened);
  }
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  if (sidecar) {
    if (Status s = beside->commit(); !s) return context.fail(s.error(), sidecar_path(args.output));
  }
  context.detail_speed(start, written->file_size);
  report(*card, *written, naming, sidecar, args, context);
  return 0;
}

}  // namespace

Result<OpenedSource> open_safetensors(const ByteSource& input, const SourceArgs& args,
                                      std::string& at_fault) {
  auto cache = safetensors::read_tensor_cache(input);
  if (!cache) return cache.error();
  auto sidecar = sidecar_of(*cache, args, at_fault);
  if (!sidecar) return sidecar.error();
  auto facts = facts_of(*cache, *sidecar, args);
  if (!facts) return facts.error();
  OpenedSource opened;
  opened.provenance = fmt::format("cachecard convert: safetensors, names as {}", owner(cache->naming));
  opened.detail = fmt::format("{}: safetensors, names as {}, {} layers", input_name(args.input),
                              owner(cache->naming), cache->tensors.shapes.size());
  auto source =
      safetensors::tensor_source(input, std::move(cache->tensors), std::move(*facts), sidecar->prompt);
  if (!source) return source.error();
  opened.source = std::move(*source);
  if ((opened.source->header().flags & kHeaderTokensUnknown) != 0)
    opened.notes.emplace_back("the card's tokens are unknown");
  return opened;
}

int convert_card_to_mlx(const ByteSource& input, const ConvertArgs& args, Context& context) {
  return convert_card(Naming::kMlx, input, args, context);
}

int convert_card_to_kvcdn(const ByteSource& input, const ConvertArgs& args, Context& context) {
  return convert_card(Naming::kKvcdn, input, args, context);
}

}  // namespace cachecard::cli
