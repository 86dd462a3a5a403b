#pragma once

#include <memory>

#include "cachecard/io.hpp"

namespace cachecard::cli {

/// Threads for the library's ParallelFor, started at its first use and joined at the end.
/// The caller's thread works too: width 1 starts none.
class Workers {
 public:
  /// threads 0: one per core, at most 8.
  explicit Workers(unsigned threads);
  ~Workers();
  Workers(const Workers&) = delete;
  Workers& operator=(const Workers&) = delete;

  /// Valid as long as this object. An exception of a task is thrown again by the call, once all
  /// tasks are done.
  ParallelFor parallel();

 private:
  struct Pool;
  std::unique_ptr<Pool> pool_;
};

}  // namespace cachecard::cli
