#include "plan_source.hpp"

#include <algorithm>
#include <thread>

namespace cachecard::tests {

Status PlanSource::read_rows(std::size_t stream, std::uint64_t first, std::uint64_t count,
                             std::span<std::byte> out) const {
  const StreamRecord& record = plan_.header.streams[stream];
  const std::uint64_t size = row_bytes(record, static_cast<DType>(record.dtype));
  const auto rows =
      std::span(plan_.stream_bytes[stream]).subspan((first - record.first_token) * size, count * size);
  std::copy(rows.begin(), rows.end(), out.begin());
  return {};
}

Status PlanSource::read_opaque(std::size_t stream, std::uint64_t offset, std::span<std::byte> out) const {
  const auto bytes = std::span(plan_.stream_bytes[stream]).subspan(offset, out.size());
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return {};
}

Status PlanSource::read_literals(std::uint64_t offset, std::span<std::byte> out) const {
  const auto bytes = std::span(literals_).subspan(offset, out.size());
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return {};
}

void PlanSource::set_literals(std::vector<std::byte> literals) {
  literals_ = std::move(literals);
  SourceLayout layout;
  layout.record.family = static_cast<std::uint16_t>(SourceFamily::kLlamaCpp);
  layout.record.literal_size = literals_.size();
  layout.record.file_size = literals_.size();
  SourceOperation op;
  op.size = literals_.size();
  layout.operations = {op};
  layout_ = layout;
}

ParallelFor TestThreads::parallel() {
  ParallelFor parallel;
  parallel.user = this;
  parallel.width = threads;
  parallel.run = [](void* user, std::size_t count, void (*task)(void*, std::size_t), void* context) {
    std::atomic<std::size_t> next{0};
    std::vector<std::thread> workers;
    for (std::size_t i = 0; i < static_cast<TestThreads*>(user)->threads; ++i) {
      workers.emplace_back([&] {
        for (std::size_t k = next++; k < count; k = next++) task(context, k);
      });
    }
    for (std::thread& worker : workers) worker.join();
  };
  return parallel;
}

fixtures::CardPlan two_segment_plan(DType dtype, std::uint32_t hadamard_size) {
  fixtures::CardPlan plan =
      fixtures::make_plan("two_segments_" + std::string(name_of(dtype)), "", 23, "", "");
  for (std::uint32_t layer = 0; layer < 2; ++layer) {
    fixtures::add_layer(plan, layer, dtype,
                        {.kv_head_count = 2, .head_dim = 32, .hadamard_size = hadamard_size});
  }
  fixtures::cut_segments(plan, {14, 9});
  plan.chunk_tokens = 5;
  return plan;
}

std::vector<float> decode_all(const CardReader& card, std::size_t stream) {
  const StreamRecord& record = card.header().streams[stream];
  std::vector<float> values(record.token_count * row_elements(record));
  const DecodeTarget target{values.data(),
                            DType::kF32,
                            static_cast<std::int64_t>(row_elements(record) * 4),
                            static_cast<std::int64_t>(record.head_dim) * 4,
                            4,
                            nullptr};
  const Status status = card.decode({stream, record.first_token, record.token_count, false}, target);
  return status ? values : std::vector<float>();
}

std::vector<std::byte> written(const PlanSource& source, const CardOptions& options) {
  MemorySink sink;
  const auto report = write_card(source, sink, options);
  return report ? std::move(sink.bytes()) : std::vector<std::byte>();
}

}  // namespace cachecard::tests
