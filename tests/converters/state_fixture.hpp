#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cachecard/reader.hpp"
#include "cachecard/writer.hpp"
#include "llama_cpp/gguf_model.hpp"
#include "llama_cpp/state_source.hpp"
#include "llama_cpp/state_writer.hpp"

/// Real state files of fixtures/caches, and hand-built ones for what no runtime writes.
namespace cachecard::llama_cpp::test {

using Bytes = std::vector<std::byte>;

/// A row of fixtures/caches/caches.json, as far as these tests look at it.
struct FixtureFacts {
  std::string file;
  std::string model;
  std::string module;
  std::string convertible;  ///< streams, opaque, refused
  std::string layout;
  bool rotated = false;
  std::uint64_t cells = 0;
  std::uint64_t token_count = 0;
  std::uint64_t checkpoints = 0;
};

std::vector<FixtureFacts> fixture_facts();
FixtureFacts fixture(const std::string& file);
Bytes read_bytes(const std::string& path);
Bytes fixture_bytes(const FixtureFacts& facts);
/// Facts of a fixture's model, from the metadata file beside it.
ModelFacts fixture_model(const FixtureFacts& facts);
ParseOptions fixture_options(const FixtureFacts& facts);

/// A card made of state bytes, and its reader. The card's bytes live here.
struct MadeCard {
  Bytes bytes;
  MemorySource source{{}};
  std::vector<CardReader> reader;  ///< one; a vector, because readers have no empty state

  const CardReader& operator*() const { return reader.front(); }
  const CardReader* operator->() const { return &reader.front(); }
};
Result<std::unique_ptr<MadeCard>> make_card(const Bytes& state, const ModelFacts& model,
                                            const ParseOptions& options = {},
                                            const CardOptions& card_options = {});
/// Same for a fixture; fails the test where it cannot.
std::unique_ptr<MadeCard> fixture_card(const std::string& file, const CardOptions& options = {});

/// What the runtime that wrote a fixture would want; fails the test where it shows none.
StateTemplate template_of_fixture(const std::string& file);
/// The state that write_state makes, or its error.
Result<Bytes> write(const CardReader& card, const StateTemplate& target,
                    const StateWriteOptions& options = {});
/// Message of write_state's refusal, empty where it wrote.
std::string refusal(const CardReader& card, const StateTemplate& target, std::uint64_t tokens = 0);
void set_type(StateTemplate::Cache& cache, DType dtype, std::uint64_t row_bytes);

/// A plain one-layer model: 2 KV heads of 64, RoPE of neighbours.
ModelFacts small_model(std::uint32_t layer_count = 1);

/// Builds states by hand. The defaults make a valid sequence file of layout 11/4.
struct HandState {
  std::uint32_t magic = 0x67677371;
  std::uint32_t version = 4;
  std::vector<std::int32_t> words{7, 8, 9};
  std::uint32_t n_stream = 1;
  std::vector<std::int32_t> positions{0, 1, 2};
  std::uint32_t sequence_count = 1;
  std::vector<std::int32_t> sequences{0, 0, 0};
  std::uint32_t v_trans = 0;
  std::uint32_t n_layer = 1;
  std::uint32_t n_rot_k = 0;
  std::uint32_t n_rot_v = 0;
  std::int32_t type = 1;
  std::uint64_t row_bytes = 256;
  Bytes trailing;

  Bytes bytes() const;
};

void append(Bytes& bytes, const void* data, std::size_t size);
template <class Number>
void append(Bytes& bytes, Number number) {
  append(bytes, &number, sizeof(number));
}

}  // namespace cachecard::llama_cpp::test
