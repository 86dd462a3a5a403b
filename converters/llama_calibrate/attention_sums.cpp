#include "attention_sums.hpp"

#include <ggml-backend.h>

#include <Eigen/Core>
#include <charconv>
#include <cmath>
#include <cstring>
#include <string_view>

namespace cachecard::llama_calibrate {
namespace {

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

std::vector<std::byte> bytes_of(const ggml_tensor* tensor) {
  std::vector<std::byte> out(ggml_nbytes(tensor));
  ggml_backend_tensor_get(tensor, out.data(), 0, out.size());
  return out;
}

/// Row (i1, i2) of a strided f32 or f16 tensor.
void copy_row(const ggml_tensor* tensor, const std::vector<std::byte>& bytes, std::int64_t i1,
              std::int64_t i2, float* out) {
  const std::byte* from = bytes.data() + static_cast<std::size_t>(i1) * tensor->nb[1] +
                          static_cast<std::size_t>(i2) * tensor->nb[2];
  if (tensor->type == GGML_TYPE_F16) {
    ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(from), out, tensor->ne[0]);
  } else {
    std::memcpy(out, from, static_cast<std::size_t>(tensor->ne[0]) * sizeof(float));
  }
}

Matrix head_rows(const ggml_tensor* tensor, const std::vector<std::byte>& bytes, std::int64_t head) {
  Matrix rows(tensor->ne[1], tensor->ne[0]);
  for (std::int64_t i = 0; i < tensor->ne[1]; ++i) copy_row(tensor, bytes, i, head, rows.row(i).data());
  return rows;
}

bool is_float(const ggml_tensor* tensor) {
  return tensor->type == GGML_TYPE_F32 || tensor->type == GGML_TYPE_F16;
}

}  // namespace

std::optional<std::uint32_t> layer_of_keys(const ggml_tensor* keys) {
  constexpr std::string_view kName = "cache_k_l";
  const std::string_view name = keys->name;
  if (!name.starts_with(kName)) return {};
  std::uint32_t layer = 0;
  const auto [end, failed] = std::from_chars(name.data() + kName.size(), name.data() + name.size(), layer);
  if (failed != std::errc{}) return {};
  return layer;
}

const AttentionSums::Layer* AttentionSums::find(std::uint32_t layer) const {
  const auto found = layers_.find(layer);
  return found == layers_.end() ? nullptr : &found->second;
}

bool AttentionSums::on_node(ggml_tensor* node, bool asked, void* self) {
  if (node->op != GGML_OP_FLASH_ATTN_EXT) return !asked;
  if (!asked) static_cast<AttentionSums*>(self)->take(node);
  return true;
}

/// source: ggml.h, ggml_flash_attn_ext: q [dim, token, head], k [dim, cell, kv_head], mask [cell, token]
void AttentionSums::take(const ggml_tensor* attention) {
  const ggml_tensor* queries = attention->src[0];
  const ggml_tensor* keys = attention->src[1];
  const ggml_tensor* mask = attention->src[3];
  const auto layer = layer_of_keys(keys);
  if (!layer || !is_float(queries) || !is_float(keys) || mask == nullptr || !is_float(mask) ||
      queries->ne[3] != 1)
    return;
  float scale_bias_cap[3];
  std::memcpy(scale_bias_cap, attention->op_params, sizeof scale_bias_cap);
  Layer& seen = layers_[*layer];
  seen.plain = scale_bias_cap[1] == 0.0f && scale_bias_cap[2] == 0.0f && attention->src[4] == nullptr;
  const auto cells = static_cast<std::size_t>(keys->ne[1]);
  const auto kv_heads = static_cast<std::size_t>(keys->ne[2]);
  if (seen.cell_count < cells) {  // more cells come into view as the context fills
    std::vector<double> wider(kv_heads * cells, 0.0);
    for (std::size_t h = 0; h < seen.kv_head_count; ++h) {
      std::copy_n(seen.squares.begin() + static_cast<std::ptrdiff_t>(h * seen.cell_count), seen.cell_count,
                  wider.begin() + static_cast<std::ptrdiff_t>(h * cells));
    }
    seen.squares = std::move(wider);
    seen.cell_count = cells;
    seen.kv_head_count = kv_heads;
  }
  const auto query_bytes = bytes_of(queries);
  const auto key_bytes = bytes_of(keys);
  const auto mask_bytes = bytes_of(mask);
  Matrix visible(queries->ne[1], keys->ne[1]);
  for (std::int64_t t = 0; t < queries->ne[1]; ++t) copy_row(mask, mask_bytes, t, 0, visible.row(t).data());
  const std::int64_t group = queries->ne[2] / keys->ne[2];
  for (std::int64_t h = 0; h < keys->ne[2]; ++h) {
    const Matrix key_rows = head_rows(keys, key_bytes, h);
    double* out = seen.squares.data() + static_cast<std::size_t>(h) * seen.cell_count;
    for (std::int64_t q = h * group; q < (h + 1) * group; ++q) {
      const Matrix products = head_rows(queries, query_bytes, q) * key_rows.transpose();
      Matrix logits = products * scale_bias_cap[0] + visible;
      for (Eigen::Index t = 0; t < logits.rows(); ++t) {
        auto row = logits.row(t).array();
        const float most = row.maxCoeff();
        if (!std::isfinite(most)) continue;
        row = (row - most).exp();
        row = (row / row.sum()).square();
        for (Eigen::Index c = 0; c < row.size(); ++c) out[c] += double{row(c)};
      }
    }
  }
}

}  // namespace cachecard::llama_calibrate
