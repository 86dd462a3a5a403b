#include <algorithm>

#include "base/bytes.hpp"
#include "base/checked.hpp"
#include "cachecard/card.hpp"
#include "format/record_check.hpp"

namespace cachecard {
namespace {

Result<SourceLayoutHeader> load_record(std::span<const std::byte> payload) {
  if (payload.size() < encoded_size<SourceLayoutHeader>()) {
    return Error{ErrorCode::kBadSize, kNoOffset, "source_layout", "shorter than its record"};
  }
  const auto record = load<SourceLayoutHeader>(payload);
  if (record.record_size != encoded_size<SourceLayoutHeader>()) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &SourceLayoutHeader::record_size,
                       found_allowed(record.record_size, "64"));
  }
  if (Status s = check_reserved(record, kNoOffset); !s) return s.error();
  if (record.v_transposed > 1) {
    return field_error(ErrorCode::kBadEnum, kNoOffset, &SourceLayoutHeader::v_transposed,
                       found_allowed(record.v_transposed, "0 or 1"));
  }
  const auto run_bytes = checked_mul(record.order_run_count, encoded_size<OrderRun>());
  const std::uint64_t operation_bytes =
      std::uint64_t{record.operation_count} * encoded_size<SourceOperation>();
  const std::uint64_t left = payload.size() - encoded_size<SourceLayoutHeader>();
  if (operation_bytes > left) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &SourceLayoutHeader::operation_count,
                       found_allowed(record.operation_count, "what the section holds"));
  }
  if (!run_bytes || *run_bytes != left - operation_bytes) {
    return field_error(ErrorCode::kBadSize, kNoOffset, &SourceLayoutHeader::order_run_count,
                       found_allowed(record.order_run_count, "what the section holds"));
  }
  return record;
}

/// How many cells an order has, and the tokens that they span.
struct CellOrder {
  std::uint64_t cell_count = 0;
  std::uint64_t first_token = ~std::uint64_t{0};
  std::uint64_t end_token = 0;
};

/// Cells of every order; runs must ascend by order without gaps (which bounds the orders by the runs
/// that the payload holds) and stay inside the card.
Result<std::vector<CellOrder>> count_cells(const SourceLayout& layout, const CardHeader& header) {
  std::vector<CellOrder> cells;
  std::uint32_t previous = 0;
  for (const OrderRun& run : layout.order_runs) {
    if (run.order < previous || run.order > cells.size() || run.order >= layout.record.order_count) {
      return field_error(ErrorCode::kCorrupt, kNoOffset, &OrderRun::order,
                         found_allowed(run.order, "ascending without gaps, below order_count"));
    }
    if (run.first_token >= header.token_count) {
      return field_error(ErrorCode::kCorrupt, kNoOffset, &OrderRun::first_token,
                         found_allowed(run.first_token, "below header.token_count"));
    }
    if (run.token_count == 0 || !span_within(run.first_token, run.token_count, header.token_count)) {
      return field_error(ErrorCode::kCorrupt, kNoOffset, &OrderRun::token_count,
                         "the cells leave the card");
    }
    previous = run.order;
    cells.resize(run.order + 1ull);  // grows by one at most
    CellOrder& order = cells[run.order];
    order.cell_count += run.token_count;
    order.first_token = std::min<std::uint64_t>(order.first_token, run.first_token);
    order.end_token = std::max(order.end_token, std::uint64_t{run.first_token} + run.token_count);
  }
  if (cells.size() != layout.record.order_count) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceLayoutHeader::order_count,
                       found_allowed(layout.record.order_count, std::to_string(cells.size())));
  }
  return cells;
}

