#include "state_plan.hpp"

#include <algorithm>
#include <limits>

#include "foreign_reader.hpp"
#include "state_header.hpp"

namespace cachecard::llama_cpp {
namespace {

bool is_whole_context(LlamaContainer container) {
  return container == LlamaContainer::kSessionFile || container == LlamaContainer::kWholeContext;
}

/// Appends to the plan in file order.
class PlanBuilder {
 public:
  explicit PlanBuilder(StatePlan& plan) : plan_(plan) {}

  template <class Number>
  void number(Number value) {
    bytes(std::as_bytes(std::span(&value, 1)));
  }

  void bytes(std::span<const std::byte> more) {
    if (plan_.pieces.empty() || !open_) plan_.pieces.push_back({plan_.file_size, {}});
    open_ = true;
    auto& piece = plan_.pieces.back().bytes;
    piece.insert(piece.end(), more.begin(), more.end());
    plan_.file_size += more.size();
  }

  /// Leaves room that something else fills. Returns its offset.
  std::uint64_t room(std::uint64_t size) {
    open_ = false;
    const std::uint64_t offset = plan_.file_size;
    plan_.file_size += size;
    return offset;
  }

 private:
  StatePlan& plan_;
  bool open_ = false;
};

void add_words(const StateTemplate& target, const StatePlan& plan, PlanBuilder& builder) {
  const auto words = target.server_blob && target.container == LlamaContainer::kSequenceFile
                         ? make_token_blob(plan.token_ids)
                         : plan.token_ids;
  builder.number(static_cast<std::uint32_t>(words.size()));
  builder.bytes(std::as_bytes(std::span(words)));
}

void add_header(const StateTemplate& target, const std::string& architecture, const StatePlan& plan,
                PlanBuilder& builder) {
  switch (target.container) {
    case LlamaContainer::kSessionFile:
      builder.number(kSessionMagic);
      builder.number(session_version(target.layout));
      add_words(target, plan, builder);
      break;
    case LlamaContainer::kSequenceFile:
      builder.number(kSequenceMagic);
      builder.number(sequence_version(target.layout));
      add_words(target, plan, builder);
      break;
    case LlamaContainer::kSequenceMemory:
      builder.number(kMemoryMagic);
      builder.number(static_cast<std::int32_t>(target.stream_index));
      break;
    case LlamaContainer::kWholeContext:
      break;
  }
  if (is_whole_context(target.container)) {
    builder.number(static_cast<std::uint32_t>(architecture.size()));
    builder.bytes(std::as_bytes(std::span(architecture)));
  }
}

/// What a target wants of one stream.
struct TensorForm {
  DType dtype = DType::kF16;
  std::uint32_t n_rot = 0;
  bool transposed = false;
};

void add_tensor(const CardHeader& header, std::size_t stream_index, const TensorForm& form, TokenRange range,
                StatePlan& plan, PlanBuilder& builder) {
  const std::uint64_t elements = row_elements(header.streams[stream_index]);
  const DTypeInfo& info = *dtype_info(form.dtype);
  const std::uint64_t row_size = elements / info.block_elements * info.block_bytes;
  builder.number(static_cast<std::int32_t>(form.dtype));
  if (form.transposed) {
    builder.number(info.block_bytes);
    builder.number(static_cast<std::uint32_t>(elements));
  } else {
    builder.number(row_size);
  }
  StateRegion region;
  region.stream = stream_index;
  region.offset = builder.room(range.count * row_size);
  region.dtype = form.dtype;
  region.hadamard_size = target_rotation(header.streams[stream_index], form.n_rot);
  region.transposed = form.transposed;
  region.first_token = range.first;
  region.token_count = range.count;
  plan.regions.push_back(region);
}

/// Cells are shared by all tensors of a cache: the tokens that every one of them has.
TokenRange tokens_of_cache(const CardHeader& header, const CacheStreams& streams, std::uint64_t token_count) {
  TokenRange range{0, token_count};
  for (const auto* list : {&streams.keys, &streams.values}) {
    for (const std::size_t stream : *list) {
      range.first = std::max(range.first, tokens_of_stream(header.streams[stream], token_count).first);
    }
  }
  range.count = token_count - range.first;
  return range;
}

/// One llama_kv_cache payload. A loader takes a sequence's cells from any stream; a whole context
/// must have them in the stream of their sequence. source: llama-kv-cache.cpp state_read_sinfo
void add_cache(const CardHeader& header, const StateTemplate& target, std::size_t index,
               std::uint64_t token_count, StatePlan& plan, PlanBuilder& builder) {
  const StateTemplate::Cache& cache = target.caches[index];
  const auto streams = streams_of_cache(header, target.caches.size() == 2, index == 1);
  const TokenRange range = tokens_of_cache(header, streams, token_count);
  const std::uint32_t stream = cache.n_stream > 1 ? target.stream_index : 0;
  builder.number(cache.n_stream);
  for (std::uint32_t s = 0; s < cache.n_stream; ++s) {
    builder.number(static_cast<std::uint32_t>(s == stream ? range.count : 0));
    if (s != stream) continue;
    CellTable cells{0, range.first, range.count, static_cast<std::int32_t>(stream), cache.cell_ext};
    cells.offset = builder.room(range.count * (cache.cell_ext ? 24 : 12));
    plan.cells.push_back(cells);
    builder.number(static_cast<std::uint32_t>(cache.v_trans ? 1 : 0));
    builder.number(static_cast<std::uint32_t>(cache.key_types.size()));
    if (target.layout == StateLayout::k11_4) {
      builder.number(cache.n_rot_k);
      builder.number(cache.n_rot_v);
    }
    for (std::size_t i = 0; i < streams.keys.size(); ++i) {
      add_tensor(header, streams.keys[i], {cache.key_types[i], cache.n_rot_k, false}, range, plan, builder);
    }
    for (std::size_t i = 0; i < streams.values.size(); ++i) {
      const TensorForm form{cache.value_types[i], cache.n_rot_v, cache.v_trans};
      add_tensor(header, streams.values[i], form, range, plan, builder);
    }
  }
}

Status read_tokens(const CardReader& card, const StateTemplate& target, std::uint64_t token_count,
                   StatePlan& plan) {
  auto tokens = card.token_ids();
  if (!tokens) return tokens.error();
  auto runs = card.positions();
  if (!runs) return runs.error();
  plan.token_ids = *std::move(tokens);
  plan.positions = expand_positions(*runs);
  if (plan.token_ids.size() < token_count || plan.positions.size() < token_count) {
    return Error{ErrorCode::kCorrupt, kNoOffset, "header.token_count", "more tokens than ids or positions"};
  }
  plan.token_ids.resize(token_count);
  plan.positions.resize(token_count);
  const bool ext = !target.caches.empty() && target.caches[0].cell_ext;
  for (std::uint64_t i = 0; i < token_count; ++i) {
    if (plan.positions[i] == static_cast<std::int64_t>(i)) continue;
    if (!ext) {
      return Error{ErrorCode::kPositionMismatch, kNoOffset, "position_run.first_position",
                   "token " + std::to_string(i) + " stands at position " + std::to_string(plan.positions[i])};
    }
    return Error{
        ErrorCode::kNotRestorable, kNoOffset, "position_run.first_position",
        "token " + std::to_string(i) + " follows an image, whose cells only the whole source file holds"};
  }
  const auto image =
      std::find_if(plan.token_ids.begin(), plan.token_ids.end(), [](std::int32_t id) { return id < 0; });
  if (image == plan.token_ids.end()) return {};
  return Error{ErrorCode::kNotRestorable, kNoOffset, "token_ids",
               "token " + std::to_string(image - plan.token_ids.begin()) +
                   " is part of an image or sound, which only the whole source file holds"};
}

Status shift_positions(const StateTemplate& target, std::int64_t shift, StatePlan& plan) {
  if (shift == 0) return {};
  if (target.caches.empty()) {
    return Error{ErrorCode::kNotRestorable, kNoOffset, "position_shift",
                 "opaque state stays at its positions"};
  }
  const std::int64_t last = plan.positions.back() + shift;
  if (plan.positions.front() + shift < 0 || last >= std::numeric_limits<std::int32_t>::max()) {
    return Error{ErrorCode::kInvalidArgument, kNoOffset, "position_shift",
                 std::to_string(shift) + " moves tokens out of the range of positions"};
  }
  for (std::int32_t& position : plan.positions) position += static_cast<std::int32_t>(shift);
  return {};
}

/// Opaque state goes only where the same layout is read, and after a header of the same kind.
Status add_opaque(const CardReader& card, const StateTemplate& target, StatePlan& plan,
                  PlanBuilder& builder) {
  auto source = card.source_layout();
  if (!source) return source.error();
  if (!*source) {
    return Error{ErrorCode::kNotRestorable, kNoOffset, "source_layout",
                 "opaque state without its source layout"};
  }
  const SourceLayoutHeader& record = (*source)->record;
  const bool newer = record.container_version == 11 || record.container_version == 4;
  const bool whole = is_whole_context(static_cast<LlamaContainer>(record.container));
  if (newer != (target.layout == StateLayout::k11_4) || whole != is_whole_context(target.container)) {
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, "source_layout.container",
                 "opaque state of another llama.cpp layout or container than the target's"};
  }
  plan.opaque_size = card.header().streams[0].opaque_size;
  plan.opaque_offset = builder.room(plan.opaque_size);
  return {};
}

/// source: llama.cpp tools/server/server-context.cpp save_slot_checkpoints; draft states are left out
void add_checkpoints(StatePlan& plan, PlanBuilder& builder) {
  if (plan.checkpoints.empty()) return;
  builder.number(kCheckpointMagic);
  builder.number(std::uint32_t{1});
  builder.number(static_cast<std::uint32_t>(plan.checkpoints.size()));
  for (const SlotCheckpoint& checkpoint : plan.checkpoints) {
    builder.number(checkpoint.token_count);
    builder.number(checkpoint.first_position);
    builder.number(checkpoint.last_position);
    builder.number(checkpoint.size);
    plan.checkpoint_offsets.push_back(builder.room(checkpoint.size));
    builder.number(std::uint64_t{0});
    builder.number(std::uint64_t{0});
  }
}

/// The name that whole contexts begin with.
Result<std::string> architecture_of(const CardHeader& header, const StateTemplate& target) {
  const auto card = header.identity.text(IdentityField::kArchitecture);
  if (card && !target.architecture.empty() && *card != target.architecture) {
    return Error{ErrorCode::kModelMismatch, kNoOffset, "architecture",
                 "the card is of '" + *card + "', the target of '" + target.architecture + "'"};
  }
  const std::string name = target.architecture.empty() ? card.value_or("") : target.architecture;
  if (name.empty() && is_whole_context(target.container)) {
    return Error{ErrorCode::kIdentityUnknown, kNoOffset, "architecture",
                 "a whole context begins with the architecture's name, which nothing here knows"};
  }
  return name;
}

}  // namespace

