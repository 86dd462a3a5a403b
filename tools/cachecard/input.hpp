#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "cachecard/io.hpp"

namespace cachecard::cli {

/// How messages call a path: "standard input" for "-" (or "standard output").
std::string input_name(const std::string& path);
std::string output_name(const std::string& path);

/// Whether bytes come in order only: "-", a FIFO, a device.
bool is_pipe(const std::string& path);

/// A file for positioned reads; a pipe is copied to its end into an unlinked temporary file first.
/// Reads fail with `interrupted` once a signal came.
/// Errors: io, interrupted
Result<std::unique_ptr<ByteSource>> open_input(const std::string& path);

/// A file or pipe in order, whose reads fail with `interrupted` once a signal came.
/// Errors: io
Result<std::unique_ptr<ByteStream>> open_input_stream(const std::string& path);

/// Reads from a stream until out is full or the input ends; returns how many bytes.
Result<std::size_t> read_up_to(ByteStream& stream, std::span<std::byte> out);

/// The head of a stream that was already taken from it, then the rest.
class HeadStream final : public ByteStream {
 public:
  HeadStream(std::vector<std::byte> head, ByteStream& rest) : head_(std::move(head)), rest_(rest) {}
  Result<std::size_t> read(std::span<std::byte> out) override;

 private:
  std::vector<std::byte> head_;
  std::size_t taken_ = 0;
  ByteStream& rest_;
};

/// Copies a stream to its end into an unlinked temporary file.
Result<std::unique_ptr<ByteSource>> spool(ByteStream& stream);

/// What first bytes say. Foreign formats: formats.hpp.
enum class InputKind { kCard, kState, kTorch, kGguf, kSafetensors, kHdf5, kEmpty, kUnknown };
InputKind kind_of(std::span<const std::byte> head);
/// Errors: io, interrupted
Result<InputKind> kind_of(const ByteSource& source);
/// What to say of bytes that are neither: truncated where there are none, else foreign_input.
Error unknown_input(InputKind kind, std::span<const std::byte> head);
Error unknown_input(InputKind kind, const ByteSource& source);

/// Bytes that tell what an input is.
inline constexpr std::size_t kHeadBytes = 64;

}  // namespace cachecard::cli
