#pragma once

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <string_view>

#include "cachecard/cachecard.h"
#include "cachecard/reader.hpp"

/// What every c_api_*.cpp needs to let calls in and results out: no exception and no C++ type crosses.

struct ccd_card {
  std::unique_ptr<cachecard::ByteSource> source;
  cachecard::CardReader reader;
  ccd_allocator allocator;
  ccd_parallel parallel;
};

namespace cachecard::c_api {

/// Fills *error (if any) and gives the status back.
ccd_status report(ccd_error* error, const Error& what) noexcept;
ccd_status report_success(ccd_error* error) noexcept;
/// For the exception in flight; allocates nothing.
ccd_status report_exception(ccd_error* error) noexcept;

/// Runs the body of a C function.
template <class Body>
ccd_status guarded(ccd_error* error, Body&& body) noexcept {
  try {
    const Status status = body();
    return status ? report_success(error) : report(error, status.error());
  } catch (...) {
    return report_exception(error);
  }
}

Error argument_error(std::string detail);
/// The error of a callback that did not return CCD_OK: its own code, or io for a number that is none.
Error callback_error(ccd_status status, std::string_view callback);

/// Size of a struct in the version that brought it: the least that a caller's struct_size may say.
/// A struct that grows gets its old size here.
template <class T>
inline constexpr std::size_t kFirstSize = sizeof(T);
template <>
inline constexpr std::size_t kFirstSize<ccd_write_options> = offsetof(ccd_write_options, codec);
template <>
inline constexpr std::size_t kFirstSize<ccd_target> = offsetof(ccd_target, rope_pairing);

/// A struct given by the caller, at its own size: what it lacks is zero, what we do not know must be.
template <class T>
Result<T> take(const T* given, std::string_view name) {
  T taken{};
  if (given->struct_size < kFirstSize<T>) {
    return argument_error(std::string(name) + ".struct_size is too small");
  }
  const auto* bytes = reinterpret_cast<const char*>(given);
  for (std::size_t i = sizeof(T); i < given->struct_size; ++i) {
    if (bytes[i] != 0) return argument_error(std::string(name) + " asks for what this version cannot do");
  }
  std::memcpy(&taken, given, std::min<std::size_t>(sizeof(T), given->struct_size));
  return taken;
}

/// The same for a struct that may be missing: then all is zero.
template <class T>
Result<T> take_optional(const T* given, std::string_view name) {
  if (given == nullptr) return T{};
  return take(given, name);
}

/// Whether give() can fill *out: asked before work starts.
template <class T>
Status can_give(const T* out, std::string_view name) {
  if (out == nullptr) return argument_error(std::string(name) + " is NULL");
  if (out->struct_size < kFirstSize<T>) {
    return argument_error(std::string(name) + ".struct_size is too small");
  }
  return {};
}

/// Needs: can_give.
template <class T>
void give(T value, T* out) {
  value.struct_size = std::min<std::uint32_t>(sizeof(T), out->struct_size);
  std::memcpy(out, &value, value.struct_size);
}

Error too_small(std::size_t capacity, std::size_t count);

/// An array for the caller, by the header's rule for arrays.
template <class T>
Status give_array(std::span<const T> items, T* out, std::size_t capacity, std::size_t* count) {
  if (count != nullptr) *count = items.size();
  if (out == nullptr && capacity == 0) return {};
  if (out == nullptr) return argument_error("out is NULL, but capacity is not 0");
  if (capacity < items.size()) return too_small(capacity, items.size());
  std::copy(items.begin(), items.end(), out);
  return {};
}

/// The caller's threads. A task that throws, or that never ran, becomes an error instead.
class GuardedParallel {
 public:
  explicit GuardedParallel(const ccd_parallel& parallel) : parallel_(parallel) {}
  GuardedParallel(const GuardedParallel&) = delete;
  GuardedParallel& operator=(const GuardedParallel&) = delete;

  /// Refers to this object.
  ParallelFor view();
  /// To be asked before the result of the call that used view().
  Status status() const;

 private:
  struct Call;
  static void run(void* self, std::size_t count, void (*task)(void*, std::size_t), void* context);
  static void run_task(void* call, std::size_t index);

  ccd_parallel parallel_;
  std::atomic<bool> out_of_memory_{false};
  std::atomic<bool> threw_{false};
  std::atomic<std::size_t> missing_{0};
};

inline Allocator take_allocator(const ccd_allocator& given) { return {given.allocate, given.release, given.user}; }

/// Index of a layer's stream. Errors: invalid_argument
Result<std::size_t> find_stream(const ccd_card* card, std::uint32_t layer, std::uint32_t stream_kind);

/// Rows [first_token, first_token + token_count) of a stream that has rows.
struct RowSpan {
  std::size_t stream;
  std::uint64_t first_token;
  std::uint64_t token_count;
};
/// Errors: invalid_argument
Result<RowSpan> find_rows(const ccd_card* card, std::uint32_t layer, std::uint32_t stream_kind,
                          std::uint64_t first_token, std::uint64_t token_count);

}  // namespace cachecard::c_api
