#include "base/scratch.hpp"
#include "c_api_boundary.hpp"

namespace cachecard::c_api {
namespace {

Result<ccd_target> take_target(const ccd_target* given, std::uint64_t token_count) {
  if (given == nullptr) return argument_error("target is NULL");
  auto target = take(given, "ccd_target");
  if (!target) return target;
  if (target->dtype != CCD_DTYPE_F32 && target->dtype != CCD_DTYPE_F16 && target->dtype != CCD_DTYPE_BF16) {
    return argument_error("target.dtype must be f32, f16 or bf16");
  }
  if ((target->flags & ~std::uint32_t{CCD_TARGET_KEEP_ROTATION | CCD_TARGET_FINITE}) != 0) {
    return argument_error("an unknown target flag");
  }
  if (target->rope_pairing > CCD_PAIRING_HALF_SPLIT) return argument_error("target.rope_pairing names nothing");
  if (target->page_size == 0) {
    if (target->base == nullptr && token_count > 0) return argument_error("target.base is NULL");
    return target;
  }
  const std::uint64_t pages =
      token_count / target->page_size + (token_count % target->page_size != 0 ? 1 : 0);
  if (target->page_count < pages) return too_small(target->page_count, pages);
  if (target->pages == nullptr && pages > 0) return argument_error("target.pages is NULL");
  for (std::uint64_t i = 0; i < pages; ++i) {
    if (target->pages[i] == nullptr) return argument_error("target.pages[" + std::to_string(i) + "] is NULL");
  }
  return target;
}

}  // namespace
}  // namespace cachecard::c_api

using namespace cachecard;
using namespace cachecard::c_api;

ccd_status ccd_card_decode(const ccd_card* card, uint32_t layer, uint32_t stream_kind, uint64_t first_token,
                           uint64_t token_count, const ccd_target* target, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    auto span = find_rows(card, layer, stream_kind, first_token, token_count);
    if (!span) return span.error();
    auto taken = take_target(target, token_count);
    if (!taken) return taken.error();
    const BlockTable pages{taken->page_size, {taken->pages, taken->page_count}};
    DecodeTarget where{taken->base,        static_cast<DType>(taken->dtype), taken->token_stride,
                       taken->head_stride, taken->channel_stride,            nullptr};
    if (taken->page_size != 0) where.blocks = &pages;
    DecodeRequest request{span->stream, first_token, token_count, (taken->flags & CCD_TARGET_KEEP_ROTATION) != 0};
    request.rope_pairing = static_cast<RopePairing>(taken->rope_pairing);
    request.finite = (taken->flags & CCD_TARGET_FINITE) != 0;
    GuardedParallel parallel(card->parallel);
    const Status decoded =
        card->reader.decode(request, where, parallel.view(), take_allocator(card->allocator));
    if (Status s = parallel.status(); !s) return s;
    return decoded;
  });
}

ccd_status ccd_card_check_other_sections(const ccd_card* card, uint64_t token_count, ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    if (card == nullptr) return argument_error("card is NULL");
    return card->reader.check_other_sections(token_count);
  });
}

ccd_status ccd_card_read_rows(const ccd_card* card, uint32_t layer, uint32_t stream_kind,
                              uint64_t first_token, uint64_t token_count, void* out, size_t capacity,
                              ccd_error* error) noexcept {
  return guarded(error, [&]() -> Status {
    auto span = find_rows(card, layer, stream_kind, first_token, token_count);
    if (!span) return span.error();
    const StreamRecord& stream = card->reader.header().streams[span->stream];
    const auto size = token_count * row_bytes(stream, static_cast<DType>(stream.dtype));
    if (size == 0) return {};
    if (out == nullptr) return argument_error("out is NULL");
    if (capacity < size) return too_small(capacity, size);
    auto scratch = Scratch::allocate(take_allocator(card->allocator), card->reader.scratch_bytes(span->stream));
    if (!scratch) return scratch.error();
    return card->reader.read_rows(span->stream, first_token, token_count,
                                  {static_cast<std::byte*>(out), size}, scratch->bytes());
  });
}
