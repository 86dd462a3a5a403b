#include <fmt/format.h>

#include <chrono>

#include "convert.hpp"
#include "input.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "torch/card_layers.hpp"
#include "torch/pt_source.hpp"
#include "torch/pt_writer.hpp"
#include "torch/rope_order.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

using pytorch::PtCache;
using pytorch::PtContainer;
using pytorch::PtWriteOptions;
using pytorch::PtWriteReport;

std::vector<std::string> notes_of(const PtCache& cache, const CardHeader& header) {
  std::vector<std::string> notes;
  if (!cache.unused.empty())
    notes.push_back(fmt::format("left out of the card: {}", fmt::join(cache.unused, ", ")));
  if ((header.flags & kHeaderTokensUnknown) != 0) {
    notes.emplace_back("the file lists no token ids and --tokens was not given: the card's tokens are unknown");
  }
  if ((header.flags & kHeaderNotAPrefix) != 0) {
    notes.emplace_back("positions are not 0, 1, 2, ...: the card is not a prefix");
  }
  return notes;
}

Result<std::unique_ptr<CacheSource>> source_of(const ByteSource& input, const PtCache& cache,
                                               pytorch::CacheFacts facts, bool libtorch) {
  if (!libtorch) return pytorch::pt_source(input, cache, std::move(facts));
  if (cache.container != PtContainer::kZip) {
    return usage("libtorch's C++ side has no reader for the legacy container: leave --libtorch out");
  }
  auto module = torch_module();
  if (!module) return module.error();
  if (Status s = pytorch::take_lists(cache, facts); !s) return s.error();
  return (*module)->read(input, cache, std::move(facts));
}

Result<PtWriteReport> write(const CardReader& card, const ConvertArgs& args, ByteSink& sink,
                            PtWriteOptions options) {
  auto pairing = transformers_order(card, args.torch);
  if (!pairing) return pairing.error();
  options.decode.pairing = *pairing;
  options.dtype = dtype_of(args.torch);
  if (!args.torch.libtorch) return pytorch::write_pt(card, sink, options);
  auto module = torch_module();
  if (!module) return module.error();
  return (*module)->write(card, sink, options);
}

void report(const CardReader& card, const PtWriteReport& written, const ConvertArgs& args,
            const Context& context) {
  if ((card.header().flags & kHeaderTokensUnknown) != 0) {
    context.note("the card's tokens are unknown: the file has no token_ids");
  }
  Facts facts;
  facts.add(context.dry_run ? "would write" : "torch file", output_name(args.output));
  facts.add("tokens", grouped(written.token_count));
  facts.add("layers", grouped(card.header().layer_count));
  facts.add("in", exact_bytes(card.trailer().file_size));
  facts.add("out", exact_bytes(written.file_size));
  context.say(facts.text());
  context.say_json({{"output", args.output},
                    {"dry_run", context.dry_run},
                    {"token_count", written.token_count},
                    {"layer_count", card.header().layer_count},
                    {"input_bytes", card.trailer().file_size},
                    {"file_bytes", written.file_size}});
}

}  // namespace

Result<std::optional<RopePairing>> transformers_order(const CardReader& card, const TorchFlags& flags) {
  if (auto layers = pytorch::card_layers(card.header()); !layers) return layers.error();  // what is no order of pairs' fault
  auto order = RopePairing::kNone;
  for (const StreamRecord& stream : card.header().streams) {
    if (stream.rope_pairing != 0) order = static_cast<RopePairing>(stream.rope_pairing);
  }
  if (order == RopePairing::kNone) return std::optional<RopePairing>();
  if (const auto given = pairing_of(flags)) return given;
  const auto architecture = card.header().identity.text(IdentityField::kArchitecture);
  const auto known = pytorch::transformers_pairing(architecture.value_or(""), order);
  if (known) return known;
  return usage(
      fmt::format("the card's RoPE pairs are interleaved, and their order in transformers is not known for "
                  "architecture '{}': give --pairing half-split or interleaved",
                  printable(architecture.value_or("unknown"))));
}

Result<OpenedSource> open_pt(const ByteSource& input, const SourceArgs& args, std::string&) {
  auto cache = pytorch::read_pt_cache(input);
  if (!cache) return cache.error();
  auto facts = torch_facts(args.model, args.torch, *cache);
  if (!facts) return facts.error();
  auto source = source_of(input, *cache, std::move(*facts), args.torch.libtorch);
  if (!source) return source.error();
  OpenedSource opened;
  opened.source = std::move(*source);
  opened.notes = notes_of(*cache, opened.source->header());
  const std::string container(name_of(cache->container));
  opened.provenance = fmt::format("cachecard convert: PyTorch .pt, {} container", container);
  opened.detail =
      fmt::format("{}: {} container, {} layers", input_name(args.input), container, cache->shapes.size());
  return opened;
}

int convert_card_to_pt(const ByteSource& input, const ConvertArgs& args, Context& context) {
  auto card = CardReader::open(input);
  if (!card) return context.fail(card.error(), input_name(args.input));
  const auto start = std::chrono::steady_clock::now();
  auto sink = open_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  Workers workers(context.threads);
  PtWriteOptions options;
  options.decode.parallel = workers.parallel();
  options.progress = progress_line(context, "convert");
  auto written = write(*card, args, **sink, options);
  options.progress = nullptr;
  if (!written) {
    const bool outside = written.error().code == ErrorCode::kIo;
    return context.fail(written.error(), outside ? output_name(args.output) : source_blame(written.error(), args));
  }
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  context.detail_speed(start, written->file_size);
  report(*card, *written, args, context);
  return 0;
}

}  // namespace cachecard::cli
