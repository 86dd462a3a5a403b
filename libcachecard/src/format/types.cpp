#include "cachecard/types.hpp"

#include <array>
#include <utility>

namespace cachecard {
namespace {

// source: ggml-common.h block structs; widths are block bytes x 16 / block elements.
constexpr std::array kDTypes{
    DTypeInfo{DType::kF32, "f32", 1, 4, 64},      DTypeInfo{DType::kF16, "f16", 1, 2, 32},
    DTypeInfo{DType::kBf16, "bf16", 1, 2, 32},    DTypeInfo{DType::kQ8_0, "q8_0", 32, 34, 17},
    DTypeInfo{DType::kQ5_1, "q5_1", 32, 24, 12},  DTypeInfo{DType::kQ5_0, "q5_0", 32, 22, 11},
    DTypeInfo{DType::kQ4_1, "q4_1", 32, 20, 10},  DTypeInfo{DType::kQ4_0, "q4_0", 32, 18, 9},
    DTypeInfo{DType::kIq4Nl, "iq4_nl", 32, 18, 9}, DTypeInfo{DType::kBytes, "bytes", 1, 1, 0},
};

template <class Enum, std::size_t N>
using Names = std::array<std::pair<Enum, std::string_view>, N>;

template <class Enum, std::size_t N>
constexpr std::string_view find_name(const Names<Enum, N>& names, Enum value) {
  for (const auto& [number, name] : names) {
    if (number == value) return name;
  }
  return "unknown";
}

constexpr Names<SectionType, 18> kSectionTypes{{{SectionType::kTokenIds, "token_ids"},
                                                {SectionType::kText, "text"},
                                                {SectionType::kPositions, "positions"},
                                                {SectionType::kBitWidthMap, "bit_width_map"},
                                                {SectionType::kParameters, "parameters"},
                                                {SectionType::kReferences, "references"},
                                                {SectionType::kRopeTable, "rope_table"},
                                                {SectionType::kChunk, "chunk"},
                                                {SectionType::kMedia, "media"},
                                                {SectionType::kSourceLayout, "source_layout"},
                                                {SectionType::kSourceBytes, "source_bytes"},
                                                {SectionType::kCanary, "canary"},
                                                {SectionType::kProvenance, "provenance"},
                                                {SectionType::kProfileDigest, "profile_digest"},
                                                {SectionType::kSummary, "summary"},
                                                {SectionType::kDirectory, "directory"},
                                                {SectionType::kLanes, "lanes"},
                                                {SectionType::kModelProfile, "model_profile"}}};
constexpr Names<StreamKind, 4> kStreamKinds{{{StreamKind::kKey, "key"},
                                             {StreamKind::kValue, "value"},
                                             {StreamKind::kLatent, "latent"},
                                             {StreamKind::kOpaque, "opaque"}}};
constexpr Names<Codec, 4> kCodecs{{{Codec::kRaw, "raw"},
                                   {Codec::kGgml, "ggml"},
                                   {Codec::kPlanes, "planes"},
                                   {Codec::kEntropy, "entropy"}}};
constexpr Names<Compressor, 3> kCompressors{{{Compressor::kNone, "none"},
                                             {Compressor::kZstd, "zstd"},
                                             {Compressor::kSplitZstd, "split_zstd"}}};
constexpr Names<RopeState, 3> kRopeStates{{{RopeState::kNone, "none"},
                                           {RopeState::kPreRope, "pre_rope"},
                                           {RopeState::kPostRope, "post_rope"}}};
constexpr Names<RopePairing, 3> kPairings{{{RopePairing::kNone, "none"},
                                           {RopePairing::kInterleaved, "interleaved"},
                                           {RopePairing::kHalfSplit, "half_split"}}};
constexpr Names<ChunkOrder, 2> kChunkOrders{
    {{ChunkOrder::kLayerMajor, "layer_major"}, {ChunkOrder::kSpanMajor, "span_major"}}};
constexpr Names<Restorable, 3> kRestorables{{{Restorable::kAnyPrefix, "any_prefix"},
                                             {Restorable::kWholeOnly, "whole_only"},
                                             {Restorable::kFromCount, "from_count"}}};

}  // namespace

const DTypeInfo* dtype_info(DType dtype) noexcept {
  for (const DTypeInfo& info : kDTypes) {
    if (info.dtype == dtype) return &info;
  }
  return nullptr;
}

const DTypeInfo* dtype_by_name(std::string_view name) noexcept {
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return &info;
  }
  return nullptr;
}

std::string_view name_of(SectionType type) noexcept { return find_name(kSectionTypes, type); }
std::string_view name_of(StreamKind kind) noexcept { return find_name(kStreamKinds, kind); }
std::string_view name_of(Codec codec) noexcept { return find_name(kCodecs, codec); }
std::string_view name_of(Compressor compressor) noexcept {
  return find_name(kCompressors, compressor);
}
std::string_view name_of(DType dtype) noexcept {
  const DTypeInfo* info = dtype_info(dtype);
  return info == nullptr ? "unknown" : info->name;
}
std::string_view name_of(RopeState state) noexcept { return find_name(kRopeStates, state); }
std::string_view name_of(RopePairing pairing) noexcept { return find_name(kPairings, pairing); }
std::string_view name_of(ChunkOrder order) noexcept { return find_name(kChunkOrders, order); }
std::string_view name_of(Restorable restorable) noexcept {
  return find_name(kRestorables, restorable);
}

}  // namespace cachecard
