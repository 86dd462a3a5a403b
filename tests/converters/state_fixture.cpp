#include "state_fixture.hpp"

#include <catch2/catch.hpp>
#include <cstring>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace cachecard::llama_cpp::test {
namespace {

const std::string kFolder = std::string(CACHECARD_FIXTURES_DIR) + "/caches/";

/// Value of a key in one line of caches.json, which has one file a line.
std::string value_of(const std::string& line, const std::string& key) {
  const std::string start = "\"" + key + "\": ";
  const auto at = line.find(start);
  if (at == std::string::npos) return {};
  auto from = at + start.size();
  if (line[from] != '"') return line.substr(from, line.find_first_of(",}", from) - from);
  ++from;
  return line.substr(from, line.find('"', from) - from);
}

std::uint64_t number_of(const std::string& line, const std::string& key) {
  const std::string text = value_of(line, key);
  return text.empty() || text == "null" ? 0 : std::stoull(text);
}

}  // namespace

std::vector<FixtureFacts> fixture_facts() {
  std::ifstream in(kFolder + "caches.json");
  std::vector<FixtureFacts> all;
  for (std::string line; std::getline(in, line);) {
    if (line.rfind("{\"file\"", 0) != 0) continue;
    FixtureFacts facts;
    facts.file = value_of(line, "file");
    facts.model = value_of(line, "model");
    facts.module = value_of(line, "module");
    facts.convertible = value_of(line, "convertible");
    facts.layout = value_of(line, "layout");
    facts.rotated = value_of(line, "rotated") == "true";
    facts.cells = number_of(line, "cells");
    facts.token_count = number_of(line, "token_count");
    facts.checkpoints = number_of(line, "checkpoints");
    all.push_back(facts);
  }
  return all;
}

FixtureFacts fixture(const std::string& file) {
  for (const auto& facts : fixture_facts()) {
    if (facts.file == file) return facts;
  }
  throw std::runtime_error("no fixture " + file);
}

Bytes read_bytes(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + path);
  const std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  Bytes bytes(text.size());
  if (!bytes.empty()) std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

Bytes fixture_bytes(const FixtureFacts& facts) { return read_bytes(kFolder + facts.file); }

ModelFacts fixture_model(const FixtureFacts& facts) {
  auto model = read_model(kFolder + "models/" + facts.model, {.weights_digest = false, .cache_folder = {}});
  if (!model) throw std::runtime_error(model.error().message());
  return *std::move(model);
}

ParseOptions fixture_options(const FixtureFacts& facts) {
  ParseOptions options;
  options.rotated = facts.rotated;
  return options;
}

Result<std::unique_ptr<MadeCard>> make_card(const Bytes& state, const ModelFacts& model,
                                            const ParseOptions& options, const CardOptions& card_options) {
  const MemorySource bytes(state);
  auto parsed = parse_state(bytes, &model, options);
  if (!parsed) return parsed.error();
  auto source = state_source(bytes, *std::move(parsed), model);
  if (!source) return source.error();
  MemorySink sink;
  auto report = write_card(**source, sink, card_options);
  if (!report) return report.error();
  auto card = std::make_unique<MadeCard>();
  card->bytes = std::move(sink.bytes());
  card->source = MemorySource(card->bytes);
  auto reader = CardReader::open(card->source);
  if (!reader) return reader.error();
  card->reader.push_back(*std::move(reader));
  return card;
}

std::unique_ptr<MadeCard> fixture_card(const std::string& file, const CardOptions& options) {
  const FixtureFacts facts = fixture(file);
  auto card = make_card(fixture_bytes(facts), fixture_model(facts), fixture_options(facts), options);
  INFO(file << ": " << (card ? "" : card.error().message()));
  REQUIRE(card);
  return *std::move(card);
}

StateTemplate template_of_fixture(const std::string& file) {
  const FixtureFacts facts = fixture(file);
  const ModelFacts model = fixture_model(facts);
  const Bytes bytes = fixture_bytes(facts);
  auto parsed = parse_state(MemorySource(bytes), &model, fixture_options(facts));
  REQUIRE(parsed);
  auto target = template_of(*parsed);
  REQUIRE(target);
  return *target;
}

Result<Bytes> write(const CardReader& card, const StateTemplate& target, const StateWriteOptions& options) {
  MemorySink sink;
  auto report = write_state(card, target, sink, options);
  if (!report) return report.error();
  CHECK(report->file_size == sink.bytes().size());
  return std::move(sink.bytes());
}

std::string refusal(const CardReader& card, const StateTemplate& target, std::uint64_t tokens) {
  StateWriteOptions options;
  options.token_count = tokens;
  const auto bytes = write(card, target, options);
  return bytes ? std::string() : bytes.error().message();
}

void set_type(StateTemplate::Cache& cache, DType dtype, std::uint64_t row_bytes) {
  for (auto& type : cache.key_types) type = dtype;
  for (auto& type : cache.value_types) type = dtype;
  for (auto& bytes : cache.key_row_bytes) bytes = row_bytes;
  for (auto& bytes : cache.value_row_bytes) bytes = row_bytes;
}

ModelFacts small_model(std::uint32_t layer_count) {
  ModelFacts model;
  model.architecture = "llama";
  model.layer_count = layer_count;
  model.kv_head_count.assign(layer_count, 2);
  model.key_head_dim.assign(layer_count, 64);
  model.value_head_dim.assign(layer_count, 64);
  model.layer_is_sliding.assign(layer_count, 0);
  model.layer_has_rope.assign(layer_count, 1);
  model.rope_dimension_count = 64;
  model.rope_pairing = RopePairing::kInterleaved;
  model.identity.set_text(IdentityField::kArchitecture, "llama");
  return model;
}

void append(Bytes& bytes, const void* data, std::size_t size) {
  const std::size_t end = bytes.size();
  bytes.resize(end + size);
  if (size != 0) std::memcpy(bytes.data() + end, data, size);
}

Bytes HandState::bytes() const {
  Bytes out;
  append(out, magic);
  append(out, version);
  append(out, static_cast<std::uint32_t>(words.size()));
  append(out, words.data(), words.size() * 4);
  append(out, n_stream);
  append(out, static_cast<std::uint32_t>(positions.size()));
  for (std::size_t i = 0; i < positions.size(); ++i) {
    append(out, positions[i]);
    append(out, sequence_count);
    append(out, sequences[i]);
  }
  append(out, v_trans);
  append(out, n_layer);
  if (version == 4 || version == 11) {
    append(out, n_rot_k);
    append(out, n_rot_v);
  }
  for (std::uint32_t tensor = 0; tensor < 2 * n_layer; ++tensor) {
    append(out, type);
    append(out, row_bytes);
    for (std::uint64_t i = 0; i < positions.size() * row_bytes / 2; ++i) {
      append(out, static_cast<std::uint16_t>(0x3000 + (tensor * 517 + i * 7) % 0x800));
    }
  }
  append(out, trailing.data(), trailing.size());
  return out;
}

}  // namespace cachecard::llama_cpp::test
