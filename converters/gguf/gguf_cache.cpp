#include "gguf_cache.hpp"

#include <algorithm>
#include <cstring>
#include <map>

#include "gguf_names.hpp"
#include "key_reader.hpp"

namespace cachecard::gguf {
namespace {

using llama_cpp::GgufFile;
using llama_cpp::GgufTensor;

/// A name out of a file for a message: printable, at most 80 characters.
std::string shown(std::string_view name) {
  std::string text;
  for (const char c : name.substr(0, 80)) text += c >= ' ' && c <= '~' ? c : '?';
  return "'" + text + (name.size() > 80 ? "...'" : "'");
}

template <class T, class Out>
Status take(Result<T> read, Out& out) {
  if (!read) return read.error();
  out = static_cast<Out>(*std::move(read));
  return {};
}

using Tensors = std::map<std::string_view, const GgufTensor*>;

/// Tensors by name. The data must be as ggml's own reader wants it: each tensor where the one before ends, no
/// name twice, nothing behind.
Result<Tensors> index_tensors(const GgufFile& file) {
  Tensors tensors;
  std::uint64_t next = file.data_offset;
  for (const GgufTensor& tensor : file.tensors) {
    if (!tensors.emplace(tensor.name, &tensor).second)
      return gguf_error("tensor.name", shown(tensor.name) + " occurs twice");
    // A model's reader gives types that it does not know no size; here the next offset would take the blame.
    if (tensor.size == 0 && std::find(tensor.dims.begin(), tensor.dims.end(), 0u) == tensor.dims.end()) {
      return gguf_error("tensor.type",
                        shown(tensor.name) + ": found type " + std::to_string(tensor.type) + ", which is not known");
    }
    if (tensor.offset != next) {
      return gguf_error("tensor.offset", shown(tensor.name) + ": found " +
                                             std::to_string(tensor.offset - file.data_offset) + ", allowed " +
                                             std::to_string(next - file.data_offset) +
                                             ", where the tensor before ends");
    }
    next += (tensor.size + file.alignment - 1) / file.alignment * file.alignment;
  }
  if (file.file_size < next) {
    return Error{ErrorCode::kTruncated, file.file_size, "tensor",
                 std::to_string(next) + " bytes wanted, " + std::to_string(file.file_size) + " are there"};
  }
  if (file.file_size > next) {
    return gguf_error("tensor.offset",
                      std::to_string(file.file_size - next) + " bytes behind the last tensor");
  }
  return tensors;
}

/// One array for each field of a record, all of one length.
template <class Record>
Status read_records(const KeyReader& keys, std::uint64_t most, std::vector<Record>& records) {
  Status status;
  bool first = true;
  for_each_field<Record>([&](const auto& field, std::size_t) {
    using Member = std::remove_cvref_t<decltype(std::declval<Record&>().*(field.member))>;
    if constexpr (std::is_integral_v<Member>) {
      if (!status) return;
      const std::string key = field_key<Record>(field.name);
      auto values = keys.array<Member>(key, most);
      if (!values) {
        status = values.error();
        return;
      }
      if (first) records.resize(values->size());
      first = false;
      if (values->size() != records.size()) {
        status = gguf_error(key, "found " + std::to_string(values->size()) +
                                     " elements, the arrays before have " + std::to_string(records.size()));
        return;
      }
      for (std::size_t i = 0; i < records.size(); ++i) records[i].*(field.member) = (*values)[i];
    }
  });
  return status;
}

Result<Restorable> read_restorable(const KeyReader& keys) {
  auto name = keys.text("kv_cache.restorable");
  if (!name) return name.error();
  for (const auto value : {Restorable::kAnyPrefix, Restorable::kWholeOnly, Restorable::kFromCount}) {
    if (*name == name_of(value)) return value;
  }
  return gguf_error("kv_cache.restorable",
                    "found " + shown(*name) + ", allowed any_prefix, whole_only, from_count");
}

/// Fields of a later format, by number and type: "kv_cache.identity.99". A digest is an array of 16 bytes.
Status read_numbered(const KeyReader& keys, Identity& identity) {
  for (const auto& [name, type] : keys.numbered(identity_key(""))) {
    Identity::Value value{name, ValueType::kText, {}};
    const std::string key = identity_key(std::to_string(name));
    Status s;
    if (type == kStringType) {
      s = take(keys.text(key), value.bytes);
    } else if (type == kArrayType) {
      value.type = ValueType::kDigest;
      auto bytes = keys.array<std::uint8_t>(key, 16);
      if (!bytes) return bytes.error();
      value.bytes.assign(bytes->begin(), bytes->end());
    } else {
      value.type = type == kValueType<double> ? ValueType::kF64 : ValueType::kU64;
      value.bytes.resize(8);
      auto number = keys.number<std::uint64_t>(key);
      auto real = keys.number<double>(key);
      if (!number && !real) return number.error();
      std::memcpy(value.bytes.data(), number ? static_cast<const void*>(&*number) : &*real, 8);
    }
    if (!s) return s;
    identity.set(std::move(value));
  }
  return {};
}

Status read_identity(const KeyReader& keys, Identity& identity) {
  for (const IdentityFieldInfo& info : identity_fields()) {
    const std::string key = identity_key(info.name);
    if (!keys.has(key)) continue;
    if (info.type == ValueType::kU64) {
      auto value = keys.number<std::uint64_t>(key);
      if (!value) return value.error();
      identity.set_u64(info.field, *value);
    } else if (info.type == ValueType::kF64) {
      auto value = keys.number<double>(key);
      if (!value) return value.error();
      identity.set_f64(info.field, *value);
    } else {
      auto value = keys.text(key);
      if (!value) return value.error();
      if (info.type == ValueType::kText) {
        identity.set_text(info.field, *value);
        continue;
      }
      const auto digest = digest_from_hex(*value);
      if (!digest) return gguf_error(key, "found " + shown(*value) + ", allowed are 32 hexadecimal digits");
      identity.set_digest(info.field, *digest);
    }
  }
  return read_numbered(keys, identity);
}

Status read_header(const KeyReader& keys, CardHeader& header) {
  const Limits limits;
  Status s = take(keys.number<std::uint64_t>("kv_cache.token_count"), header.token_count);
  if (s) s = take(keys.number<std::int64_t>("kv_cache.next_position"), header.next_position);
  if (s) s = take(keys.number<std::uint32_t>("kv_cache.layer_count"), header.layer_count);
  if (s) s = take(keys.number<std::uint32_t>("kv_cache.flags"), header.flags);
  if (s) s = take(keys.number<std::uint64_t>("kv_cache.restorable_from"), header.restorable_from);
  if (s) s = take(read_restorable(keys), header.restorable);
  if (s) s = read_records(keys, limits.stream_count, header.streams);
  if (s) s = read_records(keys, limits.header_bytes / encoded_size<PartRecord>(), header.parts);
  if (s) s = read_records(keys, limits.segment_count, header.segments);
  if (s) s = read_identity(keys, header.identity);
  if (!s) return s;
  auto encoded = encode_header(header);
  if (encoded) return {};
  const Error& error = encoded.error();
  if (error.code == ErrorCode::kLimitExceeded) return error;
  return gguf_error("kv_cache " + error.field, error.detail);
}

Status read_lists(const KeyReader& keys, GgufCache& cache) {
  const std::uint64_t most = Limits{}.token_count;
  const bool known = (cache.header.flags & kHeaderTokensUnknown) == 0;
  Status s = take(keys.array<std::int32_t>("kv_cache.positions", most), cache.positions);
  if (s && known) s = take(keys.array<std::int32_t>("kv_cache.token_ids", most), cache.token_ids);
  if (s && keys.has("kv_cache.text")) s = take(keys.text("kv_cache.text"), cache.text);
  if (!s) return s;
  if (!known && keys.has("kv_cache.token_ids")) {
    return gguf_error("kv_cache.token_ids", "found, although kv_cache.flags says tokens_unknown");
  }
  for (const auto& [key, list] : {std::pair{"kv_cache.positions", &cache.positions},
                                  std::pair{"kv_cache.token_ids", &cache.token_ids}}) {
    if (list->size() == cache.header.token_count || (!known && list == &cache.token_ids)) continue;
    return gguf_error(key, "found " + std::to_string(list->size()) + " elements, allowed " +
                               std::to_string(cache.header.token_count));
  }
  return {};
}

Status read_rope(const KeyReader& keys, GgufCache& cache) {
  if (!keys.has("kv_cache.rope.inverse_frequencies")) return {};
  RopeTable table;
  Status s =
      take(keys.array<double>("kv_cache.rope.inverse_frequencies", 1u << 16), table.inverse_frequencies);
  std::uint32_t pairing = 0;
  if (s) s = take(keys.number<std::uint32_t>("kv_cache.rope.pairing"), pairing);
  if (s) s = take(keys.number<std::uint32_t>("kv_cache.rope.rotated_offset"), table.record.rotated_offset);
  if (s) s = take(keys.number<std::uint32_t>("kv_cache.rope.rotated_width"), table.record.rotated_width);
  if (s) s = take(keys.number<double>("kv_cache.rope.magnitude"), table.record.magnitude);
  if (!s) return s;
  if (pairing > 2)
    return gguf_error("kv_cache.rope.pairing", "found " + std::to_string(pairing) + ", allowed 1 and 2");
  table.record.pairing = static_cast<std::uint8_t>(pairing);
  table.record.pair_count = static_cast<std::uint32_t>(table.inverse_frequencies.size());
  if (auto checked = parse_rope_table(encode_rope_table(table)); !checked) {
    return gguf_error("kv_cache.rope", checked.error().field + ": " + checked.error().detail);
  }
  cache.rope_table = std::move(table);
  return {};
}

const GgufTensor* find_tensor(const Tensors& tensors, std::string_view name) {
  const auto found = tensors.find(name);
  return found == tensors.end() ? nullptr : found->second;
}

Status check_shape(const GgufTensor& tensor, std::uint32_t type, std::vector<std::uint64_t> dims) {
  const auto text = [](const std::vector<std::uint64_t>& sizes) {
    std::string out;
    for (const std::uint64_t size : sizes) out += (out.empty() ? "" : " x ") + std::to_string(size);
    return out;
  };
  if (tensor.type == type && tensor.dims == dims) return {};
  return gguf_error(tensor.name, "found type " + std::to_string(tensor.type) + ", " + text(tensor.dims) +
                                     ", allowed type " + std::to_string(type) + ", " + text(dims));
}

Status find_streams(const Tensors& tensors, GgufCache& cache, std::size_t& used) {
  for (const StreamRecord& stream : cache.header.streams) {
    const bool opaque = static_cast<StreamKind>(stream.stream) == StreamKind::kOpaque;
    if (!opaque && stream.token_count == 0) {
      cache.data_offsets.push_back(0);
      continue;
    }
    const std::string name = tensor_name(stream);
    const GgufTensor* tensor = find_tensor(tensors, name);
    if (tensor == nullptr) return gguf_error("tensor.name", "no tensor " + shown(name));
    Status s = opaque ? check_shape(*tensor, kI8Tensor, {stream.opaque_size})
                      : check_shape(*tensor, stream.dtype, {row_elements(stream), stream.token_count});
    if (!s) return s;
    ++used;
    cache.data_offsets.push_back(tensor->offset);
  }
  return {};
}

/// Errors: as read_gguf_cache. Leaves form empty where the file has none.
Status read_form(const ByteSource& source, const Tensors& tensors, const KeyReader& keys, GgufCache& cache,
                 std::size_t& used) {
  const GgufTensor* frames = find_tensor(tensors, kFramesTensor);
  if (frames == nullptr) return {};
  StoredForm form;
  std::string root;
  Status s = take(keys.text("cachecard.root"), root);
  if (s) s = take(keys.number<std::uint64_t>("cachecard.required_features"), form.required_features);
  if (s) s = take(keys.number<std::uint64_t>("cachecard.optional_features"), form.optional_features);
  if (s) s = take(keys.number<double>("cachecard.predicted_error"), form.predicted_error);
  if (s) s = take(keys.number<std::uint32_t>("cachecard.zstd_level"), form.zstd_level);
  if (!s) return s;
  if (form.zstd_level == 0 || form.zstd_level > 22) {
    return gguf_error("cachecard.zstd_level",
                      "found " + std::to_string(form.zstd_level) + ", allowed 1 to 22");
  }
  const auto digest = digest_from_hex(root);
  if (!digest)
    return gguf_error("cachecard.root", "found " + shown(root) + ", allowed are 32 hexadecimal digits");
  form.root = *digest;
  constexpr std::uint64_t kFrameBytes = encoded_size<FrameHeader>();
  const std::uint64_t count = frames->size / kFrameBytes;
  if (count > Limits{}.frame_count) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, std::string(kFramesTensor),
                 "found " + std::to_string(count) + " frames"};
  }
  if (s = check_shape(*frames, kI8Tensor, {kFrameBytes, count}); !s) return s;
  std::vector<std::byte> bytes;
  for (std::uint64_t done = 0; done < frames->size; done += bytes.size()) {
    bytes.resize(std::min<std::uint64_t>(frames->size - done, kFrameBytes << 12));
    if (s = source.read_at(frames->offset + done, bytes); !s) return s;
    for (std::size_t at = 0; at < bytes.size(); at += kFrameBytes) {
      form.frames.push_back(load<FrameHeader>(std::span(bytes).subspan(at)));
    }
  }
  ++used;
  if (const GgufTensor* sections = find_tensor(tensors, kSectionsTensor)) {
    if (s = check_shape(*sections, kI8Tensor, {sections->size}); !s) return s;
    form.carried_size = sections->size;
    cache.sections_offset = sections->offset;
    ++used;
  }
  cache.form = std::move(form);
  return {};
}

