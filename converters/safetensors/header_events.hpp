#pragma once

#include <nlohmann/json.hpp>
#include <set>

#include "safetensors_file.hpp"

namespace cachecard::safetensors {

/// Takes a header's JSON as it is parsed, so that nothing is kept but what a header may hold: an object of
/// tensors
/// {"dtype": text, "shape": [n...], "data_offsets": [n, n]} and "__metadata__" {text: text}. offsets of its
/// tensors count from the data.
class HeaderEvents final : public nlohmann::json_sax<nlohmann::json> {
 public:
  SafetensorsFile file;
  Error error = tensors_error("header", "found no JSON object");

  bool null() override { return refuse("null"); }
  bool boolean(bool) override { return refuse("true or false"); }
  bool number_integer(number_integer_t) override { return refuse("a negative number"); }
  bool number_float(number_float_t, const string_t&) override { return refuse("a number with a fraction"); }
  bool number_unsigned(number_unsigned_t value) override;
  bool string(string_t& value) override;
  bool binary(binary_t&) override { return refuse("bytes"); }
  bool start_object(std::size_t) override;
  bool key(string_t& name) override;
  bool end_object() override;
  bool start_array(std::size_t) override;
  bool end_array() override;
  bool parse_error(std::size_t position, const std::string& token,
                   const nlohmann::detail::exception&) override;

 private:
  enum class Place { kBefore, kFile, kMetadata, kTensor, kShape, kOffsets, kAfter };

  bool refuse(std::string_view found);
  bool fail(std::string_view field, std::string detail);
  bool finish_tensor();

  Place place_ = Place::kBefore;
  std::string key_;
  std::set<std::string> names_;
  std::set<std::string> fields_;  ///< of the tensor at hand
  std::vector<std::uint64_t> offsets_;
};

}  // namespace cachecard::safetensors
