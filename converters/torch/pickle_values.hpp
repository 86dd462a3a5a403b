#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

/// What a pickle of tensors and plain containers holds, as data. Nothing in here runs anything.
namespace cachecard::pytorch {

/// Element types of torch's storages that a cache may hold. bool to f64 are for token ids only.
enum class Element : std::uint8_t { kF32, kF16, kBf16, kF64, kI64, kI32, kI16, kI8, kU8, kBool };

struct ElementInfo {
  Element element;
  std::string_view name;     ///< as messages say it
  std::string_view storage;  ///< torch's class, "HalfStorage"
  std::uint32_t bytes;
};
const ElementInfo& element_info(Element element) noexcept;
const ElementInfo* element_of_storage(std::string_view storage) noexcept;

/// The bytes behind a tensor, by the name that the container has for them.
struct StorageRef {
  Element element = Element::kF32;
  std::string key;
  std::uint64_t element_count = 0;
  std::uint64_t file_offset = 0;  ///< set once the container has been walked
};

/// A view of a storage, in elements. Invariant (after check_tensor): it stays inside the storage.
struct TensorRef {
  std::uint32_t storage = 0;  ///< index into PickleValues::storages
  std::uint64_t offset = 0;
  std::vector<std::uint64_t> sizes;
  std::vector<std::uint64_t> strides;
};

enum class PickleKind : std::uint8_t {
  kNone,
  kBool,
  kInt,
  kFloat,
  kText,
  kTuple,
  kList,
  kDict,    ///< dict and OrderedDict: key, value, key, value, ...
  kGlobal,  ///< a name of the allow list, not called yet
  kStorage,
  kTensor,
  kObject,  ///< a class of the allow list: its name and, once BUILD was seen, its state
  kInert,   ///< something that a cache does not need: a device, a dtype, a set
};
std::string_view name_of(PickleKind kind) noexcept;

using PickleId = std::uint32_t;
inline constexpr PickleId kNoPickle = ~PickleId{0};

struct PickleNode {
  PickleKind kind = PickleKind::kNone;
  std::uint32_t index = 0;  ///< into texts, sequences, storages or tensors; objects: into texts (class name)
  PickleId state = kNoPickle;  ///< of an object
  std::int64_t number = 0;     ///< of kBool and kInt
};

/// All values of a pickle; containers name their members by number, so cycles cost nothing.
struct PickleValues {
  std::vector<PickleNode> nodes;
  std::vector<std::string> texts;
  std::vector<std::vector<PickleId>> sequences;
  std::vector<StorageRef> storages;
  std::vector<TensorRef> tensors;

  PickleKind kind(PickleId id) const { return nodes[id].kind; }
  bool is_sequence(PickleId id) const {
    return kind(id) == PickleKind::kTuple || kind(id) == PickleKind::kList;
  }
  /// Needs: a tuple, list or dict.
  const std::vector<PickleId>& members(PickleId id) const { return sequences[nodes[id].index]; }
  /// Needs: a text, global or object.
  const std::string& text(PickleId id) const { return texts[nodes[id].index]; }
  /// Needs: a tensor.
  const TensorRef& tensor(PickleId id) const { return tensors[nodes[id].index]; }
  /// The last value of a key of a dict, as Python has it.
  std::optional<PickleId> find(PickleId dict, std::string_view key) const;
};

}  // namespace cachecard::pytorch
