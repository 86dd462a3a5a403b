#include "header_events.hpp"

namespace cachecard::safetensors {
namespace {

constexpr std::size_t kMaxDimensions = 8;  // a cache's have 4
constexpr std::size_t kMaxTensors = 1u << 15;
constexpr std::size_t kMaxMetadata = 1u << 14;

}  // namespace

bool HeaderEvents::fail(std::string_view field, std::string detail) {
  error = tensors_error(field, std::move(detail));
  return false;
}

bool HeaderEvents::refuse(std::string_view found) {
  return fail("header", "found " + std::string(found) + (key_.empty() ? "" : " at " + shown(key_)));
}

bool HeaderEvents::number_unsigned(number_unsigned_t value) {
  auto& numbers = place_ == Place::kShape ? file.tensors.back().shape : offsets_;
  if (place_ != Place::kShape && place_ != Place::kOffsets) return refuse("a number");
  if (numbers.size() == (place_ == Place::kShape ? kMaxDimensions : 2)) {
    return fail(shown(file.tensors.back().name),
                place_ == Place::kShape ? "found more than 8 dimensions" : "found more than 2 data_offsets");
  }
  numbers.push_back(value);
  return true;
}

bool HeaderEvents::string(string_t& value) {
  if (place_ == Place::kMetadata) {
    if (file.metadata.size() == kMaxMetadata) return fail("__metadata__", "found more than 16384 entries");
    if (!file.metadata.emplace(key_, std::move(value)).second)
      return fail("__metadata__", shown(key_) + " occurs twice");
    return true;
  }
  if (place_ != Place::kTensor || key_ != "dtype") return refuse("text");
  file.tensors.back().dtype = std::move(value);
  return true;
}

bool HeaderEvents::start_object(std::size_t) {
  if (place_ == Place::kBefore) {
    place_ = Place::kFile;
    return true;
  }
  if (place_ != Place::kFile) return refuse("an object");
  if (!names_.insert(key_).second) return fail("header", shown(key_) + " occurs twice");
  if (key_ == "__metadata__") {
    place_ = Place::kMetadata;
    return true;
  }
  if (file.tensors.size() == kMaxTensors) {
    error = {ErrorCode::kLimitExceeded, kNoOffset, "header",
             "found more than " + std::to_string(kMaxTensors) + " tensors"};
    return false;
  }
  file.tensors.push_back({key_, {}, {}, 0, 0});
  fields_.clear();
  offsets_.clear();
  place_ = Place::kTensor;
  return true;
}

bool HeaderEvents::key(string_t& name) {
  key_ = std::move(name);
  if (place_ != Place::kTensor) return true;
  const std::string_view field = key_;
  const std::string tensor = shown(file.tensors.back().name);
  if (field != "dtype" && field != "shape" && field != "data_offsets")
    return fail(tensor, "found the field " + shown(field));
  return fields_.insert(key_).second || fail(tensor, shown(field) + " occurs twice");
}

bool HeaderEvents::finish_tensor() {
  SafeTensor& tensor = file.tensors.back();
  if (fields_.size() != 3 || offsets_.size() != 2) {
    return fail(shown(tensor.name), "found no dtype, shape and two data_offsets");
  }
  if (offsets_[0] > offsets_[1]) {
    return fail(shown(tensor.name),
                "found data_offsets " + std::to_string(offsets_[0]) + " to " + std::to_string(offsets_[1]));
  }
  tensor.offset = offsets_[0];
  tensor.size = offsets_[1] - offsets_[0];
  place_ = Place::kFile;
  return true;
}

bool HeaderEvents::end_object() {
  key_.clear();
  if (place_ == Place::kTensor) return finish_tensor();
  place_ = place_ == Place::kMetadata ? Place::kFile : Place::kAfter;
  return true;
}

bool HeaderEvents::start_array(std::size_t) {
  if (place_ != Place::kTensor || key_ == "dtype") return refuse("an array");
  place_ = key_ == "shape" ? Place::kShape : Place::kOffsets;
  return true;
}

bool HeaderEvents::end_array() {
  place_ = Place::kTensor;
  return true;
}

bool HeaderEvents::parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
  error = {ErrorCode::kForeignInput, 8 + position, "header", "found no JSON that can be read"};
  return false;
}

}  // namespace cachecard::safetensors
