#include <fmt/format.h>

#include <chrono>

#include "convert.hpp"
#include "gguf/gguf_cache.hpp"
#include "gguf/gguf_writer.hpp"
#include "input.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

void report(const CardReader& card, const gguf::GgufWriteReport& written, const ConvertArgs& args,
            const Context& context) {
  if (!written.same_card && args.torch.dtype.empty()) {
    context.note(
        "the card is lossy, or of another writer: what becomes of the file is another card of the same "
        "values");
  }
  Facts facts;
  facts.add(context.dry_run ? "would write" : "GGUF file", output_name(args.output));
  facts.add("tokens", grouped(card.header().token_count));
  facts.add("layers", grouped(card.header().layer_count));
  facts.add("in", exact_bytes(card.trailer().file_size));
  facts.add("out", exact_bytes(written.file_size));
  context.say(facts.text());
  context.say_json({{"output", args.output},
                    {"dry_run", context.dry_run},
                    {"token_count", card.header().token_count},
                    {"layer_count", card.header().layer_count},
                    {"input_bytes", card.trailer().file_size},
                    {"file_bytes", written.file_size},
                    {"same_card", written.same_card}});
}

}  // namespace

Result<OpenedSource> open_gguf(const ByteSource& input, const SourceArgs& args, std::string&) {
  auto cache = gguf::read_gguf_cache(input);
  if (!cache) return cache.error();
  OpenedSource opened;
  opened.provenance = "cachecard convert: GGUF";
  opened.detail = fmt::format("{}: GGUF, {} streams", input_name(args.input), cache->header.streams.size());
  const auto carried = gguf::read_carried(input, *cache);
  const auto form = std::move(cache->form);
  opened.source = gguf::gguf_source(input, std::move(*cache));
  if (!form) return opened;
  if (!gguf::fits(*form, *opened.source)) {
    opened.notes.emplace_back(
        "keys are others than those of the card that the file was made from: it becomes another card");
    return opened;
  }
  opened.root = form->root;
  opened.restore = [form = *form, carried](const CacheSource& source, ByteSink& sink,
                                           const CardOptions& options) {
    return gguf::restore_card(form, carried, source, sink, options);
  };
  return opened;
}

int convert_card_to_gguf(const ByteSource& input, const ConvertArgs& args, Context& context) {
  auto card = CardReader::open(input);
  if (!card) return context.fail(card.error(), input_name(args.input));
  const auto start = std::chrono::steady_clock::now();
  auto sink = open_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  Workers workers(context.threads);
  gguf::GgufWriteOptions options;
  options.dtype = dtype_of(args.torch);
  options.parallel = workers.parallel();
  options.progress = progress_line(context, "convert");
  auto written = gguf::write_gguf(*card, **sink, options);
  options.progress = nullptr;
  if (!written) {
    const bool outside = written.error().code == ErrorCode::kIo;
    return context.fail(written.error(),
                        outside ? output_name(args.output) : source_blame(written.error(), args));
  }
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  context.detail_speed(start, written->file_size);
  report(*card, *written, args, context);
  return 0;
}

}  // namespace cachecard::cli
