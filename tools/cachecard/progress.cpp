#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <memory>

#include "context.hpp"
#include "table.hpp"

namespace cachecard::cli {
namespace {

using Clock = std::chrono::steady_clock;

std::string bytes_text(std::uint64_t done, std::uint64_t total, Clock::duration) {
  if (total == 0) return human_bytes(done);
  return fmt::format("{} of {}  {:.0f} %", human_bytes(done), human_bytes(total), 100.0 * double(done) / double(total));
}

/// Time left at the pace so far, not said before there is one.
std::string tokens_text(std::uint64_t done, std::uint64_t total, Clock::duration took) {
  std::string text = fmt::format("{} of {} tokens", grouped(done), grouped(total));
  const double seconds = std::chrono::duration<double>(took).count();
  if (done == 0 || done > total || seconds < 2.0) return text;
  const auto left = static_cast<std::uint64_t>(seconds * double(total - done) / double(done));
  return text + (left < 90 ? fmt::format("  about {} s left", left) : fmt::format("  about {} min left", (left + 30) / 60));
}

/// One line on a terminal, rewritten in place; gone when the object is.
class Line {
 public:
  using Text = std::string (*)(std::uint64_t done, std::uint64_t total, Clock::duration took);

  Line(std::string label, Text text) : label_(std::move(label)), text_(text) {}
  Line(const Line&) = delete;
  Line& operator=(const Line&) = delete;
  ~Line() {
    if (shown_) std::fputs("\r\x1b[K", stderr);
  }

  void show(std::uint64_t done, std::uint64_t total) {
    const auto now = Clock::now();
    if (now - last_ < std::chrono::milliseconds(100)) return;
    last_ = now;
    shown_ = true;
    const std::string text = fmt::format("\r\x1b[K{}  {}", label_, text_(done, total, now - start_));
    std::fputs(text.c_str(), stderr);
  }

 private:
  std::string label_;
  Text text_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

using Progress = std::function<bool(std::uint64_t, std::uint64_t)>;

Progress shown_as(const Context& context, std::string label, Line::Text text) {
  if (context.quiet || ::isatty(STDERR_FILENO) == 0) {
    return [](std::uint64_t, std::uint64_t) { return !interrupted(); };
  }
  auto line = std::make_shared<Line>(std::move(label), text);
  return [line](std::uint64_t done, std::uint64_t total) {
    line->show(done, total);
    return !interrupted();
  };
}

}  // namespace

Progress progress_line(const Context& context, std::string label) { return shown_as(context, std::move(label), bytes_text); }

Progress token_progress_line(const Context& context, std::string label) {
  return shown_as(context, std::move(label), tokens_text);
}

}  // namespace cachecard::cli
