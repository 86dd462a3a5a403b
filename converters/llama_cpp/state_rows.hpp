#pragma once

#include "cachecard/io.hpp"
#include "state_file.hpp"
#include "token_order.hpp"

namespace cachecard::llama_cpp {

/// Tokens of an order, counted from its first.
struct RowRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;
};

/// Rows of tokens out of a tensor stored cell by cell: one read for each run of neighbouring cells.
/// Needs: rows inside order, out holds rows.count x tensor.row_bytes. Errors: truncated, io
Status read_cell_rows(const ByteSource& source, const TensorBlock& tensor, const TokenOrder& order,
                      RowRange rows, std::span<std::byte> out);

/// The same out of a tensor stored channel by channel (v_trans): gathers, a few channels at a time.
Status read_channel_rows(const ByteSource& source, const TensorBlock& tensor, const TokenOrder& order,
                         std::uint64_t cell_count, RowRange rows, std::span<std::byte> out);

}  // namespace cachecard::llama_cpp
