#pragma once

#include <chrono>
#include <string>
#include <vector>

namespace cachecard::llama_server {

/// How long a step took.
struct StepTime {
  std::string step;
  double seconds = 0.0;
};

/// Cuts time into steps: each lap() is the time since the one before.
class StepClock {
 public:
  void lap(std::string step, std::vector<StepTime>& times) {
    const auto now = std::chrono::steady_clock::now();
    times.push_back({std::move(step), std::chrono::duration<double>(now - last_).count()});
    last_ = now;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace cachecard::llama_server
