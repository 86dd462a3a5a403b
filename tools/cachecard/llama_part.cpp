#include "llama_part.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "context.hpp"
#include "input.hpp"
#include "model_flags.hpp"
#include "module.hpp"
#include "output_file.hpp"

namespace cachecard::cli {
namespace {

using llama_calibrate::LlamaModule;
using llama_calibrate::ProbeText;

constexpr std::uint64_t kMostProbeBytes = 1u << 20;

}  // namespace

Result<const LlamaModule*> llama_module() {
  return module_of<LlamaModule>(
      "build CacheCard with -DCACHECARD_WITH_LLAMA=ON and libllama's CMake package (tools/setup.bash makes one)");
}

Result<ProbeText> read_probe(const std::string& path, const std::string& name) {
  const auto failed = [&](Error error) {
    error.detail = name + ": " + error.detail;
    return error;
  };
  auto input = open_input(path);
  if (!input) return failed(input.error());
  const std::uint64_t size = (*input)->size();
  if (size > kMostProbeBytes) {
    return failed({ErrorCode::kLimitExceeded,
                   kNoOffset,
                   {},
                   fmt::format("found {} bytes, allowed {}", size, kMostProbeBytes)});
  }
  ProbeText text{name, std::string(size, '\0')};
  if (Status s = (*input)->read_at(0, std::as_writable_bytes(std::span(text.text))); !s)
    return failed(s.error());
  return text;
}

Result<std::vector<TokenWeights>> probe_weights(const CacheSource& source,
                                                const std::vector<ProbeText>& texts, const std::string& model,
                                                const ParallelFor& parallel) {
  auto module = llama_module();
  if (!module) return module.error();
  auto file = UnlinkedFile::create();
  if (!file) return file.error();
  CardOptions exact;
  exact.parallel = parallel;
  exact.source_layout = false;
  auto written = write_card(source, **file, exact);
  if (!written) return written.error();
  const UnlinkedSource bytes(std::move(*file));
  auto card = CardReader::open(bytes);
  if (!card) return card.error();
  llama_calibrate::ProbeOptions options;
  options.model_path = model;
  options.digest_folder = digest_cache_folder();
  options.threads = static_cast<std::uint32_t>(std::max<std::size_t>(1, parallel.width));
  options.parallel = parallel;
  options.progress = [](std::uint64_t, std::uint64_t) { return !interrupted(); };
  auto probed = (*module)->run_probe(*card, texts, options);
  if (!probed) return probed.error();
  std::vector<TokenWeights> weights;
  for (auto& one : *probed) weights.push_back(std::move(one.weights));
  return weights;
}

}  // namespace cachecard::cli
