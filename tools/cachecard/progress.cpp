#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "context.hpp"
#include "table.hpp"

namespace cachecard::cli {
namespace {

/// One line on a terminal, rewritten in place; gone when the object is.
class Line {
 public:
  explicit Line(std::string label) : label_(std::move(label)) {}
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;
  ~Line() {
    if (shown_) std::fputs("\r\x1b[K", stderr);
  }

  void show(std::uint64_t done, std::uint64_t total) {
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    shown_ = true;
    const std::string text = total == 0
                                 ? fmt::format("\r\x1b[K{}  {}", label_, human_bytes(done))
                                 : fmt::format("\r\x1b[K{}  {} of {}  {:.0f} %", label_, human_bytes(done),
                                               human_bytes(total), 100.0 * double(done) / double(total));
    std::fputs(text.c_str(), stderr);
  }

 private:
  std::string label_;
  bool shown_ = false;
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace

std::function<bool(std::uint64_t, std::uint64_t)> progress_line(const Context& context, std::string label) {
  if (context.quiet || ::isatty(STDERR_FILENO) == 0) {
    return [](std::uint64_t, std::uint64_t) { return !interrupted(); };
  }
  auto line = std::make_shared<Line>(std::move(label));
  return [line](std::uint64_t done, std::uint64_t total) {
    line->show(done, total);
    return !interrupted();
  };
}

}  // namespace cachecard::cli
