#include "state_header.hpp"

#include <algorithm>

namespace cachecard::llama_cpp {
namespace {

struct LayoutVersion {
  StateLayout layout;
  std::uint32_t session;
  std::uint32_t sequence;
};
// source: llama.h LLAMA_SESSION_VERSION, LLAMA_STATE_SEQ_VERSION of 0c1e570 and v0.6.0
constexpr LayoutVersion kVersions[] = {{StateLayout::k10_3, 10, 3}, {StateLayout::k11_4, 11, 4}};

Result<StateLayout> layout_of(std::uint32_t version, bool session) {
  for (const auto& row : kVersions) {
    if (version == (session ? row.session : row.sequence)) return row.layout;
  }
  if (version == (session ? 9u : 2u)) {
    return foreign_error(4, "version",
                         "layout 9/2 covers several incompatible layouts and is not supported; "
                         "re-save with a newer llama.cpp");
  }
  return foreign_error(
      4, "version",
      "found " + std::to_string(version) + (session ? ", known are 10 and 11" : ", known are 3 and 4"));
}

/// Walks the blob's bytes, which are words only at its start.
class BlobReader {
 public:
  BlobReader(std::span<const std::byte> bytes, std::uint64_t offset) : bytes_(bytes), offset_(offset) {}

  std::size_t remaining() const { return bytes_.size() - position_; }

  Result<std::uint32_t> u32(std::string_view field) {
    std::uint32_t number = 0;
    if (remaining() < sizeof(number)) return ends_early(field);
    std::memcpy(&number, bytes_.data() + position_, sizeof(number));
    position_ += sizeof(number);
    return number;
  }

  /// A count and the bytes of its items.
  Result<std::span<const std::byte>> counted(std::size_t item_bytes, std::string_view field) {
    auto count = u32(field);
    if (!count) return count.error();
    if (*count > remaining() / item_bytes) return ends_early(field);
    const auto items = bytes_.subspan(position_, *count * item_bytes);
    position_ += items.size();
    return items;
  }

  Error error(std::string_view field, std::string detail) const {
    return foreign_error(offset_ + position_, field, std::move(detail));
  }

 private:
  Error ends_early(std::string_view field) const {
    return error(field,
                 "llama-server's token blob ends early: " + std::to_string(remaining()) + " bytes left");
  }

