#include "llama_calibrate/calibrate.hpp"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "cost_meter.hpp"
#include "layer_statistics.hpp"
#include "llama_cpp/gguf_model.hpp"
#include "observe.hpp"

namespace cachecard::llama_calibrate {
namespace {

constexpr std::uint32_t kLeastContext = 64;
constexpr std::size_t kLeastWindow = 128;    ///< a text's last window, unless it is the only one
constexpr double kLeastDivergence = 1e-9;    ///< nats; whatever costs less costs that
constexpr std::uint64_t kSamples = 4096;     ///< queries of a head that centroids are made of

Error refused(ErrorCode code, std::string detail) { return {code, kNoOffset, {}, std::move(detail)}; }

/// One calibration. Its steps in their order: load, observe, measure.
class Run {
 public:
  Run(const std::vector<CalibrationText>& texts, const CalibrateOptions& options) : texts_(texts), options_(options) {
    ticker_.progress = options.progress;
  }

  Result<Calibration> all();

 private:
  using Span = std::span<const llama_token>;

  Status load();
  Status tokenise();
  Status check_layers() const;
  std::vector<Span> windows() const;
  std::vector<Span> cost_windows() const;
  Status observe();
  Status measure();
  std::vector<Head> heads() const;
  void say(const std::string& line) const {
    if (options_.detail) options_.detail(line);
  }

