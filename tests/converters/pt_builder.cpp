#include "pt_builder.hpp"

#include "torch/zip_writer.hpp"

namespace cachecard::pytorch::testing {
namespace {

template <class T>
std::string raw(T value) {
  return std::string(reinterpret_cast<const char*>(&value), sizeof(value));
}

}  // namespace

std::vector<std::byte> zip_of(const Files& files) {
  MemorySink sink;
  ZipWriter zip(sink);
  for (const auto& [name, bytes] : files) {
    if (!zip.add(name, std::as_bytes(std::span(bytes)))) return {};
  }
  if (!zip.finish()) return {};
  return sink.bytes();
}

std::string pickle_of(std::string_view body) { return "\x80\x02" + std::string(body) + "."; }

std::vector<std::byte> pt_of(std::string_view body, const std::vector<std::string>& storages) {
  Files files{{"archive/data.pkl", pickle_of(body)}};
  for (std::size_t i = 0; i < storages.size(); ++i) {
    files.emplace_back("archive/data/" + std::to_string(i), storages[i]);
  }
  files.emplace_back("archive/version", "3\n");
  return zip_of(files);
}

std::string text(std::string_view value) {
  return "X" + raw(static_cast<std::uint32_t>(value.size())) + std::string(value);
}

std::string number(std::int64_t value) { return "\x8a\x08" + raw(value); }

std::string global(std::string_view module, std::string_view name) {
  return "c" + std::string(module) + "\n" + std::string(name) + "\n";
}

std::string numbers(const std::vector<std::int64_t>& values) {
  std::string body = "(";
  for (const std::int64_t value : values) body += number(value);
  return body + "t";
}

std::string storage(std::string_view type, std::string_view key, std::int64_t count) {
  return "(" + text("storage") + global("torch", type) + text(key) + text("cpu") + number(count) + "tQ";
}

std::string tensor(const View& view) {
  return global("torch._utils", "_rebuild_tensor_v2") + "(" + storage(view.type, view.key, view.count) +
         number(view.offset) + numbers(view.sizes) + numbers(view.strides) + "\x89" +
         global("collections", "OrderedDict") + ")RtR";
}

std::string tensor(std::string_view type, std::string_view key, const std::vector<std::int64_t>& sizes) {
  View view;
  view.type = type;
  view.key = key;
  view.sizes = sizes;
  view.strides.resize(sizes.size());
  view.count = 1;
  for (std::size_t i = sizes.size(); i-- > 0;) {
    view.strides[i] = view.count;
    view.count *= sizes[i];
  }
  return tensor(view);
}

std::string tuple(const std::vector<std::string>& members) {
  std::string body = "(";
  for (const std::string& member : members) body += member;
  return body + "t";
}

std::string dict(const std::vector<std::pair<std::string, std::string>>& items) {
  std::string body = "}(";
  for (const auto& [key, value] : items) body += text(key) + value;
  return body + "u";
}

}  // namespace cachecard::pytorch::testing
