#pragma once

#include <span>
#include <string>
#include <string_view>

#include "pickle_values.hpp"

namespace cachecard::pytorch {

/// Writes a pickle (protocol 2) of tensors and plain containers, as torch.load takes it with
/// weights_only: no opcode and no name but those of torch.save.
class PickleWriter {
 public:
  PickleWriter();
  void begin_dict();
  void end_dict();
  void begin_list();
  void end_list();
  void text(std::string_view text);  ///< Needs: under 2^32 bytes
  void integer(std::int32_t value);
  /// A contiguous tensor that has a storage of its own.
  void tensor(Element element, std::string_view storage_key, std::span<const std::uint64_t> sizes);
  /// Ends the pickle.
  std::string finish();

 private:
  void op(char code);
  void name(std::string_view module, std::string_view attribute);
  void count(std::uint64_t value);
  void counts(std::span<const std::uint64_t> values);
  std::string bytes_;
};

}  // namespace cachecard::pytorch