  const std::vector<CalibrationText>& texts_;
  const CalibrateOptions& options_;
  Ticker ticker_;
  QuietLog log_;
  llama_cpp::ModelFacts facts_;
  ModelPtr model_;
  std::vector<Tokens> tokens_;  ///< by text
  Calibration made_;
};

Status Run::load() {
  llama_cpp::ModelOptions reading;
  reading.cache_folder = options_.digest_folder;
  auto facts = llama_cpp::read_model(options_.model_path, reading);
  if (!facts) return facts.error();
  facts_ = std::move(*facts);
  if (Status s = check_model(facts_); !s) return s;
  if (Status s = check_layers(); !s) return s;
  facts_.identity.set_text(IdentityField::kProducer, std::string("libllama ") + llama_version());
  say(options_.own_weights ? "loading the model" : "making an F32 copy of the model in " + options_.scratch_folder);
  auto model = load_model(options_.model_path, options_.own_weights ? std::string() : options_.scratch_folder, options_.threads, log_);
  if (!model) return model.error();
  model_ = std::move(*model);
  return {};
}

Status Run::check_layers() const {
  const std::uint32_t end = std::min(options_.end_layer, facts_.layer_count);
  for (std::uint32_t layer = options_.first_layer; layer < end; ++layer) {
    if (facts_.kv_head_count[layer] != 0) return {};
  }
  const std::string last = options_.end_layer > facts_.layer_count ? "on" : "to " + std::to_string(options_.end_layer - 1);
  return refused(ErrorCode::kInvalidArgument, "no layer with keys and values from " + std::to_string(options_.first_layer) + " " +
                                                  last + ": the model has layers 0 to " + std::to_string(facts_.layer_count - 1));
}

Status Run::tokenise() {
  for (const CalibrationText& text : texts_) {
    tokens_.push_back(tokenize(model_.get(), text.text));
    made_.report.text_tokens.push_back(tokens_.back().size());
    if (tokens_.back().size() >= least_tokens(options_)) continue;
    return refused(ErrorCode::kInvalidArgument, text.name + ": a text of " + std::to_string(tokens_.back().size()) +
                                                    " tokens, needed are " + std::to_string(least_tokens(options_)));
  }
  if (tokens_.empty()) return refused(ErrorCode::kInvalidArgument, "no text to calibrate with");
  return {};
}

std::vector<Run::Span> Run::windows() const {
  std::vector<Span> windows;
  for (const Tokens& tokens : tokens_) {
    for (std::size_t at = 0; at < tokens.size(); at += options_.window) {
      const std::size_t count = std::min<std::size_t>(options_.window, tokens.size() - at);
      if (at == 0 || count >= kLeastWindow) windows.push_back(Span(tokens).subspan(at, count));
    }
  }
  return windows;
}

/// The first of each text, then the second ones: every text counts before one counts twice.
std::vector<Run::Span> Run::cost_windows() const {
  const std::size_t whole = std::size_t{options_.context} + options_.scored;
  std::vector<Span> windows;
  for (std::size_t at = 0, before = tokens_.size(); before > 0; at += whole) {
    before = 0;
    for (const Tokens& tokens : tokens_) {
      if (windows.size() == options_.cost_windows) return windows;
      if (tokens.size() < at + (at == 0 ? least_tokens(options_) : whole)) continue;
      windows.push_back(Span(tokens).subspan(at, std::min(tokens.size() - at, whole)));
      ++before;
    }
  }
  return windows;
}

std::vector<Head> Run::heads() const {
  std::vector<Head> heads;
  for (std::uint32_t layer = options_.first_layer; layer < std::min(options_.end_layer, facts_.layer_count); ++layer) {
    for (std::uint32_t head = 0; head < facts_.kv_head_count[layer]; ++head) {
      heads.push_back({layer, head, true});
      heads.push_back({layer, head, false});
    }
  }
  return heads;
}

Status Run::observe() {
  const auto spans = windows();
  std::uint64_t total = 0;
  for (const Span& span : spans) total += span.size();
  made_.report.observed_tokens = total;
  auto observer = Observer::create(model_.get(), facts_, options_.window, options_.threads, ticker_);
  if (!observer) return observer.error();
  std::vector<LayerStatistics> statistics;
  for (const Span& span : spans) {
    auto observed = (*observer)->observe(span, options_.first_layer, options_.end_layer);
    if (!observed) return observed.error();
    for (std::size_t i = 0; i < observed->layers.size(); ++i) {
      if (statistics.size() == i) statistics.emplace_back(observed->layers[i], total, kSamples);
      statistics[i].add(observed->layers[i]);
    }
    made_.profile.header = std::move(observed->header);
  }
  say("fitting maps and centroids of " + std::to_string(statistics.size()) + " layers");
  for (const LayerStatistics& layer : statistics) {
    made_.profile.layers.push_back(layer.profile({options_.rank, options_.centroids}));
    made_.report.explained += layer.explained(made_.profile.layers.back()) / static_cast<double>(statistics.size());
    if (!ticker_.go_on()) return stopped();
  }
  return {};
}

/// Windows count by the mean of ln KL, as texts do in tests/fidelity: a few tokens of one text would outweigh all others else.
/// (Halves of the windows then agree on ln cost with a correlation of 0.84 instead of 0.76.)
Status Run::measure() {
  const auto all = heads();
  CostMeter::Options measuring{options_.context, options_.scored, options_.threads, options_.step, options_.parallel};
  auto meter = CostMeter::create(model_.get(), facts_, measuring, ticker_);
  if (!meter) return meter.error();
  std::vector<double> logs(all.size());
  const auto spans = cost_windows();
  const auto count = static_cast<double>(spans.size());
  for (std::size_t i = 0; i < spans.size(); ++i) {
    say("disturbing " + std::to_string(all.size()) + " heads in window " + std::to_string(i + 1) + " of " + std::to_string(spans.size()));
    auto costs = meter->measure(spans[i], all, made_.profile.layers);
    if (!costs) return costs.error();
    made_.report.undisturbed += costs->undisturbed / count;
    for (std::size_t h = 0; h < all.size(); ++h) {
      logs[h] += std::log(std::max(costs->divergence[h] - costs->undisturbed, kLeastDivergence)) / count;
    }
  }
  for (std::size_t h = 0; h < all.size(); ++h) {
    for (ProfileLayer& layer : made_.profile.layers) {
      if (layer.record.layer != all[h].layer) continue;
      const double cost = std::exp(logs[h]) / (options_.step * options_.step);
      (all[h].key ? layer.key_costs : layer.value_costs)[all[h].head] = static_cast<float>(cost);
    }
  }
  std::sort(logs.begin(), logs.end());
  made_.report.cost_windows = spans.size();
  made_.report.disturbances = all.size();
  made_.report.least = std::exp(logs.front());
  made_.report.median = std::exp(logs[logs.size() / 2]);
  made_.report.most = std::exp(logs.back());
  return {};
}

Result<Calibration> Run::all() {
  const auto start = std::chrono::steady_clock::now();
  if (Status s = load(); !s) return s.error();
  if (Status s = tokenise(); !s) return s.error();
  const std::size_t head_count = heads().size();
  for (const Span& window : windows()) ticker_.total += window.size();
  for (const Span& window : cost_windows()) ticker_.total += CostMeter::work(window.size(), options_.scored, head_count);
  if (Status s = observe(); !s) return s.error();
  if (Status s = measure(); !s) return s.error();
  made_.report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::move(made_);
}

}  // namespace

std::uint32_t least_tokens(const CalibrateOptions& options) { return kLeastContext + options.scored; }

Result<Calibration> calibrate(const std::vector<CalibrationText>& texts, const CalibrateOptions& options) {
  return Run(texts, options).all();
}

}  // namespace cachecard::llama_calibrate
