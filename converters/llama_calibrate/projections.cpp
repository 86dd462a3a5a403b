#include "projections.hpp"

#include <ggml.h>

#include <algorithm>

namespace cachecard::llama_calibrate {
namespace {

using llama_cpp::GgufFile;
using llama_cpp::GgufTensor;

/// Reads tensors of one layer.
class LayerTensors {
 public:
  LayerTensors(const ByteSource& source, const GgufFile& file, std::uint32_t layer)
      : source_(source), file_(file), layer_(layer), prefix_("blk." + std::to_string(layer) + ".") {}

  const GgufTensor* find(const std::string& name) const {
    const auto found = std::find_if(file_.tensors.begin(), file_.tensors.end(),
                                    [&](const GgufTensor& tensor) { return tensor.name == prefix_ + name; });
    return found == file_.tensors.end() ? nullptr : &*found;
  }
  /// Rows [first, first + count) of a matrix, or of a vector where width is 1 a row.
  Result<Rows> rows(const GgufTensor& tensor, std::uint64_t first, std::uint64_t count) const;
  /// A vector; size elements.
  Result<Rows> vector(const std::string& name, std::uint64_t size) const;
  Error refused(const std::string& why) const {
    return {ErrorCode::kUnsupportedFeature, kNoOffset, {}, "layer " + std::to_string(layer_) + ": " + why + ": queries cannot be told from its weights"};
  }

 private:
  const ByteSource& source_;
  const GgufFile& file_;
  std::uint32_t layer_;
  std::string prefix_;
};

Result<Rows> LayerTensors::rows(const GgufTensor& tensor, std::uint64_t first, std::uint64_t count) const {
  const auto type = static_cast<ggml_type>(tensor.type);
  if (tensor.type >= GGML_TYPE_COUNT) return refused(tensor.name + " is of type " + std::to_string(tensor.type));
  const ggml_type_traits* traits = ggml_get_type_traits(type);
  const std::uint64_t width = tensor.dims[0];
  const std::uint64_t height = tensor.dims.size() > 1 ? tensor.dims[1] : 1;
  const bool known = type == GGML_TYPE_F32 || traits->to_float != nullptr;
  if (!known || width % static_cast<std::uint64_t>(ggml_blck_size(type)) != 0) {
    return refused(tensor.name + " is " + traits->type_name);
  }
  const std::size_t row_size = ggml_row_size(type, static_cast<std::int64_t>(width));
  if (first + count > height || (first + count) * row_size > tensor.size) return refused(tensor.name + " has another shape");
  Rows out(static_cast<Eigen::Index>(count), static_cast<Eigen::Index>(width));
  std::vector<std::byte> bytes(row_size);
  for (std::uint64_t r = 0; r < count; ++r) {
    float* row = out.row(static_cast<Eigen::Index>(r)).data();
    const bool plain = type == GGML_TYPE_F32;
    const std::span<std::byte> into = plain ? std::as_writable_bytes(std::span(row, width)) : std::span(bytes);
    if (Status s = source_.read_at(tensor.offset + (first + r) * row_size, into); !s) return s.error();
    if (!plain) traits->to_float(bytes.data(), row, static_cast<std::int64_t>(width));
  }
  return out;
}

Result<Rows> LayerTensors::vector(const std::string& name, std::uint64_t size) const {
  const GgufTensor* tensor = find(name);
  if (tensor == nullptr) return Rows();
  if (tensor->dims.size() != 1 || tensor->dims[0] != size) return refused(tensor->name + " has another shape");
  return rows(*tensor, 0, 1);
}

/// One projection: rows [first, first + count) of `name`.weight, with the norm before it and the constants.
Result<Rows> projection(const LayerTensors& tensors, const std::string& name, std::uint64_t first, std::uint64_t count,
                        std::uint64_t all, const Rows& norm, const Rows& norm_bias) {
  const GgufTensor* weight = tensors.find(name + ".weight");
  if (weight == nullptr || weight->dims.size() != 2 || weight->dims[1] != all) {
    return tensors.refused(name + (weight == nullptr ? " is not there" : " has another shape"));
  }
  auto rows = tensors.rows(*weight, first, count);
  if (!rows) return rows.error();
  auto bias = tensors.vector(name + ".bias", all);
  if (!bias) return bias.error();
  Rows out(rows->rows(), rows->cols() + 1);
  Eigen::VectorXf constant = Eigen::VectorXf::Zero(rows->rows());
  if (norm_bias.cols() == rows->cols()) constant += *rows * norm_bias.transpose();
  if (bias->size() > 0) constant += bias->middleCols(static_cast<Eigen::Index>(first), rows->rows()).transpose();
  if (norm.size() > 0) {
    if (norm.cols() != rows->cols()) return tensors.refused("attn_norm has another shape");
    *rows = *rows * norm.row(0).asDiagonal();
  }
  out << *rows, constant;
  return out;
}

}  // namespace

Result<Projections> read_projections(const ByteSource& source, const GgufFile& file, std::uint32_t layer,
                                     const ProjectionShape& shape) {
  const LayerTensors tensors(source, file, layer);
  for (const char* own : {"attn_q_norm.weight", "attn_k_norm.weight", "attn_q_a.weight"}) {
    if (tensors.find(own) != nullptr) return tensors.refused(std::string(own) + " stands between its input and its queries");
  }
  const GgufTensor* norm_tensor = tensors.find("attn_norm.weight");
  const std::uint64_t width = norm_tensor == nullptr || norm_tensor->dims.empty() ? 0 : norm_tensor->dims[0];
  auto norm = tensors.vector("attn_norm.weight", width);
  if (!norm) return norm.error();
  auto norm_bias = tensors.vector("attn_norm.bias", width);
  if (!norm_bias) return norm_bias.error();
  struct Part {
    Rows Projections::*rows;
    const char* name;
    std::uint64_t count;
  };
  const Part parts[] = {{&Projections::queries, "attn_q", shape.queries},
                        {&Projections::keys, "attn_k", shape.keys},
                        {&Projections::values, "attn_v", shape.values}};
  const bool fused = tensors.find("attn_qkv.weight") != nullptr;
  const std::uint64_t all = shape.queries + shape.keys + shape.values;
  Projections made;
  std::uint64_t first = 0;
  for (const Part& part : parts) {
    auto rows = projection(tensors, fused ? "attn_qkv" : part.name, fused ? first : 0, part.count, fused ? all : part.count, *norm, *norm_bias);
    if (!rows) return rows.error();
    made.*part.rows = std::move(*rows);
    first += part.count;
  }
  return made;
}

}  // namespace cachecard::llama_calibrate
