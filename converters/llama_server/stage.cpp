#include "llama_server/stage.hpp"

#include <unistd.h>

#include <algorithm>

#include "llama_server/slot_session.hpp"

namespace cachecard::llama_server {
namespace {

Error refuse(ErrorCode code, std::string detail) { return {code, kNoOffset, {}, std::move(detail)}; }

/// The staged file says what the card says.
Status check_staged(const std::string& path, const llama_cpp::ModelFacts* model,
                    const llama_cpp::StateWriteReport& report, const std::vector<std::int32_t>& tokens) {
  auto staged = read_slot_file(path, model);
  if (!staged) {
    return refuse(ErrorCode::kInternal, "the staged slot file does not parse: " + staged.error().message());
  }
  const bool same_tokens =
      staged->token_count == report.token_count && report.token_count <= tokens.size() &&
      std::equal(staged->state.token_ids.begin(), staged->state.token_ids.end(), tokens.begin());
  if (staged->file_size != report.file_size || staged->state.payload_end > staged->file_size) {
    return refuse(ErrorCode::kInternal, "the staged slot file has another size than was written");
  }
  if (!same_tokens) {
    return refuse(ErrorCode::kInternal, "the staged slot file has other tokens than the card");
  }
  return {};
}

}  // namespace

Result<std::uint64_t> prefix_of(const CardHeader& header, std::uint64_t wanted) {
  if ((header.flags & kHeaderNotAPrefix) != 0) {
    return refuse(ErrorCode::kPartialCard, "the card does not begin at the context's first token");
  }
  if ((header.flags & kHeaderPartialLayers) != 0) {
    return refuse(ErrorCode::kPartialCard, "the card lacks layers");
  }
  if ((header.flags & kHeaderTokensUnknown) != 0) {
    return refuse(ErrorCode::kTokensUnknown, "without token ids no server can go on from it");
  }
  if (header.token_count == 0) {
    return refuse(ErrorCode::kInvalidArgument, "the card has no tokens");
  }
  const std::string all = std::to_string(header.token_count);
  if (wanted > header.token_count) {
    return refuse(ErrorCode::kInvalidArgument,
                  std::to_string(wanted) + " tokens asked for, the card has " + all);
  }
  const std::uint64_t count = wanted == 0 ? header.token_count : wanted;
  if (header.restorable == Restorable::kWholeOnly && count != header.token_count) {
    return refuse(ErrorCode::kNotRestorable, "only all " + all + " tokens can be restored");
  }
  if (header.restorable == Restorable::kFromCount && count < header.restorable_from) {
    return refuse(
        ErrorCode::kNotRestorable,
        "a prefix needs at least " + std::to_string(header.restorable_from) + " tokens (sliding window)");
  }
  return count;
}

Result<llama_cpp::StateWriteReport> stage_card(const CardReader& card, const llama_cpp::StateTemplate& layout,
                                               const llama_cpp::ModelFacts* model, const std::string& path,
                                               const StageOptions& options) {
  if (Status s = card.check_other_sections(options.token_count); !s) return s.error();
  auto tokens = card.token_ids();
  if (!tokens) return tokens.error();
  FileSinkOptions volatile_file;
  volatile_file.sync = false;
  auto sink = create_file(path, volatile_file);
  if (!sink) return sink.error();
  llama_cpp::StateWriteOptions writing;
  writing.token_count = options.token_count;
  writing.allow_nonfinite = options.allow_nonfinite;
  writing.parallel = options.parallel;
  writing.progress = options.progress;
  auto report = llama_cpp::write_state(card, layout, **sink, writing);
  if (!report) return report.error();
  if (Status s = (*sink)->commit(); !s) return s.error();
  if (Status s = check_staged(path, model, *report, *tokens); !s) {
    ::unlink(path.c_str());
    return s.error();
  }
  return report;
}

}  // namespace cachecard::llama_server
