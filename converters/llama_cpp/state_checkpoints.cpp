#include "state_checkpoints.hpp"

#include "cache_block.hpp"
#include "state_header.hpp"

namespace cachecard::llama_cpp {
namespace {

/// Where a slot file's bytes after the state begin among the literals; size where there are none.
std::uint64_t tail_offset(const SourceLayout& layout) {
  const SourceLayoutHeader& record = layout.record;
  const bool slot = record.family == static_cast<std::uint16_t>(SourceFamily::kLlamaCpp) &&
                    record.container == static_cast<std::uint16_t>(LlamaContainer::kSequenceFile) &&
                    record.container_version == sequence_version(StateLayout::k11_4);
  if (!slot || layout.operations.empty()) return record.literal_size;
  const SourceOperation& last = layout.operations.back();
  // Streams after the one with cells still have their count of zero.
  const std::uint64_t counts = record.stream_index < record.stream_count
                                   ? std::uint64_t{4} * (record.stream_count - 1 - record.stream_index)
                                   : 0;
  const bool literal = last.operation == static_cast<std::uint8_t>(SourceOp::kLiteral);
  if (!literal || last.size <= counts) return record.literal_size;
  return record.literal_size - last.size + counts;
}

/// A partial state of a pair is its window cache alone.
bool fits(const CacheBlock& block, const StateTemplate::Cache& cache) {
  if (block.cell_count == 0 || block.n_stream != cache.n_stream || block.v_trans != cache.v_trans ||
      block.n_rot_k != cache.n_rot_k || block.n_rot_v != cache.n_rot_v ||
      block.keys.size() != cache.key_types.size() || block.values.size() != cache.value_types.size()) {
    return false;
  }
  for (std::size_t i = 0; i < block.keys.size(); ++i) {
    if (block.keys[i].dtype != cache.key_types[i]) return false;
    if (block.keys[i].row_bytes != cache.key_row_bytes[i]) return false;
  }
  for (std::size_t i = 0; i < block.values.size(); ++i) {
    if (block.values[i].dtype != cache.value_types[i]) return false;
    if (block.values[i].row_bytes != cache.value_row_bytes[i]) return false;
  }
  return true;
}

/// Whether the state at offset is whole, of the target's shape and of the positions it claims.
bool usable(const CardLiterals& literals, const SlotCheckpoint& checkpoint, const StateTemplate& target,
            std::uint64_t token_count) {
  if (checkpoint.token_count <= 0 || checkpoint.last_position < checkpoint.first_position ||
      static_cast<std::uint64_t>(checkpoint.token_count) > token_count ||
      checkpoint.last_position >= static_cast<std::int64_t>(token_count)) {
    return false;
  }
  ForeignReader reader(literals, checkpoint.literal_offset);
  const auto magic = reader.value<std::uint32_t>("magic");
  if (!magic || *magic != kMemoryMagic || !reader.skip(4, "seq_id")) return false;
  CacheShape shape;
  shape.cell_ext = target.caches[1].cell_ext;
  shape.key_only = target.caches[1].value_types.empty();
  const auto block = parse_cache_block(reader, shape);
  return block && block->end_offset == checkpoint.literal_offset + checkpoint.size &&
         block->max_position == checkpoint.last_position && fits(*block, target.caches[1]);
}

/// Reads one checkpoint's record and walks over its three buffers.
Result<SlotCheckpoint> read_checkpoint(ForeignReader& reader) {
  SlotCheckpoint checkpoint;
  auto token_count = reader.value<std::int64_t>("checkpoint.n_tokens");
  if (!token_count) return token_count.error();
  auto first = reader.value<std::int32_t>("checkpoint.pos_min");
  if (!first) return first.error();
  auto last = reader.value<std::int32_t>("checkpoint.pos_max");
  if (!last) return last.error();
  checkpoint.token_count = *token_count;
  checkpoint.first_position = *first;
  checkpoint.last_position = *last;
  for (int buffer = 0; buffer < 3; ++buffer) {
    auto size = reader.value<std::uint64_t>("checkpoint.size");
    if (!size) return size.error();
    if (buffer == 0) {
      checkpoint.literal_offset = reader.offset();
      checkpoint.size = *size;
    }
    auto status = reader.skip(*size, "checkpoint.data");
    if (!status) return status.error();
  }
  return checkpoint;
}

}  // namespace

Result<std::vector<SlotCheckpoint>> usable_checkpoints(const CardReader& card, const StateTemplate& target,
                                                       std::uint64_t token_count) {
  std::vector<SlotCheckpoint> found;
  if (target.caches.size() != 2 || target.container != LlamaContainer::kSequenceFile ||
      target.layout != StateLayout::k11_4) {
    return found;
  }
  auto layout = card.source_layout();
  if (!layout) return layout.error();
  if (!*layout) return found;
  const CardLiterals literals(card);
  const std::uint64_t offset = tail_offset(**layout);
  if (offset >= literals.size()) return found;
  ForeignReader reader(literals, offset);
  const auto magic = reader.value<std::uint32_t>("checkpoints.magic");
  const auto version = reader.value<std::uint32_t>("checkpoints.version");
  const auto count = reader.value<std::uint32_t>("checkpoints.count");
  if (!magic || !version || !count || *magic != kCheckpointMagic || *version != 1) return found;
  for (std::uint32_t i = 0; i < *count; ++i) {
    const auto checkpoint = read_checkpoint(reader);
    if (!checkpoint) break;  // the source was kept as it was, damaged tails included
    if (usable(literals, *checkpoint, target, token_count)) found.push_back(*checkpoint);
  }
  return found;
}

}  // namespace cachecard::llama_cpp