Result<StatePlan> plan_state(const CardReader& card, const StateTemplate& target, std::uint64_t token_count,
                             std::int64_t position_shift) {
  const CardHeader& header = card.header();
  auto status = check_fit(header, target, token_count);
  if (!status) return status.error();
  auto architecture = architecture_of(header, target);
  if (!architecture) return architecture.error();
  for (const auto& cache : target.caches) {
    if (cache.n_stream == 0 || (cache.n_stream > 1 && target.stream_index >= cache.n_stream)) {
      return Error{ErrorCode::kInvalidArgument, kNoOffset, "stream_index",
                   "stream " + std::to_string(target.stream_index) + " of " + std::to_string(cache.n_stream)};
    }
  }
  StatePlan plan;
  status = read_tokens(card, target, token_count, plan);
  if (status) status = shift_positions(target, position_shift, plan);
  if (!status) return status.error();
  PlanBuilder builder(plan);
  add_header(target, *architecture, plan, builder);
  for (std::size_t i = 0; i < target.caches.size(); ++i) {
    add_cache(header, target, i, token_count, plan, builder);
  }
  if (!target.caches.empty()) {
    auto checkpoints = usable_checkpoints(card, target, token_count);
    if (!checkpoints) return checkpoints.error();
    plan.checkpoints = *std::move(checkpoints);
    add_checkpoints(plan, builder);
    return plan;
  }
  status = add_opaque(card, target, plan, builder);
  if (!status) return status.error();
  return plan;
}

}  // namespace cachecard::llama_cpp
