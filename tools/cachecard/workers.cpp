#include "workers.hpp"

#include <algorithm>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace cachecard::cli {

/// One batch at a time. Everything below is guarded by mutex.
struct Workers::Pool {
  std::size_t width = 1;
  std::mutex mutex;
  std::condition_variable work_came;
  std::condition_variable work_done;
  std::vector<std::thread> threads;
  void (*task)(void*, std::size_t) = nullptr;
  void* context = nullptr;
  std::size_t count = 0;
  std::size_t next = 0;
  std::size_t finished = 0;
  std::exception_ptr failure;
  bool stopping = false;

  /// Takes indices of the batch until none is left. Needs: lock is held.
  void work(std::unique_lock<std::mutex>& lock) {
    while (next < count) {
      const std::size_t index = next++;
      const auto run = task;
      void* const user = context;
      lock.unlock();
      std::exception_ptr thrown;
      try {
        run(user, index);
      } catch (...) {
        thrown = std::current_exception();
      }
      lock.lock();
      if (thrown && !failure) failure = thrown;
      if (++finished == count) work_done.notify_all();
    }
  }

  void thread_main() {
    std::unique_lock lock(mutex);
    for (;;) {
      work_came.wait(lock, [&] { return stopping || next < count; });
      if (stopping) return;
      work(lock);
    }
  }

  void start_threads(std::size_t wanted) {
    try {
      while (threads.size() < wanted) threads.emplace_back([this] { thread_main(); });
    } catch (const std::system_error&) {
      // The machine gives no more: those that run, and the caller's own, do the work.
    }
  }

  void run_batch(std::size_t batch, void (*batch_task)(void*, std::size_t), void* user) {
    std::unique_lock lock(mutex);
    const std::size_t wanted = std::min(width, batch) - 1;
    start_threads(wanted);
    task = batch_task;
    context = user;
    next = finished = 0;
    count = batch;
    failure = nullptr;
    work_came.notify_all();
    work(lock);
    work_done.wait(lock, [&] { return finished == count; });
    next = count = 0;
    if (failure) std::rethrow_exception(failure);
  }
};

Workers::Workers(unsigned threads) : pool_(std::make_unique<Pool>()) {
  const unsigned cores = std::clamp(std::thread::hardware_concurrency(), 1u, 8u);
  pool_->width = threads == 0 ? cores : threads;
}

Workers::~Workers() {
  {
    const std::lock_guard lock(pool_->mutex);
    pool_->stopping = true;
  }
  pool_->work_came.notify_all();
  for (std::thread& thread : pool_->threads) thread.join();
}

ParallelFor Workers::parallel() {
  ParallelFor parallel;
  if (pool_->width == 1) return parallel;
  parallel.run = [](void* user, std::size_t count, void (*task)(void*, std::size_t), void* context) {
    static_cast<Pool*>(user)->run_batch(count, task, context);
  };
  parallel.user = pool_.get();
  parallel.width = pool_->width;
  return parallel;
}

}  // namespace cachecard::cli
