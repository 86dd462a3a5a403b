#include <algorithm>

#include "foreign_reader.hpp"
#include "state_header.hpp"
#include "state_writer.hpp"

namespace cachecard::llama_cpp {
namespace {

void add_tensors(const std::vector<TensorBlock>& tensors, std::vector<DType>& types,
                 std::vector<std::uint64_t>& row_bytes) {
  for (const auto& tensor : tensors) {
    types.push_back(tensor.dtype);
    row_bytes.push_back(tensor.row_bytes);
  }
}

/// What llama.cpp writes as n_rot. For quantised MLA caches it writes a size though the graph does
/// not rotate them. source: llama-kv-cache.cpp constructor, llama-graph.cpp build_attn of K-only caches
std::uint32_t rotation(const StreamRecord& stream) {
  const bool latent = stream.stream == static_cast<std::uint8_t>(StreamKind::kLatent);
  const bool blocks = dtype_info(static_cast<DType>(stream.dtype))->block_elements > 1;
  if (latent && blocks && stream.head_dim % 64 == 0) {
    return stream.head_dim & (~stream.head_dim + 1);
  }
  return stream.hadamard_size > 1 ? stream.hadamard_size : 0;
}

/// Adds a stream to the cache that its layer belongs to.
void add_stream(const StreamRecord& stream, StateTemplate::Cache& cache) {
  const auto dtype = static_cast<DType>(stream.dtype);
  if (stream.stream == static_cast<std::uint8_t>(StreamKind::kValue)) {
    cache.value_types.push_back(dtype);
    cache.value_row_bytes.push_back(row_bytes(stream, dtype));
    cache.n_rot_v = rotation(stream);
  } else {
    cache.key_types.push_back(dtype);
    cache.key_row_bytes.push_back(row_bytes(stream, dtype));
    cache.n_rot_k = rotation(stream);
  }
}

/// Whether the card's own source was a slot file with llama-server's token blob.
bool source_has_blob(const CardReader& card, const SourceLayout& layout) {
  if (layout.record.container != static_cast<std::uint16_t>(LlamaContainer::kSequenceFile)) {
    return false;
  }
  const auto frame = card.find(SectionType::kSourceBytes);
  if (!frame) return false;
  auto literals = card.read_section(*frame);
  if (!literals || literals->size() < 16) return false;
  std::int32_t word = 0;
  std::memcpy(&word, literals->data() + 12, sizeof(word));
  return word == kBlobMarker;
}

}  // namespace

Result<StateTemplate> template_of(const StateFile& state) {
  StateTemplate result;
  result.container = state.container;
  result.layout = state.layout;
  result.server_blob = state.server_blob;
  result.architecture = state.architecture;
  if (state.opaque) return result;
  if (!state.rotation_known) {
    return Error{ErrorCode::kGeometryMismatch, kNoOffset, "rotated",
                 "a quantised state of layout 10/3 does not say whether it is rotated"};
  }
  for (const auto& block : state.caches) {
    if (block.cell_count == 0) {
      return Error{ErrorCode::kGeometryMismatch, block.offset, "cell_count",
                   "an empty state shows neither types nor V order: save one token first"};
    }
    StateTemplate::Cache cache;
    cache.n_stream = block.n_stream;
    cache.cell_ext = block.cell_ext;
    cache.v_trans = block.v_trans;
    cache.n_rot_k = block.n_rot_k;
    cache.n_rot_v = block.n_rot_v;
    add_tensors(block.keys, cache.key_types, cache.key_row_bytes);
    add_tensors(block.values, cache.value_types, cache.value_row_bytes);
    result.caches.push_back(std::move(cache));
  }
  result.stream_index = state.caches[0].stream_index;
  return result;
}

Result<StateTemplate> template_for(const CardReader& card, StateLayout layout, LlamaContainer container) {
  StateTemplate result;
  result.container = container;
  result.layout = layout;
  result.architecture = card.header().identity.text(IdentityField::kArchitecture).value_or("");
  const auto rope = card.header().identity.text(IdentityField::kRopeType).value_or("");
  StateTemplate::Cache base;
  base.cell_ext = rope == "mrope" || rope == "imrope";
  auto source = card.source_layout();
  if (!source) return source.error();
  const bool known =
      *source && (*source)->record.family == static_cast<std::uint16_t>(SourceFamily::kLlamaCpp);
  if (known) {
    base.n_stream = std::max((*source)->record.stream_count, 1u);
    base.v_trans = (*source)->record.v_transposed != 0;
    result.stream_index = (*source)->record.stream_index;
    result.server_blob = container == LlamaContainer::kSequenceFile && source_has_blob(card, **source);
  }
  StateTemplate::Cache sliding = base;
  for (const auto& stream : card.header().streams) {
    if (stream.stream == static_cast<std::uint8_t>(StreamKind::kOpaque)) return result;
    add_stream(stream, stream.window != 0 ? sliding : base);
  }
  result.caches.push_back(std::move(base));
  if (!sliding.key_types.empty()) result.caches.push_back(std::move(sliding));
  return result;
}

}  // namespace cachecard::llama_cpp