  std::span<const std::byte> bytes_;
  std::uint64_t offset_;
  std::size_t position_ = 0;
};

}  // namespace

std::uint32_t session_version(StateLayout layout) { return kVersions[layout == StateLayout::k11_4].session; }

std::uint32_t sequence_version(StateLayout layout) {
  return kVersions[layout == StateLayout::k11_4].sequence;
}

Status parse_file_header(ForeignReader& reader, StateFile& state) {
  const bool session = state.container == LlamaContainer::kSessionFile;
  auto status = reader.skip(4, "magic");
  if (!status) return status;
  auto version = reader.value<std::uint32_t>("version");
  if (!version) return version.error();
  auto layout = layout_of(*version, session);
  if (!layout) return layout.error();
  state.version = *version;
  state.layout = *layout;
  auto count = reader.value<std::uint32_t>("n_tokens");
  if (!count) return count.error();
  status = reader.expect(*count, sizeof(std::int32_t), "n_tokens");
  if (!status) return status;
  state.header_words.resize(*count);
  const std::uint64_t offset = reader.offset();
  status = reader.read(std::as_writable_bytes(std::span(state.header_words)), "tokens");
  if (!status) return status;
  state.server_blob = !session && !state.header_words.empty() && state.header_words[0] == kBlobMarker;
  if (!state.server_blob) {
    state.token_ids = state.header_words;
    return {};
  }
  auto tokens = parse_token_blob(state.header_words, offset);
  if (!tokens) return tokens.error();
  state.token_ids = *std::move(tokens);
  return {};
}

Result<std::string> parse_architecture(ForeignReader& reader) {
  const std::uint64_t offset = reader.offset();
  auto size = reader.value<std::uint32_t>("arch");
  if (!size) return size.error();
  if (*size == 0 || *size > kMaxArchitectureBytes) {
    return foreign_error(offset, "arch",
                         "a name of " + std::to_string(*size) + " bytes, allowed are 1 to " +
                             std::to_string(kMaxArchitectureBytes));
  }
  std::string name(*size, '\0');
  auto status = reader.read(std::as_writable_bytes(std::span(name)), "arch");
  if (!status) return status.error();
  const auto printable = [](char c) { return c > ' ' && c < 127; };
  if (!std::all_of(name.begin(), name.end(), printable)) {
    return foreign_error(offset, "arch", "no architecture's name");
  }
  return name;
}

Result<std::vector<std::int32_t>> parse_token_blob(std::span<const std::int32_t> words,
                                                   std::uint64_t offset) {
  // source: llama.cpp tools/server/server-common.cpp server_tokens::deserialize
  BlobReader blob(std::as_bytes(words), offset);
  auto marker = blob.u32("marker");
  if (!marker) return marker.error();
  auto version = blob.u32("blob_version");
  if (!version) return version.error();
  if (*version != kBlobVersion) {
    return blob.error("blob_version", "found " + std::to_string(*version) + ", known is 1");
  }
  auto tokens = blob.counted(sizeof(std::int32_t), "token_count");
  if (!tokens) return tokens.error();
  auto media = blob.counted(sizeof(std::uint32_t), "media_count");
  if (!media) return media.error();
  for (std::size_t i = 0; i < media->size() / sizeof(std::uint32_t); ++i) {
    auto chunk = blob.counted(1, "media_chunk");
    if (!chunk) return chunk.error();
    if (chunk->empty()) return blob.error("media_chunk", "an empty media chunk");
  }
  if (blob.remaining() >= sizeof(std::int32_t)) {
    return blob.error("token_blob", std::to_string(blob.remaining()) + " bytes after its end");
  }
  std::vector<std::int32_t> ids(tokens->size() / sizeof(std::int32_t));
  if (!ids.empty()) std::memcpy(ids.data(), tokens->data(), tokens->size());
  return ids;
}

std::vector<std::int32_t> make_token_blob(std::span<const std::int32_t> tokens) {
  std::vector<std::int32_t> words{kBlobMarker, static_cast<std::int32_t>(kBlobVersion),
                                  static_cast<std::int32_t>(tokens.size())};
  words.insert(words.end(), tokens.begin(), tokens.end());
  words.push_back(0);  // no media
  return words;
}

Result<bool> skip_checkpoints(ForeignReader& reader) {
  // source: llama.cpp tools/server/server-context.cpp save_slot_checkpoints
  if (reader.remaining() < 8) return false;
  auto magic = reader.value<std::uint32_t>("checkpoints.magic");
  if (!magic) return magic.error();
  auto version = reader.value<std::uint32_t>("checkpoints.version");
  if (!version) return version.error();
  if (*magic != kCheckpointMagic || *version != 1) return false;
  auto count = reader.value<std::uint32_t>("checkpoints.count");
  if (!count) return count.error();
  auto status = reader.expect(*count, 40, "checkpoints.count");
  if (!status) return status.error();
  for (std::uint32_t i = 0; i < *count; ++i) {
    status = reader.skip(16, "checkpoint");  // i64 n_tokens, i32 pos_min, i32 pos_max
    if (!status) return status.error();
    for (int buffer = 0; buffer < 3; ++buffer) {  // target, draft, speculative
      auto size = reader.value<std::uint64_t>("checkpoint.size");
      if (!size) return size.error();
      status = reader.skip(*size, "checkpoint.data");
      if (!status) return status.error();
    }
  }
  return true;
}

}  // namespace cachecard::llama_cpp
