#include <algorithm>

#include "card_literals.hpp"
#include "row_writer.hpp"
#include "state_writer.hpp"

namespace cachecard::llama_cpp {
namespace {

/// Runs of each order by token, with the cell where each begins.
struct CellOrder {
  std::vector<CellRun> runs;
  std::uint64_t cell_count = 0;
};

std::vector<CellOrder> cell_orders(const SourceLayout& layout) {
  std::vector<CellOrder> orders(layout.record.order_count);
  for (const OrderRun& run : layout.order_runs) {
    CellOrder& order = orders[run.order];
    order.runs.push_back({run.first_token, run.token_count, order.cell_count});
    order.cell_count += run.token_count;
  }
  for (auto& order : orders) {
    std::sort(order.runs.begin(), order.runs.end(),
              [](const CellRun& a, const CellRun& b) { return a.first_token < b.first_token; });
  }
  return orders;
}

/// Every cell once: a recipe that leaves bytes unwritten or writes them twice is no recipe. A stream may hold tokens before
/// those of the file: whole chunks of the card that was extended.
Status check_order(const CellOrder& order, const StreamRecord& stream) {
  std::uint64_t next = order.runs.empty() ? stream.first_token : std::max(order.runs.front().first_token, stream.first_token);
  for (const CellRun& run : order.runs) {
    if (run.first_token != next) {
      return Error{ErrorCode::kCorrupt, kNoOffset, "order_run.first_token",
                   "found " + std::to_string(run.first_token) + ", expected " + std::to_string(next)};
    }
    next += run.token_count;
  }
  if (next == stream.first_token + stream.token_count) return {};
  return Error{ErrorCode::kCorrupt, kNoOffset, "order_run.token_count",
               "the cells do not hold the stream's tokens"};
}

Result<RowTarget> row_target(const CardReader& card, const SourceOperation& operation, std::uint64_t offset,
                             const std::vector<CellOrder>& orders) {
  const auto stream = card.header().stream_index(operation.layer, static_cast<StreamKind>(operation.stream));
  if (!stream || operation.order >= orders.size()) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "source_operation.stream", "no such stream"};
  }
  const CellOrder& order = orders[operation.order];
  auto status = check_order(order, card.header().streams[*stream]);
  if (!status) return status.error();
  RowTarget target;
  target.stream = *stream;
  target.offset = offset;
  target.cell_count = order.cell_count;
  target.form.dtype = static_cast<DType>(card.header().streams[*stream].dtype);
  target.form.hadamard_size = card.header().streams[*stream].hadamard_size;
  target.transposed = operation.transposed != 0;
  target.runs = &order.runs;
  return target;
}

}  // namespace

Result<StateWriteReport> restore_source(const CardReader& card, RandomSink& sink,
                                        const StateWriteOptions& options) {
  auto layout = card.source_layout();
  if (!layout) return layout.error();
  if (!*layout) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "source_layout",
                 "the card does not keep its source's layout (--no-source-layout, or an edit)"};
  }
  const SourceLayout& recipe = **layout;
  if (recipe.record.family != static_cast<std::uint16_t>(SourceFamily::kLlamaCpp)) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "source_layout.family",
                 "the card was not made from a llama.cpp state"};
  }
  auto status = sink.reserve(recipe.record.file_size);
  if (!status) return status.error();
  const auto orders = cell_orders(recipe);
  const CardLiterals literals(card);
  std::uint64_t literal_offset = 0;
  std::vector<RowTarget> targets;
  std::uint64_t offset = 0;
  for (const SourceOperation& operation : recipe.operations) {
    const auto op = static_cast<SourceOp>(operation.operation);
    if (op == SourceOp::kLiteral) {
      status = literals.copy(literal_offset, operation.size, sink, offset);
      literal_offset += operation.size;
    } else if (op == SourceOp::kOpaque) {
      const auto stream = card.header().stream_index(operation.layer, StreamKind::kOpaque);
      status =
          stream
              ? write_opaque(card, *stream, offset, sink)
              : Status(Error{ErrorCode::kCorrupt, kNoOffset, "source_operation.stream", "no opaque stream"});
    } else {
      auto target = row_target(card, operation, offset, orders);
      if (!target) return target.error();
      targets.push_back(*target);
    }
    if (!status) return status.error();
    offset += operation.size;
  }
  auto rows = write_rows(card, targets, sink, options, false);
  if (!rows) return rows.error();
  StateWriteReport report;
  report.file_size = offset;
  report.token_count = card.header().token_count;
  report.next_position = card.header().next_position;
  return report;
}

}  // namespace cachecard::llama_cpp
