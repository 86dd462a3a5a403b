#include "pt_cache.hpp"

#include <cstring>
#include <limits>

#include "pt_error.hpp"
#include "pt_structure.hpp"

namespace cachecard::pytorch {
namespace {

std::string sizes_text(const std::vector<std::uint64_t>& sizes) {
  std::string text = "[";
  for (const std::uint64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + "]";
}

/// Holds a view to its storage, and to as many values as the storage has: no small file stands for a
/// large cache. Needs: nothing of the numbers.
Status check_tensor(const TensorRef& tensor, const StorageRef& storage, const std::string& where) {
  for (const std::uint64_t size : tensor.sizes) {
    if (size != 0) continue;
    return pt_error(storage.file_offset, where,
                    "found sizes " + sizes_text(tensor.sizes) + ", an empty tensor");
  }
  // Storages are no larger than a file, so no product or sum of what passes here leaves 64 bits.
  const std::uint64_t limit = storage.element_count;
  std::uint64_t last = tensor.offset;
  std::uint64_t count = 1;
  bool inside = true;
  bool expanded = false;
  for (std::size_t i = 0; i < tensor.sizes.size() && inside; ++i) {
    const std::uint64_t size = tensor.sizes[i];
    const std::uint64_t stride = size == 1 ? 0 : tensor.strides[i];
    inside = last < limit && (size == 1 || stride <= limit / (size - 1));
    if (inside) last += (size - 1) * stride;
    expanded = expanded || size > limit || count > limit / size;
    if (!expanded) count *= size;
  }
  if (inside && !expanded && last < limit) return {};
  const std::string found = "sizes " + sizes_text(tensor.sizes) + ", strides " + sizes_text(tensor.strides) +
                            " and offset " + std::to_string(tensor.offset);
  if (inside && last < limit) {
    return pt_error(storage.file_offset, where,
                    found + " stand for more than the storage's " + std::to_string(limit) +
                        " values: an expanded tensor, to be saved as .contiguous()");
  }
  return Error{ErrorCode::kCorrupt, storage.file_offset, where,
               found + " leave a storage of " + std::to_string(limit) + " values"};
}

Result<DType> float_type(Element element, std::uint64_t offset, const std::string& where) {
  switch (element) {
    case Element::kF32:
      return DType::kF32;
    case Element::kF16:
      return DType::kF16;
    case Element::kBf16:
      return DType::kBf16;
    default:
      return pt_error(offset, where,
                      "found " + std::string(element_info(element).name) + ", allowed f32, f16 and bf16");
  }
}

/// Makes a PtCache of the values that the structure names.
class CacheReader {
 public:
  CacheReader(const ByteSource& source, const PickleValues& values, PtCache& cache)
      : source_(source), values_(values), cache_(cache) {}

  Status add_layer(const PtStructure::Layer& layer, std::size_t index);
  Result<std::vector<std::int32_t>> integers(PickleId id, const std::string& where) const;
  Status check_total() const;

 private:
  struct Side {
    PtTensor tensor;
    DType dtype = DType::kF16;
  };
  Result<Side> side(PickleId id, const std::string& where);
  Result<std::vector<std::int32_t>> tensor_integers(const TensorRef& tensor, const std::string& where) const;

  const ByteSource& source_;
  const PickleValues& values_;
  PtCache& cache_;
  std::uint64_t total_bytes_ = 0;
};

Result<CacheReader::Side> CacheReader::side(PickleId id, const std::string& where) {
  const TensorRef& tensor = values_.tensor(id);
  const StorageRef& storage = values_.storages[tensor.storage];
  const std::uint64_t at = storage.file_offset;
  if (tensor.sizes.size() != 4) {
    return pt_error(at, where,
                    "found sizes " + sizes_text(tensor.sizes) + ", allowed [1, heads, tokens, head_dim]");
  }
  if (Status s = check_tensor(tensor, storage, where); !s) return s.error();
  if (tensor.sizes[0] != 1) {
    return pt_error(at, where, "found a batch of " + std::to_string(tensor.sizes[0]) + ", allowed 1");
  }
  auto dtype = float_type(storage.element, at, where);
  if (!dtype) return dtype.error();
  Side side;
  side.dtype = *dtype;
  const std::uint64_t bytes = element_info(storage.element).bytes;
  side.tensor.offset = at + tensor.offset * bytes;
  side.tensor.storage = storage.key;
  side.tensor.storage_offset = tensor.offset;
  side.tensor.shape = {tensor.sizes[1],           tensor.sizes[2],           tensor.sizes[3],          bytes,
                       tensor.strides[1] * bytes, tensor.strides[2] * bytes, tensor.strides[3] * bytes};
  total_bytes_ += tensor.sizes[1] * tensor.sizes[2] * tensor.sizes[3] * bytes;
  return side;
}

Status CacheReader::add_layer(const PtStructure::Layer& layer, std::size_t index) {
  const std::string where = "layer " + std::to_string(index);
  auto key = side(layer.key, where + " key");
  if (!key) return key.error();
  auto value = side(layer.value, where + " value");
  if (!value) return value.error();
  const StridedShape& k = key->tensor.shape;
  const StridedShape& v = value->tensor.shape;
  if (k.head_count != v.head_count || k.token_count != v.token_count) {
    return pt_error(value->tensor.offset, where,
                    "keys are of " + std::to_string(k.head_count) + " heads and " +
                        std::to_string(k.token_count) + " tokens, values of " + std::to_string(v.head_count) +
                        " and " + std::to_string(v.token_count));
  }
  constexpr std::uint64_t kMost = std::numeric_limits<std::uint32_t>::max();
  if (k.head_count > kMost || k.channel_count > kMost || v.channel_count > kMost || layer.window > kMost) {
    return Error{ErrorCode::kLimitExceeded, key->tensor.offset, where,
                 "heads, widths and windows are of 32 bits"};
  }
  LayerShape shape;
  shape.key_dtype = key->dtype;
  shape.value_dtype = value->dtype;
  shape.kv_head_count = static_cast<std::uint32_t>(k.head_count);
  shape.key_head_dim = static_cast<std::uint32_t>(k.channel_count);
  shape.value_head_dim = static_cast<std::uint32_t>(v.channel_count);
  shape.token_count = k.token_count;
  shape.window = static_cast<std::uint32_t>(layer.window);
  if (layer.held_of) {
    if (*layer.held_of < k.token_count) {
      return pt_error(key->tensor.offset, where,
                      "holds " + std::to_string(k.token_count) + " tokens, but has seen " +
                          std::to_string(*layer.held_of));
    }
    shape.first_token = *layer.held_of - k.token_count;
  }
  cache_.shapes.push_back(shape);
  cache_.keys.push_back(key->tensor);
  cache_.values.push_back(value->tensor);
  return {};
}

/// Tensors that share storages could stand for more values than the file has bytes.
Status CacheReader::check_total() const {
  if (total_bytes_ <= source_.size()) return {};
  return Error{ErrorCode::kLimitExceeded, kNoOffset, "cache",
               "keys and values are of " + std::to_string(total_bytes_) + " bytes, the file of " +
                   std::to_string(source_.size()) + ": tensors share their values"};
}

Result<std::int32_t> as_i32(std::int64_t number, const std::string& where) {
  if (number >= 0 && number <= std::numeric_limits<std::int32_t>::max())
    return static_cast<std::int32_t>(number);
  return pt_error(kNoOffset, where, "found " + std::to_string(number) + ", allowed 0 to 2147483647");
}

Result<std::vector<std::int32_t>> CacheReader::tensor_integers(const TensorRef& tensor,
                                                               const std::string& where) const {
  const StorageRef& storage = values_.storages[tensor.storage];
  const bool flat = tensor.sizes.size() == 1 || (tensor.sizes.size() == 2 && tensor.sizes[0] == 1);
  const bool whole = storage.element == Element::kI64 || storage.element == Element::kI32;
  if (!flat || !whole) {
    return pt_error(storage.file_offset, where,
                    "found " + std::string(element_info(storage.element).name) + " " +
                        sizes_text(tensor.sizes) + ", allowed i64 or i32, [tokens] or [1, tokens]");
  }
  if (Status s = check_tensor(tensor, storage, where); !s) return s.error();
  if (tensor.sizes.back() > Limits{}.token_count) {
    return Error{ErrorCode::kLimitExceeded, storage.file_offset, where,
                 "found " + std::to_string(tensor.sizes.back()) + " numbers, allowed 4194304"};
  }
  const std::uint64_t bytes = element_info(storage.element).bytes;
  const std::uint64_t count = tensor.sizes.back();
  const StridedShape shape{1, count, 1, bytes, 0, tensor.strides.back() * bytes, bytes};
  std::vector<std::byte> rows(count * bytes);
  if (Status s =
          read_strided_rows(source_, storage.file_offset + tensor.offset * bytes, shape, 0, count, rows);
      !s) {
    return s.error();
  }
  std::vector<std::int32_t> numbers;
  for (std::uint64_t i = 0; i < count; ++i) {
    std::int64_t wide = 0;
    std::int32_t narrow = 0;
    std::memcpy(bytes == 8 ? static_cast<void*>(&wide) : &narrow, rows.data() + i * bytes, bytes);
    auto number = as_i32(bytes == 8 ? wide : narrow, where);
    if (!number) return number.error();
    numbers.push_back(*number);
  }
  return numbers;
}

Result<std::vector<std::int32_t>> CacheReader::integers(PickleId id, const std::string& where) const {
  if (values_.kind(id) == PickleKind::kTensor) return tensor_integers(values_.tensor(id), where);
  if (!values_.is_sequence(id)) {
    return pt_error(
        kNoOffset, where,
        "found a " + std::string(name_of(values_.kind(id))) + ", allowed a tensor or list of integers");
  }
  std::vector<std::int32_t> numbers;
  for (const PickleId member : values_.members(id)) {
    const PickleNode& node = values_.nodes[member];
    if (node.kind != PickleKind::kInt) {
      return pt_error(kNoOffset, where,
                      "found a " + std::string(name_of(node.kind)) + " in it, allowed integers");
    }
    auto number = as_i32(node.number, where);
    if (!number) return number.error();
    numbers.push_back(*number);
  }
  return numbers;
}

Status set_per_layer(const CacheReader& reader, const PtStructure& structure, PtCache& cache) {
  for (const bool first : {true, false}) {
    const auto& list = first ? structure.first_token : structure.window;
    const std::string name = first ? "first_token" : "window";
    if (!list) continue;
    auto numbers = reader.integers(*list, name);
    if (!numbers) return numbers.error();
    if (numbers->size() != cache.shapes.size()) {
      return pt_error(kNoOffset, name,
                      "found " + std::to_string(numbers->size()) + " numbers for " +
                          std::to_string(cache.shapes.size()) + " layers");
    }
    for (std::size_t i = 0; i < numbers->size(); ++i) {
      const auto number = static_cast<std::uint32_t>((*numbers)[i]);
      if (first) {
        cache.shapes[i].first_token = number;
      } else {
        cache.shapes[i].window = number;
      }
    }
  }
  return {};
}

Status set_rope(const PtStructure& structure, PtCache& cache) {
  if (!structure.rope_state && !structure.rope_pairing) return {};
  for (const RopeState state : {RopeState::kNone, RopeState::kPreRope, RopeState::kPostRope}) {
    if (structure.rope_state == name_of(state)) cache.rope_state = state;
  }
  bool known = cache.rope_state.has_value();
  bool paired = false;
  for (const RopePairing pairing : {RopePairing::kNone, RopePairing::kInterleaved, RopePairing::kHalfSplit}) {
    if (structure.rope_pairing != name_of(pairing)) continue;
    cache.rope_pairing = pairing;
    paired = (pairing == RopePairing::kNone) == (cache.rope_state == RopeState::kNone);
  }
  if (known && paired) return {};
  return pt_error(kNoOffset, "rope_state",
                  "found '" + shown(structure.rope_state.value_or("")) + "' with pairing '" +
                      shown(structure.rope_pairing.value_or("")) +
                      "', allowed none with none, pre_rope or post_rope with interleaved or half_split");
}

}  // namespace

Result<PtCache> read_pt_cache(const ByteSource& source) {
  auto file = open_pt(source);
  if (!file) return file.error();
  auto structure = find_structure(file->values, file->root);
  if (!structure) return structure.error();
  PtCache cache;
  cache.container = file->container;
  cache.unused = std::move(structure->unused);
  CacheReader reader(source, file->values, cache);
  for (std::size_t i = 0; i < structure->layers.size(); ++i) {
    if (Status s = reader.add_layer(structure->layers[i], i); !s) return s.error();
  }
  if (Status s = reader.check_total(); !s) return s.error();
  for (auto& [id, name, out] : {std::tuple{structure->token_ids, "token_ids", &cache.token_ids},
                                std::tuple{structure->positions, "positions", &cache.positions}}) {
    if (!id || file->values.kind(*id) == PickleKind::kNone) continue;
    auto numbers = reader.integers(*id, name);
    if (!numbers) return numbers.error();
    *out = std::move(*numbers);
  }
  if (Status s = set_per_layer(reader, *structure, cache); !s) return s.error();
  if (Status s = set_rope(*structure, cache); !s) return s.error();
  return cache;
}

}  // namespace cachecard::pytorch
