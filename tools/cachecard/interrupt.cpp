#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "context.hpp"

namespace cachecard::cli {
namespace {

// A signal handler can reach nothing else: the one mutable global of the program.
std::atomic<bool> signalled{false};
int wake_pipe[2] = {-1, -1};  ///< readable once a signal came, so that poll cannot miss it
static_assert(std::atomic<bool>::is_always_lock_free);

void on_signal(int number) {
  if (signalled.exchange(true)) {
    std::signal(number, SIG_DFL);
    std::raise(number);
    return;
  }
  const int saved = errno;
  const char byte = 0;
  [[maybe_unused]] const ssize_t put = ::write(wake_pipe[1], &byte, 1);
  errno = saved;
}

Status wait_for(int fd, short events) {
  pollfd fds[2] = {{fd, events, 0}, {wake_pipe[0], POLLIN, 0}};
  for (;;) {
    if (interrupted()) return interrupted_error();
    if (::poll(fds, wake_pipe[0] < 0 ? 1 : 2, -1) < 0) {
      if (errno == EINTR) continue;
      return Error{ErrorCode::kIo, kNoOffset, {}, std::strerror(errno)};
    }
    if (fds[0].revents != 0) return {};
  }
}

}  // namespace

void catch_signals() {
  if (::pipe2(wake_pipe, O_CLOEXEC | O_NONBLOCK) != 0) wake_pipe[0] = wake_pipe[1] = -1;
  struct sigaction action {};
  action.sa_handler = on_signal;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);  // a closed pipe is an io error like others
}

bool interrupted() noexcept { return signalled.load(std::memory_order_relaxed); }

Error interrupted_error() { return {ErrorCode::kInterrupted, kNoOffset, {}, "stopped by a signal"}; }

Status wait_readable(int fd) { return wait_for(fd, POLLIN); }
Status wait_writable(int fd) { return wait_for(fd, POLLOUT); }

}  // namespace cachecard::cli
