#pragma once

#include <array>
#include <map>
#include <optional>

#include "cachecard/reader.hpp"
#include "chunked_writer.hpp"

namespace cachecard::hdf5 {

/// Scales and steps of a stream's chunks, token by token: of planes the head vectors' scales and what they come to, of
/// ggml the blocks' own. Tokens without any (exact ones, raw chunks) have 0.   Spec: HDF5.md#scales-and-steps
class StepWriter {
 public:
  /// Creates the datasets that the stream has. Needs: the stream is not opaque
  /// buffers must outlive the writer
  using Buffers = std::array<ChunkBuffers, 3>;
  static Result<StepWriter> create(const CardReader& card, std::size_t stream_index, const H5Node& group,
                                   Buffers& buffers);
  /// Of every chunk of the stream, in order. Errors: the card's, the sink's
  Status append(std::size_t frame);
  /// What stands once a chunk.
  Status finish(const H5Node& group) const;

 private:
  StepWriter(const CardReader& card, std::size_t stream_index) : card_(&card), stream_(stream_index) {}
  Status append_planes(std::size_t frame);
  Status append_blocks(std::size_t frame);
  Result<std::uint64_t> head_vectors(const FrameHeader& frame) const;
  Result<std::vector<std::uint64_t>> coded_tokens(const FrameHeader& frame);

  const CardReader* card_;
  std::size_t stream_;
  std::uint64_t units_ = 0;  ///< planes: head vectors of a token; ggml: blocks of a row; 0: nothing is written
  std::optional<ChunkedWriter> scale_, step_, minimum_;
  std::vector<std::int16_t> tops_;  ///< [chunk][head vector]
  std::map<std::uint32_t, BitWidthMap> maps_;  ///< of the segment at hand
};

}  // namespace cachecard::hdf5
