#include <fmt/format.h>

#include <chrono>

#include "convert.hpp"
#include "input.hpp"
#include "output.hpp"
#include "output_file.hpp"
#include "workers.hpp"

namespace cachecard::cli {
namespace {

std::string blame(const Error& error, const ConvertArgs& args) {
  if (error.code == ErrorCode::kInvalidArgument) return "convert";
  return error.code == ErrorCode::kIo ? output_name(args.output) : input_name(args.input);
}

/// HDF5 keeps and reads back its own tables while it writes, so that a dry run needs a place, too: one without a name.
Result<std::unique_ptr<RandomSink>> open_h5_output(const std::string& path, bool dry_run) {
  if (!dry_run) return open_random_output(path, false);
  auto file = UnlinkedFile::create();
  if (!file) return file.error();
  return std::unique_ptr<RandomSink>(std::move(*file));
}

void report(const CardReader& card, const hdf5::H5WriteReport& written, const ConvertArgs& args,
            const Context& context) {
  if (!written.left_out.empty()) {
    context.note(fmt::format("left out of the decoded form: {}", fmt::join(written.left_out, ", ")));
  }
  Facts facts;
  facts.add(context.dry_run ? "would write" : "HDF5 file", output_name(args.output));
  facts.add("form", args.hdf5.coded ? "coded" : "decoded");
  facts.add("tokens", grouped(card.header().token_count));
  facts.add("layers", grouped(card.header().layer_count));
  facts.add("in", exact_bytes(card.trailer().file_size));
  facts.add(args.hdf5.coded ? "sections" : "values", exact_bytes(written.value_bytes));
  context.say(facts.text());
  context.say_json({{"output", args.output},
                    {"dry_run", context.dry_run},
                    {"form", args.hdf5.coded ? "coded" : "decoded"},
                    {"token_count", card.header().token_count},
                    {"layer_count", card.header().layer_count},
                    {"input_bytes", card.trailer().file_size},
                    {"value_bytes", written.value_bytes},
                    {"left_out", written.left_out}});
}

}  // namespace

Result<OpenedSource> open_hdf5(const ByteSource& input, const SourceArgs& args, std::string& at_fault) {
  auto module = hdf5_module();
  if (!module) {
    at_fault = args.command;
    return module.error();
  }
  auto opened_file = (*module)->open(input);
  if (!opened_file) return opened_file.error();
  const std::shared_ptr<const hdf5::H5Card> file = std::move(*opened_file);
  OpenedSource opened;
  opened.parent_root = file->parent_root();
  if (file->values() == nullptr) {
    opened.detail = fmt::format("{}: HDF5, coded form", input_name(args.input));
    opened.copy = [file](ByteSink& sink, const auto& progress) { return file->write_card(sink, progress); };
    return opened;
  }
  opened.source = std::shared_ptr<const CacheSource>(file, file->values());
  opened.provenance = "cachecard convert: HDF5, decoded form";
  opened.detail = fmt::format("{}: HDF5, decoded form", input_name(args.input));
  if (!file->left_out().empty()) {
    opened.notes.push_back(fmt::format("left out of the card: {}", fmt::join(file->left_out(), ", ")));
  }
  return opened;
}

int copy_card(const OpenedSource& opened, std::uint64_t input_size, const ConvertArgs& args, Context& context) {
  if (has_card_options(args)) {
    return context.fail(usage("the file holds a coded card, which comes back as it was: codec and compression flags "
                              "are for the decoded form"),
                        "convert");
  }
  context.detail(opened.detail);
  const auto start = std::chrono::steady_clock::now();
  auto sink = open_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  auto trailer = opened.copy(**sink, progress_line(context, "convert"));
  if (!trailer) return context.fail(trailer.error(), blame(trailer.error(), args));
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  context.detail_speed(start, trailer->file_size);
  Facts facts;
  facts.add(context.dry_run ? "would write" : "card", output_name(args.output));
  facts.add("in", exact_bytes(input_size));
  facts.add("out", exact_bytes(trailer->file_size));
  facts.add("root", to_hex(trailer->root));
  context.say(facts.text());
  context.say_json({{"output", args.output},
                    {"dry_run", context.dry_run},
                    {"input_bytes", input_size},
                    {"file_bytes", trailer->file_size},
                    {"root", to_hex(trailer->root)}});
  return 0;
}

int convert_card_to_hdf5(const ByteSource& input, const ConvertArgs& args, Context& context) {
  auto module = hdf5_module();
  if (!module) return context.fail(module.error(), "convert");
  auto card = CardReader::open(input);
  if (!card) return context.fail(card.error(), input_name(args.input));
  const auto start = std::chrono::steady_clock::now();
  auto sink = open_h5_output(args.output, context.dry_run);
  if (!sink) return context.fail(sink.error(), output_name(args.output));
  Workers workers(context.threads);
  hdf5::H5WriteOptions options;
  options.coded = args.hdf5.coded;
  if (args.hdf5.deflate >= 0) options.deflate_level = args.hdf5.deflate;
  options.parallel = workers.parallel();
  options.progress = progress_line(context, "convert");
  auto written = (*module)->write(*card, **sink, options);
  options.progress = nullptr;
  if (!written) return context.fail(written.error(), blame(written.error(), args));
  if (Status s = (*sink)->commit(); !s) return context.fail(s.error(), output_name(args.output));
  context.detail_speed(start, written->value_bytes);
  report(*card, *written, args, context);
  return 0;
}

}  // namespace cachecard::cli
