#include "state_writer.hpp"

#include <algorithm>
#include <cstring>
#include <sstream>

#include "row_writer.hpp"
#include "state_plan.hpp"

namespace cachecard::llama_cpp {
namespace {

constexpr std::uint64_t kCellsAtOnce = 16384;

/// Position, one sequence, and for M-RoPE the ext that text tokens have: x = y = position.
void store_cell(const CellTable& table, const StatePlan& plan, std::uint64_t token, std::byte* out) {
  const std::uint32_t one = 1;
  const std::int32_t position = plan.positions[token];
  std::memcpy(out, &position, 4);
  std::memcpy(out + 4, &one, 4);
  out += 8;
  if (table.cell_ext) {
    const std::int32_t ext[3] = {position, position, plan.token_ids[token]};
    std::memcpy(out, ext, sizeof(ext));
    out += sizeof(ext);
  }
  std::memcpy(out, &table.sequence, 4);
}

Status write_cells(const StatePlan& plan, const CellTable& table, RandomSink& sink) {
  const std::size_t stride = table.cell_ext ? 24 : 12;
  std::vector<std::byte> bytes(std::min(table.token_count, kCellsAtOnce) * stride);
  for (std::uint64_t done = 0; done < table.token_count;) {
    const auto count = std::min(table.token_count - done, kCellsAtOnce);
    for (std::uint64_t i = 0; i < count; ++i) {
      store_cell(table, plan, table.first_token + done + i, bytes.data() + i * stride);
    }
    auto status = sink.write_at(table.offset + done * stride, std::span(bytes).first(count * stride));
    if (!status) return status;
    done += count;
  }
  return {};
}

Status write_frame_of(const StatePlan& plan, RandomSink& sink) {
  auto status = sink.reserve(plan.file_size);
  for (std::size_t i = 0; i < plan.pieces.size() && status; ++i) {
    status = sink.write_at(plan.pieces[i].offset, plan.pieces[i].bytes);
  }
  for (std::size_t i = 0; i < plan.cells.size() && status; ++i) {
    status = write_cells(plan, plan.cells[i], sink);
  }
  return status;
}

/// A card that lacks the table says so before anything is written.
Status check_turns(const CardReader& card, std::int64_t shift) {
  for (const StreamRecord& stream : card.header().streams) {
    const auto state = static_cast<RopeState>(stream.rope_state);
    const bool turns = state == RopeState::kPreRope || (state == RopeState::kPostRope && shift != 0);
    if (!turns || card.find(SectionType::kRopeTable)) continue;
    return Error{ErrorCode::kNotRestorable, kNoOffset, "rope_table",
                 "keys turn to other positions only through a RoPE table, which the card lacks"};
  }
  return {};
}

Result<RowReport> write_regions(const CardReader& card, const StatePlan& plan, RandomSink& sink,
                                RopePairing pairing, const StateWriteOptions& options) {
  std::vector<std::vector<CellRun>> runs;
  runs.reserve(plan.regions.size());  // targets point into it
  std::vector<RowTarget> targets;
  for (const auto& region : plan.regions) {
    runs.push_back({{region.first_token, region.token_count, 0}});
    targets.push_back({region.stream,
                       region.offset,
                       region.token_count,
                       {region.dtype, region.hadamard_size, options.position_shift, pairing},
                       region.transposed,
                       &runs.back()});
  }
  return write_rows(card, targets, sink, options, true);
}

Status write_checkpoints(const CardReader& card, const StatePlan& plan, RandomSink& sink) {
  if (plan.checkpoints.empty()) return {};
  const CardLiterals literals(card);
  Status status;
  for (std::size_t i = 0; i < plan.checkpoints.size() && status; ++i) {
    status = literals.copy(plan.checkpoints[i].literal_offset, plan.checkpoints[i].size, sink,
                           plan.checkpoint_offsets[i]);
  }
  return status;
}

/// llama-server rereads a prompt whose window state has neither spare tokens nor a checkpoint.
void add_window_note(const StatePlan& plan, const CardReader& card, const StateTemplate& target,
                     StateWriteReport& report) {
  if (!plan.checkpoints.empty()) {
    report.notes.push_back(std::to_string(plan.checkpoints.size()) +
                           " context checkpoints of the source were taken over");
    return;
  }
  if (!target.server_blob) return;
  for (const auto& region : plan.regions) {
    const std::uint32_t window = card.header().streams[region.stream].window;
    if (window == 0 || region.first_token == 0 || region.token_count >= window + 2u) continue;
    report.notes.emplace_back(
        "the card has no token before its window and no context checkpoint: llama-server will "
        "read the whole prompt again");
    return;
  }
}

std::string spell(DType dtype, std::uint32_t hadamard_size) {
  return std::string(name_of(dtype)) + (hadamard_size > 1 ? " (rotated)" : "");
}

void add_notes(const StatePlan& plan, const CardReader& card, const RowReport& rows,
               StateWriteReport& report) {
  const std::uint64_t all = card.header().token_count;
  if (report.token_count < all) {
    report.notes.push_back("the first " + std::to_string(report.token_count) + " of " + std::to_string(all) +
                           " tokens were written");
  }
  for (const auto& region : plan.regions) {
    const StreamRecord& stream = card.header().streams[region.stream];
    const auto from = static_cast<DType>(stream.dtype);
    if (from == region.dtype && stream.hadamard_size == region.hadamard_size) continue;
    std::ostringstream note;
    note << spell(from, stream.hadamard_size) << " was converted to "
         << spell(region.dtype, region.hadamard_size) << ", largest difference " << rows.max_conversion_loss;
    report.notes.push_back(note.str());
    break;
  }
  if (rows.nonfinite_values != 0) {
    report.notes.push_back(std::to_string(rows.nonfinite_values) +
                           " values are NaN or infinite; the target takes them and answers NaN");
  }
  if (plan.opaque_size != 0) {
    report.notes.emplace_back("opaque state: what the target expects of it was not checked");
  }
}

}  // namespace

Result<StateWriteReport> write_state(const CardReader& card, const StateTemplate& target, RandomSink& sink,
                                     const StateWriteOptions& options) {
  StateWriteReport report;
  report.token_count = options.token_count != 0 ? options.token_count : card.header().token_count;
  auto plan = plan_state(card, target, report.token_count, options.position_shift);
  if (!plan) return plan.error();
  auto status = check_turns(card, options.position_shift);
  if (!status) return status.error();
  status = write_frame_of(*plan, sink);
  if (!status) return status.error();
  auto rows = write_regions(card, *plan, sink, target_pairing(card.header(), target), options);
  if (!rows) return rows.error();
  if (plan->opaque_size != 0) {
    status = write_opaque(card, 0, plan->opaque_offset, sink);
    if (!status) return status.error();
  }
  status = write_checkpoints(card, *plan, sink);
  if (!status) return status.error();
  report.file_size = plan->file_size;
  report.next_position = report.token_count == card.header().token_count
                             ? card.header().next_position + options.position_shift
                             : plan->positions.back() + std::int64_t{1};
  report.nonfinite_values = rows->nonfinite_values;
  report.max_conversion_loss = rows->max_conversion_loss;
  add_notes(*plan, card, *rows, report);
  add_window_note(*plan, card, target, report);
  return report;
}

}  // namespace cachecard::llama_cpp
