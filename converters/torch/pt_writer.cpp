#include "pt_writer.hpp"

#include <algorithm>

#include "pickle_writer.hpp"
#include "zip_writer.hpp"

namespace cachecard::pytorch {
namespace {

constexpr std::string_view kPrefix = "archive/";

Element element_of(DType dtype) {
  if (dtype == DType::kF16) return Element::kF16;
  return dtype == DType::kBf16 ? Element::kBf16 : Element::kF32;
}

/// A tensor of the file: the stream that its storage comes from.
struct Storage {
  std::size_t stream = 0;
  DType dtype = DType::kF32;
  std::uint64_t token_count = 0;

  std::uint64_t bytes(const CardHeader& header) const {
    return token_count * row_elements(header.streams[stream]) * dtype_info(dtype)->block_bytes;
  }
};

class PtWriter {
 public:
  PtWriter(const CardReader& card, ByteSink& sink, const PtWriteOptions& options)
      : card_(card), header_(card.header()), options_(options), zip_(sink) {}

  Result<PtWriteReport> run();

 private:
  Status plan();
  std::string pickle() const;
  void write_list(PickleWriter& out, std::string_view name, std::size_t first) const;
  void write_rope(PickleWriter& out) const;
  Status add_storages();
  Status add_numbers(const std::vector<std::int32_t>& numbers);
  Status add(std::string_view name, std::span<const std::byte> bytes);
  Result<std::vector<std::byte>> decode(const Storage& storage) const;

