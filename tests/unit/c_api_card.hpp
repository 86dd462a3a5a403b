#pragma once

#include <cstring>
#include <string>
#include <utility>
#include <vector>

#include "cachecard/cachecard.h"

/// A card made through the C writer, for the tests of the C ABI.
/// Layer 0: f16 keys and rotated q8_0 values; layer 1: bf16 keys and f32 values; layer 2: opaque bytes.
namespace c_api_card {

inline constexpr std::uint32_t kLayers = 3;
inline constexpr std::uint64_t kTokens = 300;
inline constexpr std::uint64_t kChunkTokens = 64;
inline constexpr std::uint32_t kHeads = 2;
inline constexpr std::uint32_t kHeadDim = 64;
inline constexpr std::uint64_t kOpaqueSize = 777;

/// A struct with its size set and all else zero.
template <class T>
T sized() {
  T value{};
  value.struct_size = sizeof(T);
  return value;
}

struct StreamShape {
  std::uint32_t layer, kind, dtype, hadamard_size;
};
inline constexpr StreamShape kShapes[] = {{0, CCD_STREAM_KEY, CCD_DTYPE_F16, 1},
                                          {0, CCD_STREAM_VALUE, CCD_DTYPE_Q8_0, 64},
                                          {1, CCD_STREAM_KEY, CCD_DTYPE_BF16, 1},
                                          {1, CCD_STREAM_VALUE, CCD_DTYPE_F32, 1}};

inline ccd_stream stream(const StreamShape& shape) {
  auto s = sized<ccd_stream>();
  s.layer = shape.layer;
  s.stream = shape.kind;
  s.dtype = shape.dtype;
  s.rope_state = shape.kind == CCD_STREAM_KEY ? CCD_ROPE_AFTER : CCD_ROPE_NONE;
  s.rope_pairing = shape.kind == CCD_STREAM_KEY ? CCD_PAIRING_HALF_SPLIT : CCD_PAIRING_NONE;
  s.kv_head_count = kHeads;
  s.head_dim = kHeadDim;
  s.hadamard_size = shape.hadamard_size;
  s.token_count = kTokens;
  return s;
}

inline ccd_stream opaque_stream() {
  auto s = sized<ccd_stream>();
  s.layer = 2;
  s.stream = CCD_STREAM_OPAQUE;
  s.dtype = CCD_DTYPE_BYTES;
  s.opaque_size = kOpaqueSize;
  return s;
}

/// Bytes that are finite numbers in every type, and differ by stream and token.
inline ccd_status read_rows(void*, std::uint32_t layer, std::uint32_t kind, std::uint64_t first_token,
                            std::uint64_t token_count, void* out, std::size_t size) {
  const std::size_t row_size = size / token_count;
  for (std::size_t i = 0; i < size; ++i) {
    const std::uint64_t token = first_token + i / row_size;
    static_cast<unsigned char*>(out)[i] =
        static_cast<unsigned char>((token * 7 + i % row_size * 3 + layer * 11 + kind * 5) & 0x3F);
  }
  return CCD_OK;
}

inline ccd_status read_opaque(void*, std::uint32_t, std::uint64_t offset, void* out, std::size_t size) {
  for (std::size_t i = 0; i < size; ++i) static_cast<char*>(out)[i] = static_cast<char>(offset + i);
  return CCD_OK;
}

inline ccd_values values() {
  auto v = sized<ccd_values>();
  v.read_rows = read_rows;
  v.read_opaque = read_opaque;
  return v;
}

inline ccd_identity_value text(std::uint32_t field_id, const char* value) {
  return {field_id, CCD_VALUE_TEXT, value, std::strlen(value)};
}

inline ccd_writer_facts writer_facts() {
  auto facts = sized<ccd_writer_facts>();
  facts.layer_count = kLayers;
  facts.next_position = kTokens;
  facts.restorable = CCD_RESTORABLE_WHOLE_ONLY;
  return facts;
}

/// The whole description; nullptr where a call failed. The caller destroys it.
inline ccd_writer* described_writer(bool tokens_known = true) {
  ccd_writer* writer = nullptr;
  const auto facts = writer_facts();
  bool ok = ccd_writer_create(&facts, &writer, nullptr) == CCD_OK;
  const auto last = opaque_stream();
  ok = ok && ccd_writer_add_stream(writer, &last, nullptr) == CCD_OK;
  for (const StreamShape& shape : kShapes) {
    const auto s = stream(shape);
    ok = ok && ccd_writer_add_stream(writer, &s, nullptr) == CCD_OK;
  }
  const std::uint64_t vocabulary = 32000;
  const ccd_identity_value identity[] = {
      text(1, "llama"), {8, CCD_VALUE_U64, &vocabulary, sizeof(vocabulary)}, text(21, "tiny")};
  for (const auto& value : identity) ok = ok && ccd_writer_set_identity(writer, &value, nullptr) == CCD_OK;
  std::vector<std::int32_t> ids(kTokens);
  for (std::size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<std::int32_t>(i * i);
  ok = ok && ccd_writer_set_tokens(writer, tokens_known ? ids.data() : nullptr, nullptr, ids.size(),
                                   nullptr) == CCD_OK;
  if (ok) return writer;
  ccd_writer_destroy(writer);
  return nullptr;
}

inline ccd_status append(void* user, const void* bytes, std::size_t size) {
  static_cast<std::string*>(user)->append(static_cast<const char*>(bytes), size);
  return CCD_OK;
}

inline ccd_write_options write_options() {
  auto options = sized<ccd_write_options>();
  options.chunk_tokens = kChunkTokens;
  options.provenance = "made by test_c_api";
  return options;
}

/// The card's bytes; empty where a call failed.
inline std::string bytes(std::uint32_t compressor = CCD_COMPRESSOR_NONE, bool tokens_known = true) {
  std::string card;
  ccd_writer* writer = described_writer(tokens_known);
  auto output = sized<ccd_output>();
  output.write = append;
  output.user = &card;
  auto options = write_options();
  options.compressor = compressor;
  const auto from = values();
  if (ccd_writer_write_to(writer, &output, &from, &options, nullptr, nullptr) != CCD_OK) card.clear();
  ccd_writer_destroy(writer);
  return card;
}

/// An open card over bytes of its own.
struct Card {
  std::string data;
  ccd_card* handle = nullptr;

  explicit Card(std::string card_bytes, const ccd_open_options* options = nullptr)
      : data(std::move(card_bytes)) {
    ccd_open_bytes(data.data(), data.size(), options, &handle, nullptr);
  }
  Card(const Card&) = delete;
  Card& operator=(const Card&) = delete;
  ~Card() { ccd_close(handle); }
};

/// Offset of the first chunk's values: a stretch of the f16 key rows of tokens 0 to 63.
inline std::size_t first_chunk(const std::string& card) {
  std::vector<char> rows(kChunkTokens * kHeads * kHeadDim * 2);
  read_rows(nullptr, 0, CCD_STREAM_KEY, 0, kChunkTokens, rows.data(), rows.size());
  return card.find(std::string(rows.data(), rows.size()));
}

}  // namespace c_api_card
