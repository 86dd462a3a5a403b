#pragma once

#include <span>
#include <unordered_map>

#include "cachecard/error.hpp"
#include "pickle_values.hpp"

namespace cachecard::pytorch {

/// Bounds of one pickle. A cache of 200 layers has 60 KB and 10,000 values.
inline constexpr std::uint64_t kMaxPickleBytes = 16u << 20;
inline constexpr std::size_t kMaxPickleNodes = 1u << 21;
inline constexpr std::size_t kMaxPickleMemo = 1u << 20;
inline constexpr std::size_t kMaxPickleMarks = 1000;

/// A stack machine over the opcodes and names that torch.save needs for tensors and containers.
/// It calls nothing: a name outside pickle_names is refused where it stands, and REDUCE, NEWOBJ and
/// BUILD only make data. Time and memory grow with the pickle's size only.
class PickleMachine {
 public:
  /// file_offset: of bytes[0], for messages. Owns: nothing; bytes and values must outlive it.
  PickleMachine(std::span<const std::byte> bytes, std::uint64_t file_offset, PickleValues& values)
      : bytes_(bytes), file_offset_(file_offset), values_(values) {}

  /// Runs to STOP and returns the value that is left.
  /// Errors: foreign_input (naming the opcode or name), truncated, corrupt, limit_exceeded
  Result<PickleId> run();
  /// Bytes used by run().
  std::size_t consumed() const { return at_; }

  struct Opcode;

 private:
  Status step();
  Error refuse(std::string detail) const;
  Error damaged(std::string detail) const;
  Result<std::span<const std::byte>> take(std::uint64_t size);
  template <class T>
  Result<T> number();
  Result<std::string> line();

  Result<PickleId> make(PickleNode node);
  Status push(PickleNode node);
  Status push_int(std::int64_t value) { return push({PickleKind::kInt, 0, kNoPickle, value}); }
  Status push_text(std::string text, PickleKind kind);
  Status push_members(PickleKind kind, std::vector<PickleId> members);
  Result<PickleId> pop();
  Result<std::vector<PickleId>> pop_to_mark();
  Status check_stack(std::size_t count) const;

  // Opcodes.
  Status proto();
  Status frame();
  Status stop();
  Status mark();
  Status none();
  Status true_();
  Status false_();
  template <class T>
  Status integer();
  Status long1();
  Status binfloat();
  template <class Size>
  Status text();
  Status empty_tuple() { return push_members(PickleKind::kTuple, {}); }
  Status empty_list() { return push_members(PickleKind::kList, {}); }
  Status empty_dict() { return push_members(PickleKind::kDict, {}); }
  template <std::size_t kCount>
  Status tuple_of();
  Status tuple();
  Status append();
  Status appends();
  Status setitem();
  Status setitems();
  Status extend(PickleKind kind, std::vector<PickleId> members);
  template <class Index>
  Status put();
  Status memoize();
  Status memo(std::uint32_t index);
  template <class Index>
  Status get();
  Status global();
  Status stack_global();
  Status name(const std::string& module, const std::string& attribute);
  Status persistent_id();
  Status reduce();
  Status rebuild_tensor(const std::vector<PickleId>& arguments);
  Result<std::vector<std::uint64_t>> counts(PickleId id, const char* what) const;
  Status newobj();
  Status build();

  static const Opcode* opcode(std::byte code);

  std::span<const std::byte> bytes_;
  std::uint64_t file_offset_;
  PickleValues& values_;
  std::size_t at_ = 0;
  std::size_t opcode_at_ = 0;
  bool stopped_ = false;
  std::vector<PickleId> stack_;
  std::vector<std::size_t> marks_;
  std::unordered_map<std::uint32_t, PickleId> memo_;
};

}  // namespace cachecard::pytorch
