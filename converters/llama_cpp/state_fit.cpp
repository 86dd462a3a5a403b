#include <algorithm>
#include <bit>

#include "architectures.hpp"
#include "state_plan.hpp"

namespace cachecard::llama_cpp {
namespace {

Error refuse(ErrorCode code, std::string field, std::string detail) {
  return {code, kNoOffset, std::move(field), std::move(detail)};
}

Error mismatch(const StreamRecord& stream, std::string_view field, std::string detail) {
  return refuse(ErrorCode::kGeometryMismatch, std::string(field),
                std::string(name_of(static_cast<StreamKind>(stream.stream))) + " of layer " +
                    std::to_string(stream.layer) + ": " + std::move(detail));
}

bool is_opaque(const CardHeader& header) {
  return std::any_of(header.streams.begin(), header.streams.end(), [](const StreamRecord& s) {
    return s.stream == static_cast<std::uint8_t>(StreamKind::kOpaque);
  });
}

Status check_prefix(const CardHeader& header, std::uint64_t token_count) {
  if ((header.flags & kHeaderNotAPrefix) != 0) {
    return refuse(ErrorCode::kPartialCard, "header.flags",
                  "the card is not a prefix: its tokens are not the first ones of a context");
  }
  if ((header.flags & kHeaderPartialLayers) != 0) {
    return refuse(ErrorCode::kPartialCard, "header.flags", "the card lacks layers of its model");
  }
  if ((header.flags & kHeaderTokensUnknown) != 0) {
    return refuse(ErrorCode::kTokensUnknown, "header.flags",
                  "the card's token ids are unknown, so no runtime could match a prompt to it");
  }
  if (token_count == 0 || token_count > header.token_count) {
    return refuse(ErrorCode::kInvalidArgument, "token_count",
                  std::to_string(token_count) + " tokens asked for, the card has " +
                      std::to_string(header.token_count));
  }
  const bool whole = token_count == header.token_count;
  if (header.restorable == Restorable::kWholeOnly && !whole) {
    return refuse(ErrorCode::kNotRestorable, "token_count",
                  "opaque state can only be restored whole (" + std::to_string(header.token_count) +
                      " tokens), not its first " + std::to_string(token_count));
  }
  if (header.restorable == Restorable::kFromCount && token_count < header.restorable_from) {
    return refuse(ErrorCode::kNotRestorable, "token_count",
                  "the sliding window is complete from " + std::to_string(header.restorable_from) +
                      " tokens on, asked for were " + std::to_string(token_count));
  }
  return {};
}

bool is_float(DType dtype) { return dtype_info(dtype)->block_elements == 1; }

/// One tensor: a type and a rotation that rows can be brought to, row size, and whether its tokens are there.
Status check_tensor(const StreamRecord& stream, DType target_type, std::uint64_t target_row_bytes,
                    std::uint32_t n_rot, std::uint64_t token_count) {
  const DTypeInfo* info = dtype_info(target_type);
  if (info == nullptr || target_type == DType::kBytes) {
    return mismatch(stream, "dtype", "the target's type is unknown");
  }
  const std::uint32_t rotation = target_rotation(stream, n_rot);
  if (rotation > 1 && is_float(target_type)) {
    return mismatch(stream, "hadamard_size",
                    "the target's is said to be rotated, which only block types are");
  }
  if (!std::has_single_bit(rotation) || stream.head_dim % rotation != 0) {
    return mismatch(stream, "hadamard_size",
                    "the target rotates groups of " + std::to_string(rotation) + " channels, heads have " +
                        std::to_string(stream.head_dim));
  }
  const std::uint64_t elements = row_elements(stream);
  const std::uint64_t row_size = elements / info->block_elements * info->block_bytes;
  if (elements % info->block_elements != 0 || row_size != target_row_bytes) {
    return mismatch(stream, "row_size",
                    "the card's " + std::to_string(stream.kv_head_count) + " heads of " +
                        std::to_string(stream.head_dim) + " take " + std::to_string(row_size) + " bytes as " +
                        std::string(info->name) + ", the target's rows " + std::to_string(target_row_bytes));
  }
  const TokenRange range = tokens_of_stream(stream, token_count);
  if (range.first + range.count != token_count || (stream.window == 0 && range.first != 0)) {
    return refuse(ErrorCode::kPartialCard, "stream.token_count",
                  std::string(name_of(static_cast<StreamKind>(stream.stream))) + " of layer " +
                      std::to_string(stream.layer) + " does not hold the tokens asked for");
  }
  return {};
}

Status check_cache(const CardHeader& header, const StateTemplate::Cache& cache, const CacheStreams& streams,
                   std::uint64_t token_count) {
  if (streams.keys.empty() || streams.keys.size() != cache.key_types.size() ||
      streams.values.size() != cache.value_types.size()) {
    return refuse(ErrorCode::kGeometryMismatch, "n_layer",
                  "the card has " + std::to_string(streams.keys.size()) + " K and " +
                      std::to_string(streams.values.size()) + " V layers, the target's cache " +
                      std::to_string(cache.key_types.size()) + " and " +
                      std::to_string(cache.value_types.size()));
  }
  const bool sizes = cache.key_row_bytes.size() == cache.key_types.size() &&
                     cache.value_row_bytes.size() == cache.value_types.size();
  if (!sizes) return refuse(ErrorCode::kInvalidArgument, "target", "sizes without types");
  for (std::size_t i = 0; i < streams.keys.size(); ++i) {
    auto status = check_tensor(header.streams[streams.keys[i]], cache.key_types[i], cache.key_row_bytes[i],
                               cache.n_rot_k, token_count);
    if (!status) return status;
  }
  for (std::size_t i = 0; i < streams.values.size(); ++i) {
    const StreamRecord& stream = header.streams[streams.values[i]];
    if (cache.v_trans && !is_float(cache.value_types[i])) {
      return mismatch(stream, "v_trans", "block types cannot be transposed");
    }
    auto status =
        check_tensor(stream, cache.value_types[i], cache.value_row_bytes[i], cache.n_rot_v, token_count);
    if (!status) return status;
  }
  return {};
}

/// The order of RoPE pairs in which llama.cpp's graph reads an architecture's keys; kNone: not known, or M-RoPE.
RopePairing pairing_of_graph(const Architecture& architecture, const StateTemplate& target) {
  const bool sections = !target.caches.empty() && target.caches[0].cell_ext;
  if (architecture.rope == RopeType::kNorm) return RopePairing::kInterleaved;
  if (architecture.rope == RopeType::kNeox) return RopePairing::kHalfSplit;
  if (architecture.rope == RopeType::kNormOrMrope && !sections) return RopePairing::kInterleaved;
  if (architecture.rope == RopeType::kNeoxOrMrope && !sections) return RopePairing::kHalfSplit;
  return RopePairing::kNone;
}

/// Keys of another runtime may have their pairs in another order: it must be known what the graph reads.
Status check_order_of_pairs(const CardHeader& header, const StateTemplate& target) {
  const auto name = header.identity.text(IdentityField::kArchitecture).value_or("");
  const Architecture* known = find_architecture(name);
  const RopePairing order = target_pairing(header, target);
  for (const StreamRecord& stream : header.streams) {
    const auto found = static_cast<RopePairing>(stream.rope_pairing);
    if (found == RopePairing::kNone || found == order) continue;
    if (known != nullptr && order != RopePairing::kNone && !known->rotated_last) continue;
    const std::string why = known == nullptr      ? "is not known here"
                            : known->rotated_last ? "is that of a latent (MLA), which does not cross"
                                                  : "is that of M-RoPE, whose pairs turn by several positions";
    return refuse(ErrorCode::kGeometryMismatch, "stream.rope_pairing",
                  "layer " + std::to_string(stream.layer) + ": found " + std::string(name_of(found)) +
                      "; the order in which llama.cpp reads keys of '" + name + "' " + why);
  }
  return {};
}

}  // namespace

TokenRange tokens_of_stream(const StreamRecord& stream, std::uint64_t token_count) {
  const std::uint64_t end = std::min(stream.first_token + stream.token_count, token_count);
  std::uint64_t first = stream.first_token;
  // llama.cpp saves as many as the window (llama-hparams.h is_masked_swa), but llama-server goes on
  // without a checkpoint only from pos_min < n_past - n_swa - 1 (server-context.cpp pos_min_thold):
  // two more where the card has them. They are masked, so they change nothing.
  const std::uint64_t kept = std::uint64_t{stream.window} + 2;
  if (stream.window != 0 && token_count > kept) first = std::max(first, token_count - kept);
  return {first, end > first ? end - first : 0};
}

RopePairing target_pairing(const CardHeader& header, const StateTemplate& target) {
  const Architecture* known = find_architecture(header.identity.text(IdentityField::kArchitecture).value_or(""));
  return known == nullptr ? RopePairing::kNone : pairing_of_graph(*known, target);
}

std::uint32_t target_rotation(const StreamRecord& stream, std::uint32_t n_rot) {
  const bool latent = stream.stream == static_cast<std::uint8_t>(StreamKind::kLatent);
  return latent || n_rot == 0 ? 1 : n_rot;
}

CacheStreams streams_of_cache(const CardHeader& header, bool pair, bool sliding) {
  CacheStreams out;
  for (std::size_t i = 0; i < header.streams.size(); ++i) {
    const StreamRecord& stream = header.streams[i];
    if (pair && (stream.window != 0) != sliding) continue;
    const auto kind = static_cast<StreamKind>(stream.stream);
    if (kind == StreamKind::kValue) out.values.push_back(i);
    if (kind == StreamKind::kKey || kind == StreamKind::kLatent) out.keys.push_back(i);
  }
  return out;
}

Status check_fit(const CardHeader& header, const StateTemplate& target, std::uint64_t token_count) {
  auto status = check_prefix(header, token_count);
  if (!status) return status;
  status = check_order_of_pairs(header, target);
  if (!status) return status;
  if (is_opaque(header) != target.caches.empty()) {
    return refuse(ErrorCode::kGeometryMismatch, "module",
                  target.caches.empty() ? "the target keeps state of another kind (recurrent, hybrid, sparse)"
                                        : "the card holds opaque state, the target an attention cache");
  }
  if (target.caches.empty()) return {};
  const bool slides = std::any_of(header.streams.begin(), header.streams.end(),
                                  [](const StreamRecord& s) { return s.window != 0; });
  const bool pair = target.caches.size() == 2;
  if (target.caches.size() > 2 || slides != pair) {
    return refuse(ErrorCode::kGeometryMismatch, "module",
                  slides ? "the card has sliding-window layers, the target has none"
                         : "the target has sliding-window layers, the card has none");
  }
  for (std::size_t i = 0; i < target.caches.size(); ++i) {
    status = check_cache(header, target.caches[i], streams_of_cache(header, pair, i == 1), token_count);
    if (!status) return status;
  }
  return {};
}

}  // namespace cachecard::llama_cpp
