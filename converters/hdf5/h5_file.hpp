#pragma once

#include <hdf5.h>

#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>

#include "cachecard/io.hpp"

namespace cachecard::hdf5 {

/// An identifier of the HDF5 library. Invariant: negative, or owned and closed at the end.
class Handle {
 public:
  using Close = herr_t (*)(hid_t);
  Handle() = default;
  Handle(hid_t id, Close how) : id_(id), close_(how) {}
  Handle(Handle&& other) noexcept : id_(std::exchange(other.id_, -1)), close_(other.close_) {}
  Handle& operator=(Handle&& other) noexcept {
    if (this != &other) {
      static_cast<void>(close());
      id_ = std::exchange(other.id_, -1);
      close_ = other.close_;
    }
    return *this;
  }
  ~Handle() { static_cast<void>(close()); }

  explicit operator bool() const { return id_ >= 0; }
  hid_t get() const { return id_; }
  /// False where closing failed: of a written file, that its last bytes did not reach the sink.
  bool close() { return id_ < 0 || close_(std::exchange(id_, -1)) >= 0; }

 private:
  hid_t id_ = -1;
  Close close_ = nullptr;
};

/// An HDF5 file in a ByteSource or a RandomSink: the library opens no path by itself, so that pipes, interrupts, full
/// disks and atomic replacement are the caller's as everywhere. The library's calls are made by one thread at a time.
/// Owns: the identifier; source or sink must outlive it
class H5File {
 public:
  /// Errors: foreign_input, truncated, those of the source
  static Result<H5File> open(const ByteSource& source);
  /// Errors: io
  static Result<H5File> create(RandomSink& sink);

  hid_t id() const { return id_.get(); }
  /// Makes every byte reach the sink, which is not committed. Errors: those of the sink
  Status close();
  /// Whether all that was written so far reached the sink, or why not.
  Status written() const;
  /// Held around the library's calls by what may run on several threads.
  std::unique_lock<std::mutex> enter() const;
  /// Why the library's last call failed: what source or sink said, else the code and the library's own words.
  Error error(ErrorCode code, const std::string& where, const std::string& what) const;

 private:
  struct Driver;
  H5File(std::unique_ptr<std::optional<Error>> failure, Handle id)
      : failure_(std::move(failure)), id_(std::move(id)) {}

  std::unique_ptr<std::optional<Error>> failure_;  ///< of the last read or write; the driver's, hence its own address
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  Handle id_;
};

/// Keeps the library from tidying up as the process ends, when sources and sinks are gone: for a process of our own. Before
/// any other call.
void leave_files_at_exit();

/// An open group or dataset, with its path for messages. Owns: id; file must outlive it
struct H5Node {
  const H5File* file = nullptr;
  Handle id;
  std::string path;  ///< "" for the root

  std::string child(const std::string& name) const { return path + "/" + name; }
  /// The library failed.
  Error failed(const std::string& what) const { return file->error(ErrorCode::kCorrupt, path, what); }
};

/// A file that is not laid out as spec/HDF5.md says: what was found, what is allowed.
inline Error h5_refusal(const std::string& where, std::string detail) {
  return {ErrorCode::kForeignInput, kNoOffset, where, std::move(detail)};
}

}  // namespace cachecard::hdf5
