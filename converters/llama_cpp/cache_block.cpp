#include "cache_block.hpp"

#include <algorithm>
#include <array>

namespace cachecard::llama_cpp {
namespace {

// source: llama-cparams.h LLAMA_MAX_SEQ, llama-hparams.h LLAMA_MAX_LAYERS
constexpr std::uint32_t kMaxStreams = 256;
constexpr std::uint32_t kMaxLayers = 512;

struct Cell {
  std::int32_t position;
  std::uint32_t sequence_count;
  std::array<std::int32_t, 3> ext;  ///< x, y, token
  std::int32_t sequence;
};

Cell load_cell(const std::byte* bytes, bool ext) {
  Cell cell{};
  std::memcpy(&cell.position, bytes, 4);
  std::memcpy(&cell.sequence_count, bytes + 4, 4);
  if (ext) std::memcpy(cell.ext.data(), bytes + 8, 12);
  std::memcpy(&cell.sequence, bytes + (ext ? 20 : 8), 4);
  return cell;
}

/// One sequence: every cell names exactly one, and always the same.
Status check_cell(const Cell& cell, const Cell& first, const CacheShape& shape, std::uint64_t offset) {
  if (cell.sequence_count == 1 && cell.sequence == first.sequence && cell.sequence >= 0 &&
      cell.sequence < static_cast<std::int32_t>(kMaxStreams)) {
    return {};
  }
  if (cell.sequence_count == 1 && cell.sequence != first.sequence) {
    return foreign_error(offset, "cell.seq_id",
                         "the state holds several sequences (" + std::to_string(first.sequence) + " and " +
                             std::to_string(cell.sequence) + "); a card holds one");
  }
  if (cell.sequence_count > 1 && cell.sequence_count <= kMaxStreams && shape.whole_context) {
    return foreign_error(offset, "cell.n_seq_id",
                         "the state holds several sequences (a cell belongs to " +
                             std::to_string(cell.sequence_count) + "); a card holds one");
  }
  return foreign_error(offset, "cell.n_seq_id",
                       "found " + std::to_string(cell.sequence_count) + " of sequence " +
                           std::to_string(cell.sequence) + ", allowed is 1 of 0 to 255");
}

Status parse_cells(ForeignReader& reader, const CacheShape& shape, CacheBlock& block) {
  const std::size_t stride = shape.cell_ext ? 24 : 12;
  auto status = reader.expect(block.cell_count, stride, "cell_count");
  if (!status) return status;
  if (block.cell_count > Limits{}.token_count) {
    return Error{
        ErrorCode::kLimitExceeded, reader.offset(), "cell_count",
        std::to_string(block.cell_count) + " cells, allowed are " + std::to_string(Limits{}.token_count)};
  }
  block.positions.reserve(block.cell_count);
  constexpr std::size_t kCellsAtOnce = 4096;
  std::vector<std::byte> bytes(std::min<std::uint64_t>(block.cell_count, kCellsAtOnce) * stride);
  Cell first{};
  for (std::uint64_t done = 0; done < block.cell_count;) {
    const auto count = std::min<std::uint64_t>(block.cell_count - done, kCellsAtOnce);
    const std::uint64_t offset = reader.offset();
    status = reader.read(std::span(bytes).first(count * stride), "cell");
    if (!status) return status;
    for (std::uint64_t i = 0; i < count; ++i) {
      const Cell cell = load_cell(bytes.data() + i * stride, shape.cell_ext);
      if (done + i == 0) first = cell;
      status = check_cell(cell, first, shape, offset + i * stride);
      if (!status) return status;
      block.positions.push_back(cell.position);
      block.max_position = std::max<std::int64_t>(block.max_position, cell.position);
      if (!shape.cell_ext) continue;
      block.max_position = std::max<std::int64_t>({block.max_position, cell.ext[0], cell.ext[1]});
    }
    done += count;
  }
  return {};
}

Result<DType> parse_type(ForeignReader& reader) {
  const std::uint64_t offset = reader.offset();
  auto type = reader.value<std::int32_t>("type");
  if (!type) return type.error();
  if (*type >= 0 && *type < 255 && dtype_info(static_cast<DType>(*type)) != nullptr) {
    return static_cast<DType>(*type);
  }
  return foreign_error(offset, "type", std::to_string(*type) + " is no ggml type of a KV cache");
}

Status skip_data(ForeignReader& reader, const CacheBlock& block, TensorBlock& tensor) {
  const DTypeInfo& info = *dtype_info(tensor.dtype);
  if (tensor.row_bytes == 0 || tensor.row_bytes % info.block_bytes != 0) {
    return foreign_error(
        tensor.header_offset, "row_size",
        std::to_string(tensor.row_bytes) + " bytes are not whole blocks of " + std::string(info.name));
  }
  auto status = reader.expect(block.cell_count, tensor.row_bytes, "row_size");
  if (!status) return status;
  tensor.data_offset = reader.offset();
  return reader.skip(block.cell_count * tensor.row_bytes, "data");
}

Status parse_rows(ForeignReader& reader, const CacheBlock& block, std::vector<TensorBlock>& out) {
  TensorBlock tensor;
  tensor.header_offset = reader.offset();
  auto type = parse_type(reader);
  if (!type) return type.error();
  auto row_bytes = reader.value<std::uint64_t>("row_size");
  if (!row_bytes) return row_bytes.error();
  tensor.dtype = *type;
  tensor.row_bytes = *row_bytes;
  out.push_back(tensor);
  return skip_data(reader, block, out.back());
}

Status parse_channels(ForeignReader& reader, const CacheBlock& block, std::vector<TensorBlock>& out) {
  TensorBlock tensor;
  tensor.header_offset = reader.offset();
  auto type = parse_type(reader);
  if (!type) return type.error();
  auto element_bytes = reader.value<std::uint32_t>("elem_size");
  if (!element_bytes) return element_bytes.error();
  auto elements = reader.value<std::uint32_t>("n_embd_v_gqa");
  if (!elements) return elements.error();
  const DTypeInfo& info = *dtype_info(*type);
  if (info.block_elements != 1 || *element_bytes != info.block_bytes) {
    return foreign_error(
        tensor.header_offset, "elem_size",
        std::to_string(*element_bytes) + " for a transposed V of type " + std::string(info.name));
  }
  tensor.dtype = *type;
  tensor.row_bytes = std::uint64_t{*element_bytes} * *elements;
  out.push_back(tensor);
  return skip_data(reader, block, out.back());
}

Status check_rotation(std::uint32_t size, std::string_view field, std::uint64_t offset) {
  const bool power = size >= 64 && size <= (1u << 16) && (size & (size - 1)) == 0;
  if (size == 0 || power) return {};
  return foreign_error(offset, field, std::to_string(size) + ", allowed are 0 and powers of two from 64");
}

Status parse_data_header(ForeignReader& reader, const CacheShape& shape, CacheBlock& block) {
  const std::uint64_t offset = reader.offset();
  auto v_trans = reader.value<std::uint32_t>("v_trans");
  if (!v_trans) return v_trans.error();
  if (*v_trans > 1) {
    return foreign_error(offset, "v_trans", std::to_string(*v_trans) + ", allowed are 0 and 1");
  }
  block.v_trans = *v_trans == 1;
  auto n_layer = reader.value<std::uint32_t>("n_layer");
  if (!n_layer) return n_layer.error();
  if (*n_layer == 0 || *n_layer > kMaxLayers) {
    return foreign_error(offset + 4, "n_layer",
                         std::to_string(*n_layer) + ", allowed are 1 to " + std::to_string(kMaxLayers));
  }
  block.n_layer = *n_layer;
  if (shape.layout == StateLayout::k10_3) return {};
  auto n_rot_k = reader.value<std::uint32_t>("n_rot_k");
  if (!n_rot_k) return n_rot_k.error();
  auto n_rot_v = reader.value<std::uint32_t>("n_rot_v");
  if (!n_rot_v) return n_rot_v.error();
  block.n_rot_k = *n_rot_k;
  block.n_rot_v = *n_rot_v;
  auto status = check_rotation(block.n_rot_k, "n_rot_k", offset + 8);
  if (!status) return status;
  return check_rotation(block.n_rot_v, "n_rot_v", offset + 12);
}

Status parse_tensors(ForeignReader& reader, const CacheShape& shape, CacheBlock& block) {
  auto status = parse_data_header(reader, shape, block);
  if (!status) return status;
  for (std::uint32_t i = 0; i < block.n_layer; ++i) {
    status = parse_rows(reader, block, block.keys);
    if (!status) return status;
  }
  for (std::uint32_t i = 0; i < block.n_layer && !shape.key_only; ++i) {
    status =
        block.v_trans ? parse_channels(reader, block, block.values) : parse_rows(reader, block, block.values);
    if (!status) return status;
  }
  return {};
}

}  // namespace

Result<CacheBlock> parse_cache_block(ForeignReader& reader, const CacheShape& shape) {
  CacheBlock block;
  block.offset = reader.offset();
  block.cell_ext = shape.cell_ext;
  auto n_stream = reader.value<std::uint32_t>("n_stream");
  if (!n_stream) return n_stream.error();
  if (*n_stream == 0 || *n_stream > kMaxStreams) {
    return foreign_error(block.offset, "n_stream",
                         std::to_string(*n_stream) + ", allowed are 1 to " + std::to_string(kMaxStreams));
  }
  block.n_stream = *n_stream;
  for (std::uint32_t stream = 0; stream < block.n_stream; ++stream) {
    const std::uint64_t offset = reader.offset();
    auto cell_count = reader.value<std::uint32_t>("cell_count");
    if (!cell_count) return cell_count.error();
    if (*cell_count == 0) continue;
    if (block.cell_count != 0) {
      return foreign_error(offset, "cell_count",
                           "the state holds several sequences (streams " +
                               std::to_string(block.stream_index) + " and " + std::to_string(stream) +
                               " have cells); a card holds one");
    }
    block.stream_index = stream;
    block.cell_count = *cell_count;
    auto status = parse_cells(reader, shape, block);
    if (!status) return status.error();
    status = parse_tensors(reader, shape, block);
    if (!status) return status.error();
  }
  block.end_offset = reader.offset();
  return block;
}

std::vector<std::uint32_t> layers_of_cache(const ModelFacts& model, std::size_t cache_index) {
  std::vector<std::uint32_t> layers;
  for (std::uint32_t layer = 0; layer < model.layer_count; ++layer) {
    if (layer >= model.kv_head_count.size() || model.kv_head_count[layer] == 0) continue;
    const bool sliding = layer < model.layer_is_sliding.size() && model.layer_is_sliding[layer] != 0;
    if (model.module == ModelFacts::Module::kSlidingPair && sliding != (cache_index == 1)) continue;
    layers.push_back(layer);
  }
  return layers;
}

std::uint32_t rotation_of(const std::vector<std::uint32_t>& head_dims,
                          const std::vector<std::uint32_t>& layers, bool value) {
  std::uint32_t width = 0;
  for (const std::uint32_t layer : layers) {
    if (layer >= head_dims.size() || (width != 0 && head_dims[layer] != width)) return 0;
    width = head_dims[layer];
  }
  if (width == 0 || width % 64 != 0) return 0;
  return value ? 64 : width & (~width + 1);
}

}  // namespace cachecard::llama_cpp
