#include "pickle_writer.hpp"

#include <limits>
#include <vector>

namespace cachecard::pytorch {
namespace {

template <class T>
void put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

PickleWriter::PickleWriter() : bytes_("\x80\x02") {}

void PickleWriter::op(char code) { put(bytes_, code); }
void PickleWriter::begin_dict() { bytes_.append("}("); }
void PickleWriter::end_dict() { op('u'); }
void PickleWriter::begin_list() { bytes_.append("]("); }
void PickleWriter::end_list() { op('e'); }

void PickleWriter::text(std::string_view text) {
  op('X');
  put(bytes_, static_cast<std::uint32_t>(text.size()));
  bytes_.append(text);
}

void PickleWriter::integer(std::int32_t value) {
  op('J');
  put(bytes_, value);
}

void PickleWriter::count(std::uint64_t value) {
  if (value <= static_cast<std::uint64_t>(std::numeric_limits<std::int32_t>::max())) {
    return integer(static_cast<std::int32_t>(value));
  }
  bytes_.append("\x8a\x08");
  put(bytes_, value);
}

void PickleWriter::counts(std::span<const std::uint64_t> values) {
  op('(');
  for (const std::uint64_t value : values) count(value);
  op('t');
}

void PickleWriter::name(std::string_view module, std::string_view attribute) {
  op('c');
  bytes_.append(module);
  op('\n');
  bytes_.append(attribute);
  op('\n');
}

void PickleWriter::tensor(Element element, std::string_view storage_key,
                          std::span<const std::uint64_t> sizes) {
  std::vector<std::uint64_t> strides(sizes.size(), 1);
  std::uint64_t total = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    strides[i] = total;
    total *= sizes[i];
  }
  name("torch._utils", "_rebuild_tensor_v2");
  op('(');
  op('(');
  text("storage");
  name("torch", element_info(element).storage);
  text(storage_key);
  text("cpu");
  count(total);
  bytes_.append("tQ");
  integer(0);
  counts(sizes);
  counts(strides);
  bytes_.append("\x89");
  name("collections", "OrderedDict");
  bytes_.append(")RtR");
}

std::string PickleWriter::finish() {
  op('.');
  return std::move(bytes_);
}

}  // namespace cachecard::pytorch