  const CardReader& card_;
  const CardHeader& header_;
  const PtWriteOptions& options_;
  ZipWriter zip_;
  std::vector<Storage> storages_;  ///< keys of all layers, then values
  PtFacts facts_;
  std::size_t next_key_ = 0;
};

Status PtWriter::plan() {
  auto layers = card_layers(header_);
  if (!layers) return layers.error();
  if (Status s = check_prefix(header_, options_.decode); !s) return s;
  for (const bool key : {true, false}) {
    for (const CardLayer& layer : *layers) {
      Storage storage;
      storage.stream = key ? layer.key : layer.value;
      const StreamRecord& stream = header_.streams[storage.stream];
      storage.dtype = options_.dtype.value_or(float_type_of(stream));
      storage.token_count = held_tokens(stream, options_.decode);
      storages_.push_back(storage);
    }
  }
  return {};
}

void PtWriter::write_list(PickleWriter& out, std::string_view name, std::size_t first) const {
  out.text(name);
  out.begin_list();
  for (std::size_t i = first; i < first + storages_.size() / 2; ++i) {
    const StreamRecord& stream = header_.streams[storages_[i].stream];
    const std::uint64_t sizes[] = {1, stream.kv_head_count, storages_[i].token_count, stream.head_dim};
    out.tensor(element_of(storages_[i].dtype), std::to_string(i), sizes);
  }
  out.end_list();
}

void PtWriter::write_rope(PickleWriter& out) const {
  out.text("rope_state");
  out.text(name_of(facts_.rope_state));
  out.text("rope_pairing");
  out.text(name_of(facts_.rope_pairing));
}

std::string PtWriter::pickle() const {
  PickleWriter out;
  out.begin_dict();
  write_list(out, "key_cache", 0);
  write_list(out, "value_cache", storages_.size() / 2);
  std::size_t key = storages_.size();
  for (const auto& [name, numbers] :
       {std::pair{"token_ids", &facts_.token_ids}, std::pair{"positions", &facts_.positions}}) {
    if (numbers->empty()) continue;
    const std::uint64_t sizes[] = {numbers->size()};
    out.text(name);
    out.tensor(Element::kI64, std::to_string(key++), sizes);
  }
  for (const bool first : {true, false}) {
    out.text(first ? "first_token" : "window");
    out.begin_list();
    for (std::size_t i = 0; i < storages_.size() / 2; ++i) {
      const StreamRecord& stream = header_.streams[storages_[i].stream];
      out.integer(static_cast<std::int32_t>(first ? stream.first_token : stream.window));
    }
    out.end_list();
  }
  write_rope(out);
  out.end_dict();
  return out.finish();
}

Status PtWriter::add(std::string_view name, std::span<const std::byte> bytes) {
  return zip_.add(std::string(kPrefix) + std::string(name), bytes);
}

/// One stream as its tensor has it: [head][token][channel].
Result<std::vector<std::byte>> PtWriter::decode(const Storage& storage) const {
  const StreamRecord& stream = header_.streams[storage.stream];
  std::vector<std::byte> bytes(storage.bytes(header_));
  const auto size = static_cast<std::int64_t>(dtype_info(storage.dtype)->block_bytes);
  DecodeTarget target;
  target.base = bytes.data();
  target.dtype = storage.dtype;
  target.channel_stride = size;
  target.token_stride = size * stream.head_dim;
  target.head_stride = target.token_stride * static_cast<std::int64_t>(storage.token_count);
  if (Status s = decode_stream(card_, storage.stream, target, options_.decode); !s) return s.error();
  return bytes;
}

Status PtWriter::add_storages() {
  std::uint64_t total = 0;
  std::uint64_t done = 0;
  for (const Storage& storage : storages_) total += storage.bytes(header_);
  for (const Storage& storage : storages_) {
    auto bytes = decode(storage);
    if (!bytes) return bytes.error();
    if (Status s = add("data/" + std::to_string(next_key_++), *bytes); !s) return s;
    done += bytes->size();
    if (options_.progress && !options_.progress(done, total)) {
      return Error{ErrorCode::kInterrupted, kNoOffset, {}, "stopped while writing tensors"};
    }
  }
  return {};
}

Status PtWriter::add_numbers(const std::vector<std::int32_t>& numbers) {
  if (numbers.empty()) return {};
  const std::vector<std::int64_t> wide(numbers.begin(), numbers.end());
  return add("data/" + std::to_string(next_key_++), std::as_bytes(std::span(wide)));
}

Result<PtWriteReport> PtWriter::run() {
  if (Status s = plan(); !s) return s.error();
  auto facts = pt_facts_of(card_, options_.decode);
  if (!facts) return facts.error();
  facts_ = std::move(*facts);
  const std::string pickled = pickle();
  if (Status s = add("data.pkl", std::as_bytes(std::span(pickled))); !s) return s.error();
  if (Status s = add("byteorder", std::as_bytes(std::span(std::string_view("little")))); !s) return s.error();
  if (Status s = add_storages(); !s) return s.error();
  if (Status s = add_numbers(facts_.token_ids); !s) return s.error();
  if (Status s = add_numbers(facts_.positions); !s) return s.error();
  if (Status s = add("version", std::as_bytes(std::span(std::string_view("3\n")))); !s) return s.error();
  if (Status s = zip_.finish(); !s) return s.error();
  return PtWriteReport{zip_.size(), facts_.positions.size()};
}

}  // namespace

Result<PtFacts> pt_facts_of(const CardReader& card, const DecodeOptions& options) {
  const CardHeader& header = card.header();
  const std::uint64_t count = std::min(header.token_count, options.token_count);
  PtFacts facts;
  auto runs = card.positions();
  if (!runs) return runs.error();
  facts.positions = expand_positions(*runs);
  facts.positions.resize(count);
  for (const StreamRecord& stream : header.streams) {
    if (stream.rope_state == 0) continue;
    facts.rope_state = static_cast<RopeState>(stream.rope_state);
    facts.rope_pairing = options.pairing.value_or(static_cast<RopePairing>(stream.rope_pairing));
  }
  if ((header.flags & kHeaderTokensUnknown) != 0) return facts;
  auto ids = card.token_ids();
  if (!ids) return ids.error();
  facts.token_ids = std::move(*ids);
  facts.token_ids.resize(count);
  return facts;
}

Result<PtWriteReport> write_pt(const CardReader& card, ByteSink& sink, const PtWriteOptions& options) {
  return PtWriter(card, sink, options).run();
}

}  // namespace cachecard::pytorch
