#include "cache_block.hpp"
#include "state_header.hpp"

namespace cachecard::llama_cpp {
namespace {

using Module = ModelFacts::Module;

bool has_version(LlamaContainer container) {
  return container == LlamaContainer::kSessionFile || container == LlamaContainer::kSequenceFile;
}

bool is_whole_context(LlamaContainer container) {
  return container == LlamaContainer::kSessionFile || container == LlamaContainer::kWholeContext;
}

LlamaContainer container_of(std::uint32_t magic) {
  switch (magic) {
    case kSessionMagic:
      return LlamaContainer::kSessionFile;
    case kSequenceMagic:
      return LlamaContainer::kSequenceFile;
    case kMemoryMagic:
      return LlamaContainer::kSequenceMemory;
    default:
      return LlamaContainer::kWholeContext;
  }
}

/// Everything before the memory payload.
Result<StateFile> parse_head(ForeignReader& reader, const ByteSource& source) {
  StateFile state;
  state.file_size = source.size();
  std::uint32_t magic = 0;
  auto status = source.read_at(0, std::as_writable_bytes(std::span(&magic, 1)));
  if (!status) return status.error();
  state.container = container_of(magic);
  if (has_version(state.container)) {
    status = parse_file_header(reader, state);
  } else if (state.container == LlamaContainer::kSequenceMemory) {
    status = reader.skip(8, "seq_id");  // magic and the source's sequence, which readers ignore
  }
  if (!status) return status.error();
  if (is_whole_context(state.container)) {
    auto architecture = parse_architecture(reader);
    if (!architecture) {
      if (state.container == LlamaContainer::kSessionFile) return architecture.error();
      return foreign_error(0, "magic", "neither a llama.cpp state nor any other layout known here");
    }
    state.architecture = *std::move(architecture);
  }
  state.payload_offset = reader.offset();
  return state;
}

/// What may follow the payload: nothing, except in sequence files, whose readers stop at its end.
Status parse_tail(ForeignReader& reader, const ModelFacts* model, StateFile& state) {
  state.payload_end = reader.offset();
  if (reader.remaining() == 0) return {};
  if (state.container != LlamaContainer::kSequenceFile) {
    return foreign_error(reader.offset(), "payload",
                         std::to_string(reader.remaining()) + " bytes after the state");
  }
  auto checkpoints = skip_checkpoints(reader);
  if (!checkpoints) return checkpoints.error();
  if (model == nullptr && (!*checkpoints || reader.remaining() != 0)) {
    return foreign_error(state.payload_end, "payload", "bytes after what would be a plain attention cache");
  }
  return {};
}

Status parse_payload(const ByteSource& source, const ModelFacts* model, StateFile& state) {
  ForeignReader reader(source, state.payload_offset);
  if (model != nullptr && model->module == Module::kOther) {
    auto status = reader.expect(8, 1, "payload");  // the smallest has two u32
    state.opaque = true;
    state.payload_end = state.file_size;
    return status;
  }
  CacheShape shape;
  shape.layout = state.layout;
  shape.cell_ext = model != nullptr && model->cell_ext;
  shape.key_only = model != nullptr && model->key_only;
  shape.whole_context = is_whole_context(state.container);
  const bool pair = model != nullptr && model->module == Module::kSlidingPair;
  for (int i = 0; i < (pair ? 2 : 1); ++i) {
    auto block = parse_cache_block(reader, shape);
    if (!block) return block.error();
    state.caches.push_back(*std::move(block));
  }
  return parse_tail(reader, model, state);
}

/// Containers without a version say nothing about their layout: the one that fits to the last byte.
Status parse_by_trial(const ByteSource& source, const ModelFacts* model, const ParseOptions& options,
                      StateFile& state) {
  if (options.layout) {
    state.layout = *options.layout;
    return parse_payload(source, model, state);
  }
  StateFile newer = state;
  newer.layout = StateLayout::k11_4;
  StateFile older = state;
  older.layout = StateLayout::k10_3;
  const auto newer_status = parse_payload(source, model, newer);
  const auto older_status = parse_payload(source, model, older);
  if (newer_status && older_status && !newer.opaque && newer.caches[0].cell_count != 0) {
    return foreign_error(state.payload_offset, "payload",
                         "fits layout 10/3 and layout 11/4: say which with --layout");
  }
  if (newer_status) {
    state = std::move(newer);
    return {};
  }
  if (older_status) {
    state = std::move(older);
    return {};
  }
  // The trial that came further says more about what is wrong.
  return older_status.error().offset > newer_status.error().offset ? older_status : newer_status;
}

bool has_blocks(const std::vector<TensorBlock>& tensors) {
  for (const auto& tensor : tensors) {
    if (dtype_info(tensor.dtype)->block_elements > 1) return true;
  }
  return false;
}

/// 10/3 does not record rotation: only quantised tensors of a fitting width can have it.
void settle_rotation(const ModelFacts* model, const ParseOptions& options, StateFile& state) {
  if (state.layout != StateLayout::k10_3 || state.opaque) return;
  for (std::size_t i = 0; i < state.caches.size(); ++i) {
    CacheBlock& block = state.caches[i];
    const bool keys = has_blocks(block.keys);
    const bool values = has_blocks(block.values);
    if (!keys && !values) continue;
    if (options.rotated && !*options.rotated) continue;
    if (model == nullptr) {
      state.rotation_known = false;
      continue;
    }
    const auto layers = layers_of_cache(*model, i);
    const std::uint32_t n_rot_k = keys ? rotation_of(model->key_head_dim, layers, false) : 0;
    const std::uint32_t n_rot_v = values ? rotation_of(model->value_head_dim, layers, true) : 0;
    if (model->key_only) continue;  // the graph of K-only caches never rotates
    if (n_rot_k == 0 && n_rot_v == 0) continue;
    if (!options.rotated) {
      state.rotation_known = false;
      continue;
    }
    block.n_rot_k = n_rot_k;
    block.n_rot_v = n_rot_v;
  }
}

}  // namespace

bool looks_like_state(std::span<const std::byte> head) {
  if (head.size() < 8) return false;
  std::uint32_t word = 0;
  std::memcpy(&word, head.data(), sizeof(word));
  if (container_of(word) != LlamaContainer::kWholeContext) return true;
  if (word == 0 || word > kMaxArchitectureBytes) return false;
  for (std::size_t i = 4; i < head.size() && i < 4 + word; ++i) {
    const auto c = static_cast<unsigned char>(head[i]);
    if (c <= ' ' || c >= 127) return false;
  }
  return true;
}

Result<StateFile> parse_state(const ByteSource& source, const ModelFacts* model,
                              const ParseOptions& options) {
  if (source.size() < 8) {
    return Error{ErrorCode::kTruncated, 0, "magic",
                 std::to_string(source.size()) + " bytes are no llama.cpp state"};
  }
  ForeignReader reader(source);
  auto head = parse_head(reader, source);
  if (!head) return head;
  StateFile state = *std::move(head);
  if (model != nullptr && !state.architecture.empty() && state.architecture != model->architecture) {
    return foreign_error(state.payload_offset - state.architecture.size(), "arch",
                         "the state is of architecture '" + state.architecture + "', the model of '" +
                             model->architecture + "'");
  }
  auto status = has_version(state.container) ? parse_payload(source, model, state)
                                             : parse_by_trial(source, model, options, state);
  if (!status && model == nullptr && status.error().code != ErrorCode::kIo) {
    Error error = status.error();
    error.detail += "; without --model only plain attention caches are understood";
    return error;
  }
  if (!status) return status.error();
  settle_rotation(model, options, state);
  return state;
}

}  // namespace cachecard::llama_cpp
