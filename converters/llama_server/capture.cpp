#include "llama_server/capture.hpp"

#include <unistd.h>

#include "llama_cpp/state_source.hpp"
#include "llama_server/encoded_check.hpp"

namespace cachecard::llama_server {
namespace {

/// A source with a text of its own.
class TextSource final : public CacheSource {
 public:
  TextSource(const CacheSource& source, std::string text) : source_(source), text_(std::move(text)) {}
  const CardHeader& header() const override { return source_.header(); }
  std::span<const std::int32_t> token_ids() const override { return source_.token_ids(); }
  std::span<const std::int32_t> positions() const override { return source_.positions(); }
  Status read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count,
                   std::span<std::byte> out) const override {
    return source_.read_rows(stream, first, count, out);
  }
  Status read_opaque(std::size_t stream, std::uint64_t offset, std::span<std::byte> out) const override {
    return source_.read_opaque(stream, offset, out);
  }
  const SourceLayout* source_layout() const override { return source_.source_layout(); }
  Status read_literals(std::uint64_t offset, std::span<std::byte> out) const override {
    return source_.read_literals(offset, out);
  }
  const RopeTable* rope_table() const override { return source_.rope_table(); }
  std::string_view text() const override { return text_; }

 private:
  const CacheSource& source_;
  std::string text_;
};

/// Removes the slot file at the end, unless it is to be kept.
struct SlotFile {
  explicit SlotFile(const SlotAccess& access, bool kept)
      : name((kept ? "cachecard-slot-" : ".cachecard-capture-") + std::to_string(access.slot) + "-" +
             std::to_string(::getpid()) + ".bin"),
        path(access.path(name)),
        keep(kept) {}
  SlotFile(const SlotFile&) = delete;
  SlotFile& operator=(const SlotFile&) = delete;
  ~SlotFile() {
    if (!keep || !done) ::unlink(path.c_str());
  }
  std::string name;
  std::string path;
  bool keep;
  bool done = false;
};

Error stopped() { return {ErrorCode::kInterrupted, kNoOffset, {}, "nothing was written"}; }

/// What the server saved, and the facts of it that the card's header has.
Result<SavedSlot> save(ServerClient& client, const llama_cpp::ModelFacts& model, const SlotAccess& access,
                       const std::string& name) {
  auto view = wait_until_idle(client, access);
  if (!view) return view.error();
  auto saved = save_slot(client, access, access.slot, name, &model, action_time(access, view->shown));
  if (!saved) return saved.error();
  if (saved->token_count == 0) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "slot",
                 "slot " + std::to_string(access.slot) + " holds no tokens"};
  }
  return saved;
}

Result<std::string> text_of_slot(ServerClient& client, const CacheSource& source) {
  const auto tokens = source.token_ids();
  return client.detokenize({tokens.begin(), tokens.end()});
}

/// Writes, decodes, compares, commits.
Status write_checked(const CacheSource& source, RandomSink& sink, const CaptureOptions& options,
                     StepClock& clock, CaptureReport& report) {
  CardOptions card = options.card;
  if (options.plan) {
    if (Status s = options.plan(source, card, report.notes); !s) return s;
  }
  auto written = write_card(source, sink, card);
  if (!written) return written.error();
  report.written = std::move(*written);
  clock.lap("encode", report.times);
  const std::uint64_t size = report.written.file_size;
  auto nonfinite = check_encoded(sink, size, source, options.card.parallel, options.access.interrupted);
  if (!nonfinite) return nonfinite.error();
  report.nonfinite_values = *nonfinite;
  if (*nonfinite > 0) {
    report.notes.push_back(std::to_string(*nonfinite) +
                           " values are NaN or infinite: inject refuses them unless told");
  }
  clock.lap("compare", report.times);
  if (options.access.stop()) return stopped();
  if (Status s = sink.commit(); !s) return s;
  clock.lap("commit", report.times);
  return {};
}

}  // namespace

Result<CaptureReport> capture(ServerClient& client, const llama_cpp::ModelFacts& model, RandomSink& sink,
                              const CaptureOptions& options) {
  CaptureReport report;
  StepClock clock;
  SlotFile slot_file(options.access, options.keep_slot_file);
  auto saved = save(client, model, options.access, slot_file.name);
  if (!saved) return saved.error();
  clock.lap("save", report.times);
  report.notes = llama_cpp::state_notes(saved->state, model);
  report.state_size = saved->file_size;
  auto source = llama_cpp::state_source(*saved->file, std::move(saved->state), model);
  if (!source) return source.error();
  report.token_count = (*source)->header().token_count;
  report.next_position = (*source)->header().next_position;
  std::string text;
  if (options.text) {
    auto rendered = text_of_slot(client, **source);
    if (!rendered) return rendered.error();
    text = std::move(*rendered);
  }
  const TextSource with_text(**source, std::move(text));
  clock.lap("read", report.times);
  if (options.access.stop()) return stopped();
  if (Status s = write_checked(with_text, sink, options, clock, report); !s) return s.error();
  slot_file.done = true;
  if (options.keep_slot_file) report.slot_file = slot_file.name;
  return report;
}

}  // namespace cachecard::llama_server
