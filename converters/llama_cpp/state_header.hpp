#pragma once

#include "foreign_reader.hpp"
#include "state_file.hpp"

/// What stands before and after the memory payload. Magic numbers live here and nowhere else.
namespace cachecard::llama_cpp {

inline constexpr std::uint32_t kSessionMagic = 0x6767736E;   ///< "nsgg" on disk
inline constexpr std::uint32_t kSequenceMagic = 0x67677371;  ///< "qsgg"
inline constexpr std::uint32_t kMemoryMagic = 0xAF143CD8;
inline constexpr std::uint32_t kCheckpointMagic = 0x504B4353;  ///< "SCKP"
inline constexpr std::int32_t kBlobMarker = -1;                ///< llama-server's packed tokens begin with it
inline constexpr std::uint32_t kBlobVersion = 1;
inline constexpr std::uint32_t kMaxArchitectureBytes = 64;

/// Version numbers that a layout has in session and sequence files.
std::uint32_t session_version(StateLayout layout);
std::uint32_t sequence_version(StateLayout layout);

/// Magic, version and header words of a session or sequence file. Sets version, layout, words, tokens.
Status parse_file_header(ForeignReader& reader, StateFile& state);

/// u32 length and bytes. Errors: foreign_input where it cannot be an architecture's name
Result<std::string> parse_architecture(ForeignReader& reader);

/// Token ids of llama-server's blob; media chunks are walked over. Errors: foreign_input
Result<std::vector<std::int32_t>> parse_token_blob(std::span<const std::int32_t> words, std::uint64_t offset);

/// The words that llama-server packs for a list of tokens without media.
std::vector<std::int32_t> make_token_blob(std::span<const std::int32_t> tokens);

/// Walks over llama-server's context checkpoints. False: what stands here are none.
/// Errors: truncated
Result<bool> skip_checkpoints(ForeignReader& reader);

}  // namespace cachecard::llama_cpp
