#include "state_rows.hpp"

#include <algorithm>
#include <cstring>

namespace cachecard::llama_cpp {
namespace {

/// Cells [first, last] that the tokens of a range lie in.
struct CellSpan {
  std::uint64_t first;
  std::uint64_t count;
};

CellSpan span_of(const TokenOrder& order, RowRange rows) {
  if (order.cell_of_token.empty()) return {rows.first, rows.count};
  const auto begin = order.cell_of_token.begin() + static_cast<std::ptrdiff_t>(rows.first);
  const auto [low, high] = std::minmax_element(begin, begin + static_cast<std::ptrdiff_t>(rows.count));
  return {*low, std::uint64_t{*high} - *low + 1};
}

template <class Element>
void scatter_channel(const std::byte* cells, const TokenOrder& order, RowRange rows, std::uint64_t first_cell,
                     std::size_t stride, std::byte* out) {
  for (std::uint64_t i = 0; i < rows.count; ++i) {
    const std::uint64_t cell = order.cell(rows.first + i) - first_cell;
    std::memcpy(out + i * stride, cells + cell * sizeof(Element), sizeof(Element));
  }
}

}  // namespace

Status read_cell_rows(const ByteSource& source, const TensorBlock& tensor, const TokenOrder& order,
                      RowRange rows, std::span<std::byte> out) {
  for (std::uint64_t done = 0; done < rows.count;) {
    const std::uint64_t cell = order.cell(rows.first + done);
    std::uint64_t count = 1;
    if (order.cell_of_token.empty()) {
      count = rows.count;
    } else {
      while (done + count < rows.count && order.cell(rows.first + done + count) == cell + count) {
        ++count;
      }
    }
    auto status = source.read_at(tensor.data_offset + cell * tensor.row_bytes,
                                 out.subspan(done * tensor.row_bytes, count * tensor.row_bytes));
    if (!status) return status;
    done += count;
  }
  return {};
}

Status read_channel_rows(const ByteSource& source, const TensorBlock& tensor, const TokenOrder& order,
                         std::uint64_t cell_count, RowRange rows, std::span<std::byte> out) {
  if (rows.count == 0) return {};
  const std::uint64_t element_bytes = dtype_info(tensor.dtype)->block_bytes;
  const std::uint64_t channels = tensor.row_bytes / element_bytes;
  const CellSpan cells = span_of(order, rows);
  std::vector<std::byte> channel(cells.count * element_bytes);
  for (std::uint64_t j = 0; j < channels; ++j) {
    const std::uint64_t offset = tensor.data_offset + (j * cell_count + cells.first) * element_bytes;
    auto status = source.read_at(offset, channel);
    if (!status) return status;
    std::byte* target = out.data() + j * element_bytes;
    if (element_bytes == 2) {
      scatter_channel<std::uint16_t>(channel.data(), order, rows, cells.first, tensor.row_bytes, target);
    } else {
      scatter_channel<std::uint32_t>(channel.data(), order, rows, cells.first, tensor.row_bytes, target);
    }
  }
  return {};
}

}  // namespace cachecard::llama_cpp
