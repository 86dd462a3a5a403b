#include "c_api_boundary.hpp"

#include <cstdio>
#include <stdexcept>
#include <utility>

#include "base/checked.hpp"

namespace cachecard::c_api {
namespace {


template <std::size_t N>
void put_text(char (&out)[N], std::string_view text) {
  std::size_t size = std::min(text.size(), N - 1);
  const auto inside_character = [&] { return (static_cast<unsigned char>(text[size]) & 0xC0) == 0x80; };
  while (size > 0 && size < text.size() && inside_character()) --size;
  std::fill(std::copy_n(text.begin(), size, out), out + N, '\0');
}

void put_error(ccd_error* error, ErrorCode code, std::uint64_t offset, std::string_view field,
               std::string_view message) {
  if (error == nullptr) return;
  error->code = static_cast<ccd_status>(code);
  error->reserved = 0;
  error->offset = offset;
  put_text(error->field, field);
  put_text(error->message, message);
}

ccd_status report_bare(ccd_error* error, ErrorCode code) noexcept {
  put_error(error, code, kNoOffset, {}, error_info(code).name);
  return static_cast<ccd_status>(code);
}

}  // namespace

ccd_status report(ccd_error* error, const Error& what) noexcept {
  try {
    if (error != nullptr) put_error(error, what.code, what.offset, what.field, what.message());
    return static_cast<ccd_status>(what.code);
  } catch (...) {
    return report_bare(error, what.code);  // no memory for the message: the code still stands
  }
}

ccd_status report_success(ccd_error* error) noexcept {
  put_error(error, ErrorCode::kOk, kNoOffset, {}, {});
  return CCD_OK;
}

ccd_status report_exception(ccd_error* error) noexcept {
  try {
    throw;
  } catch (const std::bad_alloc&) {
    return report_bare(error, ErrorCode::kOutOfMemory);
  } catch (const std::length_error&) {
    return report_bare(error, ErrorCode::kOutOfMemory);
  } catch (...) {
    return report_bare(error, ErrorCode::kInternal);
  }
}

Error argument_error(std::string detail) {
  return {ErrorCode::kInvalidArgument, kNoOffset, {}, std::move(detail)};
}

Error callback_error(ccd_status status, std::string_view callback) {
  const auto code = static_cast<ErrorCode>(status);
  const bool known = error_info(code).code == code;
  return {known ? code : ErrorCode::kIo,
          kNoOffset,
          {},
          std::string(callback) + " returned " + std::to_string(status)};
}

Error too_small(std::size_t capacity, std::size_t count) {
  return {ErrorCode::kBufferTooSmall,
          kNoOffset,
          {},
          "found room for " + std::to_string(capacity) + ", needed " + std::to_string(count)};
}

struct GuardedParallel::Call {
  GuardedParallel& self;
  void (*task)(void*, std::size_t);
  void* context;
  std::size_t count;
  std::atomic<std::size_t> done{0};
};

ParallelFor GuardedParallel::view() {
  if (parallel_.run == nullptr) return {};
  return {&GuardedParallel::run, this, std::max<std::size_t>(1, parallel_.width)};
}

void GuardedParallel::run(void* self, std::size_t count, void (*task)(void*, std::size_t), void* context) {
  auto& parallel = *static_cast<GuardedParallel*>(self);
  Call call{parallel, task, context, count};
  parallel.parallel_.run(parallel.parallel_.user, count, &GuardedParallel::run_task, &call);
  parallel.missing_ += count - std::min(count, call.done.load());
}

void GuardedParallel::run_task(void* context, std::size_t index) {
  auto& call = *static_cast<Call*>(context);
  if (index >= call.count) return;
  try {
    call.task(call.context, index);
  } catch (const std::bad_alloc&) {
    call.self.out_of_memory_ = true;
  } catch (...) {
    call.self.threw_ = true;
  }
  ++call.done;
}

Status GuardedParallel::status() const {
  if (out_of_memory_) return Error{ErrorCode::kOutOfMemory, kNoOffset, {}, "in a task"};
  if (threw_) return Error{ErrorCode::kInternal, kNoOffset, {}, "in a task"};
  if (missing_ == 0) return {};
  return argument_error("parallel.run left " + std::to_string(missing_) + " tasks undone");
}

Result<std::size_t> find_stream(const ccd_card* card, std::uint32_t layer, std::uint32_t stream_kind) {
  if (card == nullptr) return argument_error("card is NULL");
  if (stream_kind <= CCD_STREAM_OPAQUE) {
    const auto kind = static_cast<StreamKind>(stream_kind);
    if (const auto index = card->reader.header().stream_index(layer, kind)) return *index;
  }
  return argument_error("layer " + std::to_string(layer) + " has no stream " + std::to_string(stream_kind));
}

Result<RowSpan> find_rows(const ccd_card* card, std::uint32_t layer, std::uint32_t stream_kind,
                          std::uint64_t first_token, std::uint64_t token_count) {
  auto index = find_stream(card, layer, stream_kind);
  if (!index) return index.error();
  if (stream_kind == CCD_STREAM_OPAQUE) return argument_error("an opaque stream has no rows");
  const StreamRecord& stream = card->reader.header().streams[*index];
  if (first_token < stream.first_token ||
      !span_within(first_token - stream.first_token, token_count, stream.token_count)) {
    return argument_error("tokens " + std::to_string(first_token) + " + " + std::to_string(token_count) +
                          ", the stream holds " + std::to_string(stream.first_token) + " + " +
                          std::to_string(stream.token_count));
  }
  return RowSpan{*index, first_token, token_count};
}

}  // namespace cachecard::c_api
