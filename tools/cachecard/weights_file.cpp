#include "weights_file.hpp"

#include <cmath>
#include <cstring>
#include <regex>

#include "span_file.hpp"

namespace cachecard::cli {
namespace {

constexpr std::string_view kMagic{"\x93NUMPY", 6};
constexpr std::size_t kMostHeader = 4096;

/// What the header of a .npy says. source: NumPy Enhancement Proposal 1, "A Simple File Format for NumPy Arrays"
struct NpyHeader {
  std::uint64_t rows = 1;
  std::uint64_t last = 0;
  std::size_t item_size = 4;
  std::uint64_t data_offset = 0;
};

class NpyFile {
 public:
  explicit NpyFile(std::string name) : name_(std::move(name)) {}
  Result<NpyHeader> read_header(const ByteSource& file) const;
  Error wrong(std::string detail) const { return usage_error(fmt::format("{}: {}", name_, detail)); }

 private:
  Result<NpyHeader> parse_text(const std::string& text) const;
  std::string name_;
};

Result<NpyHeader> NpyFile::parse_text(const std::string& text) const {
  static const std::regex kDescr(R"('descr': *'([^']*)')");
  static const std::regex kOrder(R"('fortran_order': *(True|False))");
  static const std::regex kShape(R"('shape': *\(([0-9, ]*)\))");
  std::smatch descr, order, shape;
  if (!std::regex_search(text, descr, kDescr) || !std::regex_search(text, order, kOrder) ||
      !std::regex_search(text, shape, kShape)) {
    return wrong("its header is not one of a plain array");
  }
  NpyHeader header;
  if (descr[1] != "<f4" && descr[1] != "<f8" && descr[1] != "|i1") {
    return wrong(fmt::format("found type '{}', allowed are f32, f64 and i8 (<f4, <f8, |i1)", descr[1].str()));
  }
  header.item_size = descr[1] == "<f8" ? 8 : descr[1] == "<f4" ? 4 : 1;
  std::vector<std::uint64_t> sizes;
  const std::string numbers = shape[1];
  for (const std::string_view part : split(numbers, ',')) {
    if (part.empty()) continue;
    const auto size = number<std::uint64_t>(part);
    if (!size || *size > std::uint64_t{1} << 32) return wrong(fmt::format("found the shape ({})", shape[1].str()));
    sizes.push_back(*size);
  }
  if (sizes.empty()) return wrong("found a single number, allowed are arrays");
  if (order[1] == "True" && sizes.size() > 1) return wrong("found Fortran order, allowed is C order");
  header.last = sizes.back();
  for (std::size_t i = 0; i + 1 < sizes.size(); ++i) {
    header.rows *= sizes[i];
    if (header.rows > std::uint64_t{1} << 32) return wrong(fmt::format("found the shape ({})", shape[1].str()));
  }
  return header;
}

Result<NpyHeader> NpyFile::read_header(const ByteSource& file) const {
  std::array<std::byte, 12> start{};
  if (file.size() < start.size()) return wrong("it is no .npy file");
  if (Status s = file.read_at(0, start); !s) return s.error();
  if (std::memcmp(start.data(), kMagic.data(), kMagic.size()) != 0) return wrong("it is no .npy file");
  const auto byte = [&](std::size_t i) { return static_cast<std::size_t>(start[i]); };
  const bool is_long = byte(6) >= 2;
  const std::size_t size = is_long ? byte(8) | byte(9) << 8 | byte(10) << 16 | byte(11) << 24 : byte(8) | byte(9) << 8;
  const std::size_t at = is_long ? 12 : 10;
  if (byte(6) < 1 || byte(6) > 3 || size > kMostHeader || at + size > file.size()) return wrong("its header is not one of a plain array");
  std::string text(size, '\0');
  if (Status s = file.read_at(at, std::as_writable_bytes(std::span(text))); !s) return s.error();
  auto header = parse_text(text);
  if (header) header->data_offset = at + size;
  return header;
}

}  // namespace

Result<WeightsFile> read_weights(const std::string& path, std::uint64_t token_count, std::uint64_t most_rows,
                                  const std::string& name) {
  const NpyFile npy(name.empty() ? "--weights " + path : name);
  auto file = open_file(path);
  if (!file) return Error{file.error().code, kNoOffset, {}, npy.wrong(file.error().detail).detail};
  auto header = npy.read_header(**file);
  if (!header) return header.error();
  if (header->last != token_count) {
    return npy.wrong(fmt::format("found {} tokens, the cache has {}", header->last, token_count));
  }
  if (header->rows != 1 && header->rows != most_rows) {
    return npy.wrong(fmt::format("found {} rows, allowed are 1 and {}, one for each layer's KV head", header->rows, most_rows));
  }
  const std::uint64_t count = header->rows * header->last;
  if ((*file)->size() - header->data_offset != count * header->item_size) {
    return npy.wrong(fmt::format("found {} bytes of numbers, its header says {}", (*file)->size() - header->data_offset,
                                 count * header->item_size));
  }
  std::vector<std::byte> bytes(count * header->item_size);
  if (Status s = (*file)->read_at(header->data_offset, bytes); !s) return s.error();
  WeightsFile read{{header->rows, header->last, std::vector<float>(count)}, header->item_size == 1};
  for (std::size_t i = 0; i < count; ++i) {
    double wide = 0.0;
    if (header->item_size == 8) std::memcpy(&wide, bytes.data() + 8 * i, 8);
    if (header->item_size == 4) std::memcpy(&read.weights.values[i], bytes.data() + 4 * i, 4);
    if (read.half_bits) read.weights.values[i] = static_cast<std::int8_t>(bytes[i]);
    if (header->item_size == 8) read.weights.values[i] = static_cast<float>(wide);
    const float value = read.weights.values[i];
    if (read.half_bits ? value >= -7.0f && value <= 8.0f : std::isfinite(value) && value >= 0.0f) continue;
    return npy.wrong(fmt::format("row {}, token {}: found {}, allowed are {}", i / header->last, i % header->last, value,
                                 read.half_bits ? "-7 to 8 half bits" : "finite numbers from 0 on"));
  }
  return read;
}

}  // namespace cachecard::cli
