#include "decoded_source.hpp"

#include <optional>

#include "facts_reader.hpp"
#include "h5_array.hpp"
#include "h5_layout.hpp"
#include "h5_write.hpp"

namespace cachecard::hdf5 {
namespace {

constexpr std::uint64_t kMaxRowBytes = 16u << 20;  ///< a card's chunk holds at least one row

Error no_rows(const std::string& what) { return {ErrorCode::kInvalidArgument, kNoOffset, what, "outside the stream"}; }

/// Invariant: values_[i] is the array of header().streams[i].
class DecodedCard final : public H5Card, public CacheSource {
 public:
  DecodedCard(H5File file, const Digest128& parent_root) : file_(std::move(file)) { parent_root_ = parent_root; }

  Status open();
  const CacheSource* values() const override { return this; }
  std::vector<std::string> left_out() const override { return facts_.left_out; }
  Result<Trailer> write_card(ByteSink&, const std::function<bool(std::uint64_t, std::uint64_t)>&) const override {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "/", "the file holds values, not a card's sections"};
  }

  const CardHeader& header() const override { return facts_.header; }
  std::span<const std::int32_t> token_ids() const override { return facts_.token_ids; }
  std::span<const std::int32_t> positions() const override { return facts_.positions; }
  const RopeTable* rope_table() const override { return facts_.rope_table ? &*facts_.rope_table : nullptr; }
  std::string_view text() const override { return facts_.text; }

  Status read_rows(std::size_t stream, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out) const override {
    if (stream >= values_.size()) return no_rows("stream");
    const H5Array& values = values_[stream];
    const StreamRecord& record = facts_.header.streams[stream];
    const bool inside = first_token >= record.first_token && token_count <= record.token_count &&
                        first_token - record.first_token <= record.token_count - token_count;
    if (is_opaque(record) || !inside || out.size() != token_count * values.grid().row_bytes()) {
      return no_rows("first_token");
    }
    return values.read_rows(first_token - record.first_token, token_count, out);
  }

  Status read_opaque(std::size_t stream, std::uint64_t offset, std::span<std::byte> out) const override {
    if (stream >= values_.size() || !is_opaque(facts_.header.streams[stream])) return no_rows("stream");
    const std::uint64_t size = values_[stream].row_count();
    if (offset > size || out.size() > size - offset) return no_rows("offset");
    return values_[stream].read_rows(offset, out.size(), out);
  }

 private:
  Status open_streams(const H5Node& root);
  Status open_stream(const H5Node& layer, StreamRecord& stream);

  H5File file_;
  FileFacts facts_;
  std::vector<H5Array> values_;
};

Status DecodedCard::open() {
  const H5Node root = root_of(file_);
  auto facts = read_file_facts(root);
  if (!facts) return facts.error();
  facts_ = std::move(*facts);
  return open_streams(root);
}

Status DecodedCard::open_streams(const H5Node& root) {
  auto layers = open_group(root, "layers");
  if (!layers) return layers.error();
  for (StreamRecord& stream : facts_.header.streams) {
    auto layer = open_group(*layers, numbered(stream.layer));
    if (!layer) return layer.error();
    if (Status s = open_stream(*layer, stream); !s) return s;
  }
  // Types and rotation are now the values': once more what a reader would say of them.
  auto encoded = encode_header(facts_.header);
  if (!encoded) return Error{encoded.error().code, kNoOffset, "/header", encoded.error().message()};
  return {};
}

Status DecodedCard::open_stream(const H5Node& layer, StreamRecord& stream) {
  auto group = open_group(layer, stream_name(stream));
  if (!group) return group.error();
  if (is_opaque(stream)) {
    const hid_t type = H5T_STD_U8LE;
    const Extent extent = exactly(stream.opaque_size);
    auto bytes = H5Array::open(*group, "bytes", {&type, 1}, {&extent, 1});
    if (!bytes) return bytes.error();
    values_.push_back(std::move(*bytes));
    return {};
  }
  const DType dtypes[] = {DType::kF32, DType::kF16, DType::kBf16};
  const Handle handles[] = {float_type(dtypes[0]), float_type(dtypes[1]), float_type(dtypes[2])};
  const hid_t types[] = {handles[0].get(), handles[1].get(), handles[2].get()};
  const Extent extents[] = {exactly(stream.token_count), exactly(stream.kv_head_count), exactly(stream.head_dim)};
  auto values = H5Array::open(*group, "values", types, extents);
  if (!values) return values.error();
  if (values->grid().row_bytes() > kMaxRowBytes) {
    return Error{ErrorCode::kLimitExceeded, kNoOffset, values->path(),
                 "found rows of " + std::to_string(values->grid().row_bytes()) + " bytes, allowed are " +
                     std::to_string(kMaxRowBytes)};
  }
  stream.dtype = static_cast<std::uint8_t>(dtypes[values->type_index()]);
  stream.hadamard_size = 1;
  values_.push_back(std::move(*values));
  return {};
}

}  // namespace

Result<std::unique_ptr<H5Card>> open_decoded_card(H5File file, const Digest128& parent_root) {
  auto card = std::make_unique<DecodedCard>(std::move(file), parent_root);
  if (Status s = card->open(); !s) return s.error();
  return std::unique_ptr<H5Card>(std::move(card));
}

}  // namespace cachecard::hdf5