Status check_rows(const SourceOperation& op, const CardHeader& header,
                  const std::vector<CellOrder>& cells) {
  const auto index = header.stream_index(op.layer, static_cast<StreamKind>(op.stream));
  const auto in_layer = [&](const StreamRecord& stream) { return stream.layer == op.layer; };
  if (std::none_of(header.streams.begin(), header.streams.end(), in_layer)) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceOperation::layer,
                       found_allowed(op.layer, "a layer of the card"));
  }
  if (!index) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceOperation::stream,
                       "the card has no such stream");
  }
  const StreamRecord& stream = header.streams[*index];
  const bool opaque = stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
  if (op.operation == static_cast<std::uint8_t>(SourceOp::kOpaque)) {
    if (opaque && op.size == stream.opaque_size) return {};
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceOperation::size,
                       found_allowed(op.size, "the opaque stream's size"));
  }
  const auto dtype = static_cast<DType>(stream.dtype);
  if (!opaque && op.order >= cells.size()) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceOperation::order,
                       found_allowed(op.order, "below order_count"));
  }
  if (opaque || op.size != checked_mul(cells[op.order].cell_count, row_bytes(stream, dtype))) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceOperation::size,
                       found_allowed(op.size, "the rows of its order"));
  }
  const CellOrder& order = cells[op.order];
  if (order.first_token < stream.first_token || order.end_token > stream.first_token + stream.token_count) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceOperation::order,
                       "cells of tokens that the stream lacks");
  }
  if (op.transposed == 1 && dtype_info(dtype)->block_elements != 1) {
    return field_error(ErrorCode::kBadEnum, kNoOffset, &SourceOperation::transposed,
                       found_allowed(op.transposed, "0 for types with blocks"));
  }
  return {};
}

Status check_operations(const SourceLayout& layout, const CardHeader& header,
                        const std::vector<CellOrder>& cells) {
  std::uint64_t total = 0;
  std::uint64_t literals = 0;
  for (const SourceOperation& op : layout.operations) {
    if (Status s = check_reserved(op, kNoOffset); !s) return s;
    if (op.operation > static_cast<std::uint8_t>(SourceOp::kOpaque)) {
      return field_error(ErrorCode::kBadEnum, kNoOffset, &SourceOperation::operation,
                         found_allowed(op.operation, "0 to 2"));
    }
    if (op.transposed > 1) {
      return field_error(ErrorCode::kBadEnum, kNoOffset, &SourceOperation::transposed,
                         found_allowed(op.transposed, "0 or 1"));
    }
    const bool literal = op.operation == static_cast<std::uint8_t>(SourceOp::kLiteral);
    if (!literal) {
      if (Status s = check_rows(op, header, cells); !s) return s;
    }
    const auto sum = checked_add(total, op.size);
    if (!sum) return Error{ErrorCode::kCorrupt, kNoOffset, "source_layout", "sizes overflow"};
    total = *sum;
    if (literal) literals += op.size;
  }
  if (literals != layout.record.literal_size) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceLayoutHeader::literal_size,
                       found_allowed(layout.record.literal_size, std::to_string(literals)));
  }
  if (total != layout.record.file_size) {
    return field_error(ErrorCode::kCorrupt, kNoOffset, &SourceLayoutHeader::file_size,
                       found_allowed(layout.record.file_size, std::to_string(total)));
  }
  return {};
}

}  // namespace

std::vector<std::byte> encode_source_layout(const SourceLayout& layout) {
  SourceLayoutHeader record = layout.record;
  record.operation_count = static_cast<std::uint32_t>(layout.operations.size());
  record.order_run_count = layout.order_runs.size();
  ByteWriter out;
  out.record(record);
  for (const SourceOperation& op : layout.operations) out.record(op);
  for (const OrderRun& run : layout.order_runs) out.record(run);
  return out.take();
}

Result<SourceLayout> parse_source_layout(std::span<const std::byte> payload, const CardHeader& header) {
  auto record = load_record(payload);
  if (!record) return record.error();
  SourceLayout layout;
  layout.record = *record;
  auto rest = payload.subspan(encoded_size<SourceLayoutHeader>());
  for (std::uint32_t i = 0; i < record->operation_count; ++i) {
    layout.operations.push_back(load<SourceOperation>(rest));
    rest = rest.subspan(encoded_size<SourceOperation>());
  }
  for (std::uint64_t i = 0; i < record->order_run_count; ++i) {
    layout.order_runs.push_back(load<OrderRun>(rest));
    rest = rest.subspan(encoded_size<OrderRun>());
  }
  auto cells = count_cells(layout, header);
  if (!cells) return cells.error();
  if (Status s = check_operations(layout, header, *cells); !s) return s.error();
  return layout;
}

}  // namespace cachecard
