#include "pt_source.hpp"

#include "pt_error.hpp"

namespace cachecard::pytorch {
namespace {

/// Invariant: stream 2i is the key of layer i, stream 2i + 1 its value.
class PtSource final : public CacheSource {
 public:
  PtSource(const ByteSource& source, PtCache cache, CacheLayout layout, std::optional<RopeTable> table)
      : source_(source),
        cache_(std::move(cache)),
        layout_(std::move(layout)),
        rope_table_(std::move(table)) {}

  const CardHeader& header() const override { return layout_.header; }
  std::span<const std::int32_t> token_ids() const override { return layout_.token_ids; }
  std::span<const std::int32_t> positions() const override { return layout_.positions; }
  const RopeTable* rope_table() const override { return rope_table_ ? &*rope_table_ : nullptr; }

  Status read_rows(std::size_t stream_index, std::uint64_t first_token, std::uint64_t token_count,
                   std::span<std::byte> out) const override {
    if (stream_index >= layout_.header.streams.size()) {
      return Error{ErrorCode::kInvalidArgument, kNoOffset, "stream", "the source has no such stream"};
    }
    const StreamRecord& stream = layout_.header.streams[stream_index];
    const PtTensor& tensor = (stream_index % 2 == 0 ? cache_.keys : cache_.values)[stream_index / 2];
    const bool inside = first_token >= stream.first_token && token_count <= stream.token_count &&
                        first_token - stream.first_token <= stream.token_count - token_count;
    if (!inside || out.size() != token_count * tensor.shape.row_bytes()) {
      return Error{ErrorCode::kInvalidArgument, kNoOffset, "first_token",
                   "rows outside what the stream holds"};
    }
    return read_strided_rows(source_, tensor.offset, tensor.shape, first_token - stream.first_token,
                             token_count, out);
  }

 private:
  const ByteSource& source_;
  PtCache cache_;
  CacheLayout layout_;
  std::optional<RopeTable> rope_table_;
};

Status merge(std::vector<std::int32_t>& given, const std::vector<std::int32_t>& in_file,
             std::string_view name) {
  if (in_file.empty()) return {};
  if (given.empty()) given = in_file;
  if (given == in_file) return {};
  return pt_error(kNoOffset, name,
                  "the file has " + std::to_string(in_file.size()) + ", others than the " +
                      std::to_string(given.size()) + " that were given");
}

}  // namespace

Status take_lists(const PtCache& cache, CacheFacts& facts) {
  if (Status s = merge(facts.token_ids, cache.token_ids, "token_ids"); !s) return s;
  return merge(facts.positions, cache.positions, "positions");
}

Result<std::unique_ptr<CacheSource>> pt_source(const ByteSource& source, PtCache cache, CacheFacts facts) {
  if (Status s = take_lists(cache, facts); !s) return s.error();
  auto table = facts.rope_state == RopeState::kNone ? std::nullopt : std::move(facts.rope_table);
  auto layout = lay_out(cache.shapes, std::move(facts));
  if (!layout) return layout.error();
  return std::unique_ptr<CacheSource>(
      new PtSource(source, std::move(cache), std::move(*layout), std::move(table)));
}

}  // namespace cachecard::pytorch