class GgufSource final : public CacheSource {
 public:
  GgufSource(const ByteSource& source, GgufCache cache) : source_(source), cache_(std::move(cache)) {}

  const CardHeader& header() const override { return cache_.header; }
  std::span<const std::int32_t> token_ids() const override { return cache_.token_ids; }
  std::span<const std::int32_t> positions() const override { return cache_.positions; }
  const RopeTable* rope_table() const override { return cache_.rope_table ? &*cache_.rope_table : nullptr; }
  std::string_view text() const override { return cache_.text; }

  Status read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out) const override {
    const StreamRecord& stream = cache_.header.streams.at(stream_index);
    const bool inside = first_token >= stream.first_token && token_count <= stream.token_count &&
                        first_token - stream.first_token <= stream.token_count - token_count;
    const std::uint64_t row = row_bytes(stream, static_cast<DType>(stream.dtype));
    if (!inside || out.size() != token_count * row) {
      return Error{ErrorCode::kInvalidArgument, kNoOffset, "first_token",
                   "rows outside what the stream holds"};
    }
    return source_.read_at(cache_.data_offsets[stream_index] + (first_token - stream.first_token) * row, out);
  }
  Status read_opaque(std::size_t stream_index, std::uint64_t offset,
                     std::span<std::byte> out) const override {
    return source_.read_at(cache_.data_offsets.at(stream_index) + offset, out);
  }

 private:
  const ByteSource& source_;
  GgufCache cache_;
};

}  // namespace

