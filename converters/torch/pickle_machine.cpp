#include "pickle_machine.hpp"

#include <bit>
#include <cstring>

#include "pickle_opcodes.hpp"
#include "pt_error.hpp"

namespace cachecard::pytorch {

Error PickleMachine::refuse(std::string detail) const {
  return pt_error(file_offset_ + opcode_at_, "pickle", std::move(detail));
}

Error PickleMachine::damaged(std::string detail) const {
  return {ErrorCode::kCorrupt, file_offset_ + opcode_at_, "pickle", std::move(detail)};
}

Result<std::span<const std::byte>> PickleMachine::take(std::uint64_t size) {
  if (size > bytes_.size() - at_) {
    return Error{ErrorCode::kTruncated, file_offset_ + at_, "pickle",
                 "found " + std::to_string(bytes_.size() - at_) + " bytes, expected " + std::to_string(size)};
  }
  const auto taken = bytes_.subspan(at_, static_cast<std::size_t>(size));
  at_ += taken.size();
  return taken;
}

template <class T>
Result<T> PickleMachine::number() {
  auto bytes = take(sizeof(T));
  if (!bytes) return bytes.error();
  T value;
  std::memcpy(&value, bytes->data(), sizeof(value));
  return value;
}

Result<std::string> PickleMachine::line() {
  const auto* begin = reinterpret_cast<const char*>(bytes_.data()) + at_;
  const void* end = std::memchr(begin, '\n', bytes_.size() - at_);
  if (end == nullptr) return Error{ErrorCode::kTruncated, file_offset_ + at_, "pickle", "a name has no end"};
  std::string text(begin, static_cast<const char*>(end));
  at_ += text.size() + 1;
  return text;
}

Result<PickleId> PickleMachine::make(PickleNode node) {
  if (values_.nodes.size() >= kMaxPickleNodes) {
    return Error{ErrorCode::kLimitExceeded, file_offset_ + opcode_at_, "pickle",
                 "more than " + std::to_string(kMaxPickleNodes) + " values"};
  }
  values_.nodes.push_back(node);
  return static_cast<PickleId>(values_.nodes.size() - 1);
}

Status PickleMachine::push(PickleNode node) {
  auto id = make(node);
  if (!id) return id.error();
  stack_.push_back(*id);
  return {};
}

Status PickleMachine::push_text(std::string text, PickleKind kind) {
  values_.texts.push_back(std::move(text));
  return push({kind, static_cast<std::uint32_t>(values_.texts.size() - 1), kNoPickle, 0});
}

Status PickleMachine::push_members(PickleKind kind, std::vector<PickleId> members) {
  values_.sequences.push_back(std::move(members));
  return push({kind, static_cast<std::uint32_t>(values_.sequences.size() - 1), kNoPickle, 0});
}

/// Whether count values lie above the last mark.
Status PickleMachine::check_stack(std::size_t count) const {
  const std::size_t floor = marks_.empty() ? 0 : marks_.back();
  if (stack_.size() - floor >= count) return {};
  return damaged("the stack is empty");
}

Result<PickleId> PickleMachine::pop() {
  if (Status s = check_stack(1); !s) return s.error();
  const PickleId id = stack_.back();
  stack_.pop_back();
  return id;
}

Result<std::vector<PickleId>> PickleMachine::pop_to_mark() {
  if (marks_.empty()) return damaged("there is no mark");
  const auto first = stack_.begin() + static_cast<std::ptrdiff_t>(marks_.back());
  std::vector<PickleId> members(first, stack_.end());
  stack_.erase(first, stack_.end());
  marks_.pop_back();
  return members;
}

Status PickleMachine::proto() {
  auto version = number<std::uint8_t>();
  if (!version) return version.error();
  if (*version >= 2 && *version <= 5) return {};
  return refuse("found protocol " + std::to_string(*version) + ", allowed 2 to 5");
}

Status PickleMachine::frame() {
  auto size = number<std::uint64_t>();
  if (!size) return size.error();
  return {};
}

Status PickleMachine::stop() {
  stopped_ = true;
  return {};
}

Status PickleMachine::mark() {
  if (marks_.size() >= kMaxPickleMarks) {
    return Error{ErrorCode::kLimitExceeded, file_offset_ + opcode_at_, "pickle",
                 "nested deeper than " + std::to_string(kMaxPickleMarks)};
  }
  marks_.push_back(stack_.size());
  return {};
}

Status PickleMachine::none() { return push({}); }
Status PickleMachine::true_() { return push({PickleKind::kBool, 0, kNoPickle, 1}); }
Status PickleMachine::false_() { return push({PickleKind::kBool, 0, kNoPickle, 0}); }

template <class T>
Status PickleMachine::integer() {
  auto value = number<T>();
  if (!value) return value.error();
  return push_int(*value);
}

Status PickleMachine::long1() {
  auto size = number<std::uint8_t>();
  if (!size) return size.error();
  auto bytes = take(*size);
  if (!bytes) return bytes.error();
  if (bytes->size() > 8) return refuse("found an integer of " + std::to_string(*size) + " bytes, allowed 8");
  std::uint64_t value =
      !bytes->empty() && (bytes->back() & std::byte{0x80}) != std::byte{0} ? ~std::uint64_t{0} : 0;
  std::memcpy(&value, bytes->data(), bytes->size());
  return push_int(static_cast<std::int64_t>(value));
}

Status PickleMachine::binfloat() {
  auto bytes = take(8);
  if (!bytes) return bytes.error();
  return push({PickleKind::kFloat, 0, kNoPickle, 0});  // no cache needs its value
}

template <class Size>
Status PickleMachine::text() {
  auto size = number<Size>();
  if (!size) return size.error();
  auto bytes = take(*size);
  if (!bytes) return bytes.error();
  return push_text(std::string(reinterpret_cast<const char*>(bytes->data()), bytes->size()),
                   PickleKind::kText);
}

template <std::size_t kCount>
Status PickleMachine::tuple_of() {
  if (Status s = check_stack(kCount); !s) return s;
  const auto first = stack_.end() - static_cast<std::ptrdiff_t>(kCount);
  std::vector<PickleId> members(first, stack_.end());
  stack_.erase(first, stack_.end());
  return push_members(PickleKind::kTuple, std::move(members));
}

Status PickleMachine::tuple() {
  auto members = pop_to_mark();
  if (!members) return members.error();
  return push_members(PickleKind::kTuple, std::move(*members));
}

/// Adds members to the container on the stack's top.
Status PickleMachine::extend(PickleKind kind, std::vector<PickleId> members) {
  if (Status s = check_stack(1); !s) return s;
  const PickleNode& node = values_.nodes[stack_.back()];
  if (node.kind != kind) {
    return damaged("found a " + std::string(name_of(node.kind)) + ", expected a " +
                   std::string(name_of(kind)));
  }
  if (kind == PickleKind::kDict && members.size() % 2 != 0) return damaged("a key has no value");
  auto& all = values_.sequences[node.index];
  all.insert(all.end(), members.begin(), members.end());
  return {};
}

Status PickleMachine::append() {
  auto member = pop();
  if (!member) return member.error();
  return extend(PickleKind::kList, {*member});
}

Status PickleMachine::appends() {
  auto members = pop_to_mark();
  if (!members) return members.error();
  return extend(PickleKind::kList, std::move(*members));
}

Status PickleMachine::setitem() {
  auto value = pop();
  if (!value) return value.error();
  auto key = pop();
  if (!key) return key.error();
  return extend(PickleKind::kDict, {*key, *value});
}

Status PickleMachine::setitems() {
  auto members = pop_to_mark();
  if (!members) return members.error();
  return extend(PickleKind::kDict, std::move(*members));
}

Status PickleMachine::memo(std::uint32_t index) {
  if (Status s = check_stack(1); !s) return s;
  if (memo_.size() >= kMaxPickleMemo) {
    return Error{ErrorCode::kLimitExceeded, file_offset_ + opcode_at_, "pickle",
                 "more than " + std::to_string(kMaxPickleMemo) + " memo entries"};
  }
  memo_[index] = stack_.back();
  return {};
}

template <class Index>
Status PickleMachine::put() {
  auto index = number<Index>();
  if (!index) return index.error();
  return memo(*index);
}

Status PickleMachine::memoize() { return memo(static_cast<std::uint32_t>(memo_.size())); }

template <class Index>
Status PickleMachine::get() {
  auto index = number<Index>();
  if (!index) return index.error();
  const auto found = memo_.find(*index);
  if (found == memo_.end()) return damaged("memo entry " + std::to_string(*index) + " was never made");
  stack_.push_back(found->second);
  return {};
}

/// One of pickle's opcodes; run is null for those that a cache does not need.
struct PickleMachine::Opcode {
  unsigned char code;
  Status (PickleMachine::*run)();
};

const PickleMachine::Opcode* PickleMachine::opcode(std::byte code) {
  using M = PickleMachine;
  static constexpr Opcode kOpcodes[] = {
      {0x80, &M::proto},
      {0x95, &M::frame},
      {'.', &M::stop},
      {'(', &M::mark},
      {'N', &M::none},
      {0x88, &M::true_},
      {0x89, &M::false_},
      {'J', &M::integer<std::int32_t>},
      {'K', &M::integer<std::uint8_t>},
      {'M', &M::integer<std::uint16_t>},
      {0x8a, &M::long1},
      {'G', &M::binfloat},
      {'X', &M::text<std::uint32_t>},
      {0x8c, &M::text<std::uint8_t>},
      {0x8d, &M::text<std::uint64_t>},
      {')', &M::empty_tuple},
      {']', &M::empty_list},
      {'}', &M::empty_dict},
      {0x85, &M::tuple_of<1>},
      {0x86, &M::tuple_of<2>},
      {0x87, &M::tuple_of<3>},
      {'t', &M::tuple},
      {'a', &M::append},
      {'e', &M::appends},
      {'s', &M::setitem},
      {'u', &M::setitems},
      {'q', &M::put<std::uint8_t>},
      {'r', &M::put<std::uint32_t>},
      {0x94, &M::memoize},
      {'h', &M::get<std::uint8_t>},
      {'j', &M::get<std::uint32_t>},
      {'c', &M::global},
      {0x93, &M::stack_global},
      {'Q', &M::persistent_id},
      {'R', &M::reduce},
      {0x81, &M::newobj},
      {'b', &M::build},
  };
  for (const Opcode& op : kOpcodes) {
    if (op.code == static_cast<unsigned char>(code)) return &op;
  }
  return nullptr;
}

Status PickleMachine::step() {
  opcode_at_ = at_;
  auto code = take(1);
  if (!code) return code.error();
  const Opcode* op = opcode((*code)[0]);
  if (op != nullptr) return (this->*op->run)();
  const auto byte = static_cast<unsigned char>((*code)[0]);
  const std::string_view name = pickle_opcode_name(byte);
  if (name.empty()) return damaged("byte " + std::to_string(byte) + " is no opcode");
  return refuse("opcode " + std::string(name) +
                " is refused: torch.save needs none such for tensors and plain containers");
}

Result<PickleId> PickleMachine::run() {
  while (!stopped_) {
    if (Status s = step(); !s) return s.error();
  }
  if (stack_.size() != 1 || !marks_.empty()) {
    return damaged(std::to_string(stack_.size()) + " values are left at its end, expected 1");
  }
  return stack_.back();
}

}  // namespace cachecard::pytorch
