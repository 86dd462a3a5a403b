// What stands for a call in a pickle: names, REDUCE, NEWOBJ, BUILD and persistent ids. All make data.

#include "pickle_machine.hpp"
#include "pickle_names.hpp"
#include "pt_error.hpp"

namespace cachecard::pytorch {
namespace {

constexpr std::size_t kMaxDimensions = 8;

}  // namespace

Status PickleMachine::name(const std::string& module, const std::string& attribute) {
  std::string full = module + "." + attribute;
  switch (find_pickle_name(full)) {
    case PickleName::kRefused:
      return refuse("the pickle names " + shown(full) + refusal_of(full));
    case PickleName::kInertValue:
      return push({PickleKind::kInert, 0, kNoPickle, 0});
    default:
      return push_text(std::move(full), PickleKind::kGlobal);
  }
}

Status PickleMachine::global() {
  auto module = line();
  if (!module) return module.error();
  auto attribute = line();
  if (!attribute) return attribute.error();
  return name(*module, *attribute);
}

Status PickleMachine::stack_global() {
  auto attribute = pop();
  if (!attribute) return attribute.error();
  auto module = pop();
  if (!module) return module.error();
  if (values_.kind(*module) != PickleKind::kText || values_.kind(*attribute) != PickleKind::kText) {
    return damaged("a name is made of something else than texts");
  }
  return name(values_.text(*module), values_.text(*attribute));
}

/// ("storage", type, key, location, element count[, view]). source: torch/serialization.py
Status PickleMachine::persistent_id() {
  auto id = pop();
  if (!id) return id.error();
  const PickleValues& v = values_;
  const auto* m = v.kind(*id) == PickleKind::kTuple ? &v.members(*id) : nullptr;
  const bool shaped = m != nullptr && (m->size() == 5 || m->size() == 6) &&
                      v.kind((*m)[0]) == PickleKind::kText && v.text((*m)[0]) == "storage" &&
                      v.kind((*m)[1]) == PickleKind::kGlobal && v.kind((*m)[2]) == PickleKind::kText &&
                      v.kind((*m)[3]) == PickleKind::kText && v.kind((*m)[4]) == PickleKind::kInt &&
                      v.nodes[(*m)[4]].number >= 0;
  if (!shaped) return refuse("a persistent id that is no storage");
  if (m->size() == 6 && v.kind((*m)[5]) != PickleKind::kNone)
    return refuse("a storage that is a view of another");
  constexpr std::size_t kPrefix = std::string_view("torch.").size();
  const std::string& type = v.text((*m)[1]);
  if (find_pickle_name(type) != PickleName::kStorageType)
    return refuse(shown(type) + " is no type of storage");
  StorageRef storage;
  storage.element = element_of_storage(std::string_view(type).substr(kPrefix))->element;
  storage.key = v.text((*m)[2]);
  storage.element_count = static_cast<std::uint64_t>(v.nodes[(*m)[4]].number);
  values_.storages.push_back(std::move(storage));
  return push({PickleKind::kStorage, static_cast<std::uint32_t>(values_.storages.size() - 1), kNoPickle, 0});
}

Result<std::vector<std::uint64_t>> PickleMachine::counts(PickleId id, const char* what) const {
  if (!values_.is_sequence(id) || values_.members(id).size() > kMaxDimensions) {
    return refuse(std::string("a tensor's ") + what + " are no tuple of at most 8 integers");
  }
  std::vector<std::uint64_t> numbers;
  for (const PickleId member : values_.members(id)) {
    const PickleNode& node = values_.nodes[member];
    if (node.kind != PickleKind::kInt || node.number < 0) {
      return refuse(std::string("a tensor's ") + what + " hold something else than integers from 0");
    }
    numbers.push_back(static_cast<std::uint64_t>(node.number));
  }
  return numbers;
}

/// (storage, offset, sizes, strides, requires_grad, hooks[, metadata]). source: torch/_utils.py
Status PickleMachine::rebuild_tensor(const std::vector<PickleId>& arguments) {
  const PickleValues& v = values_;
  if (arguments.size() < 6 || arguments.size() > 7 || v.kind(arguments[0]) != PickleKind::kStorage ||
      v.kind(arguments[1]) != PickleKind::kInt || v.nodes[arguments[1]].number < 0) {
    return refuse("a tensor without storage or offset");
  }
  if (v.kind(arguments[5]) == PickleKind::kDict && !v.members(arguments[5]).empty()) {
    return refuse("a tensor with hooks");
  }
  TensorRef tensor;
  tensor.storage = v.nodes[arguments[0]].index;
  tensor.offset = static_cast<std::uint64_t>(v.nodes[arguments[1]].number);
  auto sizes = counts(arguments[2], "sizes");
  if (!sizes) return sizes.error();
  auto strides = counts(arguments[3], "strides");
  if (!strides) return strides.error();
  if (sizes->size() != strides->size()) return refuse("a tensor with as many strides as sizes is expected");
  tensor.sizes = std::move(*sizes);
  tensor.strides = std::move(*strides);
  values_.tensors.push_back(std::move(tensor));
  return push({PickleKind::kTensor, static_cast<std::uint32_t>(values_.tensors.size() - 1), kNoPickle, 0});
}

Status PickleMachine::reduce() {
  auto arguments = pop();
  if (!arguments) return arguments.error();
  auto callable = pop();
  if (!callable) return callable.error();
  if (values_.kind(*callable) != PickleKind::kGlobal || values_.kind(*arguments) != PickleKind::kTuple) {
    return refuse("REDUCE of a " + std::string(name_of(values_.kind(*callable))) +
                  ", which is nothing to call");
  }
  const std::string called = values_.text(*callable);
  const std::size_t count = values_.members(*arguments).size();
  // The longest call has 7; copying a longer tuple again and again would take time without end.
  std::vector<PickleId> members;
  if (count <= kMaxDimensions) members = values_.members(*arguments);
  const PickleName meaning = find_pickle_name(called);
  if (meaning == PickleName::kOrderedDict && count == 0) return empty_dict();
  if (meaning == PickleName::kRebuildTensor) return rebuild_tensor(members);
  if (meaning == PickleName::kInertCall) return push({PickleKind::kInert, 0, kNoPickle, 0});
  const bool keep = (meaning == PickleName::kKeepFirst && members.size() == 2) ||
                    (meaning == PickleName::kKeepList && members.size() == 1);
  if (keep) {
    stack_.push_back(members[0]);
    return {};
  }
  return refuse("REDUCE of " + shown(called) + " with " + std::to_string(count) +
                " arguments is refused: nothing that the file names was run");
}

Status PickleMachine::newobj() {
  auto arguments = pop();
  if (!arguments) return arguments.error();
  auto type = pop();
  if (!type) return type.error();
  if (values_.kind(*type) != PickleKind::kGlobal || values_.kind(*arguments) != PickleKind::kTuple ||
      find_pickle_name(values_.text(*type)) != PickleName::kCacheClass ||
      !values_.members(*arguments).empty()) {
    const std::string what = values_.kind(*type) == PickleKind::kGlobal
                                 ? shown(values_.text(*type))
                                 : "a " + std::string(name_of(values_.kind(*type)));
    return refuse("NEWOBJ of " + what + " is refused: nothing that the file names was run");
  }
  return push({PickleKind::kObject, values_.nodes[*type].index, kNoPickle, 0});
}

Status PickleMachine::build() {
  auto state = pop();
  if (!state) return state.error();
  if (Status s = check_stack(1); !s) return s;
  PickleNode& object = values_.nodes[stack_.back()];
  if (object.kind != PickleKind::kObject || object.state != kNoPickle ||
      values_.kind(*state) != PickleKind::kDict) {
    const std::string kind(name_of(object.kind));
    return refuse("BUILD of a" + std::string(object.kind == PickleKind::kObject ? "n " : " ") + kind +
                  " with a " + std::string(name_of(values_.kind(*state))) +
                  " is refused: nothing that the file names was run");
  }
  object.state = *state;
  return {};
}

}  // namespace cachecard::pytorch