bool looks_like_gguf(std::span<const std::byte> head) {
  return head.size() >= 4 && std::memcmp(head.data(), "GGUF", 4) == 0;
}

Result<GgufCache> read_gguf_cache(const ByteSource& source) {
  auto file = llama_cpp::read_gguf(source);
  if (!file) return file.error();
  const std::string type = file->text("general.type").value_or("");
  if (type != kCacheType) {
    return gguf_error("general.type", "found " + (type.empty() ? "none" : shown(type)) + ", allowed '" +
                                          std::string(kCacheType) + "': this is no file of a KV cache");
  }
  const KeyReader keys(source, *file);
  auto version = keys.number<std::uint32_t>("kv_cache.version");
  if (!version) return version.error();
  if (*version != kConventionVersion) {
    return gguf_error("kv_cache.version", "found " + std::to_string(*version) + ", allowed 1");
  }
  auto tensors = index_tensors(*file);
  if (!tensors) return tensors.error();
  GgufCache cache;
  std::size_t used = 0;
  Status s = read_header(keys, cache.header);
  if (s) s = read_lists(keys, cache);
  if (s) s = read_rope(keys, cache);
  if (s) s = find_streams(*tensors, cache, used);
  if (s) s = read_form(source, *tensors, keys, cache, used);
  if (!s) return s.error();
  if (used != file->tensors.size()) {
    return gguf_error("tensor.name", "found " + std::to_string(file->tensors.size()) + " tensors, " +
                                         std::to_string(used) + " are a cache's");
  }
  return cache;
}

std::unique_ptr<CacheSource> gguf_source(const ByteSource& source, GgufCache cache) {
  return std::make_unique<GgufSource>(source, std::move(cache));
}

ReadCarried read_carried(const ByteSource& source, const GgufCache& cache) {
  const std::uint64_t first = cache.sections_offset;
  return [&source, first](std::uint64_t offset, std::span<std::byte> out) {
    return source.read_at(first + offset, out);
  };
}

}  // namespace cachecard::gguf
