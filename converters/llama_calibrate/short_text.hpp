#pragma once

namespace cachecard::llama_calibrate {

/// What a model reads where nobody calibrated it. Of fixtures/calibration: none of it is in the texts by which fidelity is judged.
/// Always the same, so that what a model's file says of it does not depend on what was read first, and keeps nothing of anybody's.
inline constexpr const char* kShortText = R"text(The ferry had been out of service for nine days when Ines decided to walk across the ice. She told nobody, because anybody she told would have stopped her, and she packed the way her grandmother used to pack for the high pastures: bread, a tin of fat, two candles, a coil of rope that was older than she was, and a letter in an oilskin pouch that she did not intend to open again until she stood in front of the person it was written to.

The harbour looked smaller from the ice than it ever had from the quay. The cranes leaned together like old men at a funeral, and the fish hall, which in summer was the loudest building in the province, made no sound at all. She counted her steps. At four hundred the smell of tar was gone. At nine hundred she could no longer read the numbers on the warehouses. At two thousand she turned around, because she had promised herself that she would turn around once and only once, and saw a single lamp moving along the breakwater.

Bit planes: 1 to 8 bits a value, chosen token by token, the most significant bits of all tokens first. A value depends on its present width and its range only,
so that lower planes can be left unread, or dropped from the file, without touching the others. For random access to tokens, for progressive fetching, and for
whoever wants a lossy codec in an evening.

Streams of f32, f16 and bf16 take it; compressor is 0. The chunk decodes to rows in the stream's element type and channel order, as a raw chunk does.
The payload is a **head**, then the planes. frame_header.digest_size is the head's size: stored_digest covers the head, and the head holds a digest of each plane.

### Card order

/// Where token t of the request begins.
std::byte* token_base(const DecodeTarget& target, std::uint64_t t) {
  if (target.blocks == nullptr) {
    return static_cast<std::byte*>(target.base) + static_cast<std::int64_t>(t) * target.token_stride;
  }
  const std::uint64_t page = t / target.blocks->page_size;
  return static_cast<std::byte*>(target.blocks->pages[page]) +
         static_cast<std::int64_t>(t % target.blocks->page_size) * target.token_stride;
}

void store_value(DType dtype, float value, std::byte* at) {
  if (dtype == DType::kF32) {
    std::memcpy(at, &value, sizeof(value));
    return;
  }
  const std::uint16_t half =

Ice is never silent, whatever people say who have only looked at it through a window. It spoke in long low notes that began somewhere to her left and ended somewhere under her feet, and every time it spoke she stood still until it had finished, as one does when an older person tells a story. Her father had taught her the difference between the voices. A note that falls is the ice settling; a note that rises is the ice deciding. Twice in the first hour the note rose, and twice she lay down flat with her arms spread and waited until the decision had gone in her favour.

By noon the wind came, and with the wind a fine dry snow that moved over the surface like smoke. She tied the rope around her waist, although there was nobody at the other end, because the weight of it was a comfort. She thought about the letter.
)text";

}  // namespace cachecard::llama_calibrate
