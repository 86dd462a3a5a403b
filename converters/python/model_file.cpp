#include "model_file.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "llama_cpp/architectures.hpp"
#include "llama_cpp/gguf_model.hpp"

struct ccp_model {
  cachecard::llama_cpp::ModelFacts facts;
};

namespace {

using namespace cachecard;

ccd_status report(ccd_error* error, const Error& what) {
  const auto code = static_cast<ccd_status>(what.code);
  if (error == nullptr) return code;
  *error = {};
  error->code = code;
  error->offset = what.offset;
  const auto put = [](const std::string& text, auto& field) {
    std::memcpy(field, text.data(), std::min(text.size(), sizeof(field) - 1));
  };
  put(what.field, error->field);
  put(what.message(), error->message);
  return code;
}

ccd_status open_model(const char* path, const char* cache_folder, ccp_model** model, ccd_error* error) {
  llama_cpp::ModelOptions options;
  if (cache_folder != nullptr) options.cache_folder = cache_folder;
  auto facts = llama_cpp::read_model(path, options);
  if (!facts) return report(error, facts.error());
  *model = new ccp_model{*std::move(facts)};
  return report(error, Error{ErrorCode::kOk, kNoOffset, {}, {}});
}

template <class T>
T at(const std::vector<T>& values, std::uint32_t index) {
  return index < values.size() ? values[index] : T{};
}

}  // namespace

ccd_status ccp_model_open(const char* path, const char* cache_folder, ccp_model** model,
                          ccd_error* error) noexcept {
  *model = nullptr;
  try {
    return open_model(path, cache_folder, model, error);
  } catch (const std::bad_alloc&) {
    return report(error, Error{ErrorCode::kOutOfMemory, kNoOffset, {}, "no memory"});
  } catch (...) {
    return report(error, Error{ErrorCode::kInternal, kNoOffset, {}, "an exception"});
  }
}

void ccp_model_free(ccp_model* model) noexcept { delete model; }

uint32_t ccp_model_layer_count(const ccp_model* model) noexcept { return model->facts.layer_count; }

uint32_t ccp_model_identity_count(const ccp_model* model) noexcept {
  return static_cast<uint32_t>(model->facts.identity.values().size());
}

void ccp_model_layer(const ccp_model* model, uint32_t layer, ccp_layer* out) noexcept {
  const auto& facts = model->facts;
  *out = {at(facts.kv_head_count, layer), at(facts.key_head_dim, layer), at(facts.value_head_dim, layer),
          at(facts.layer_has_rope, layer)};
}

void ccp_model_identity(const ccp_model* model, uint32_t index, ccd_identity_value* value) noexcept {
  const Identity::Value& from = model->facts.identity.values()[index];
  *value = {from.field_id, static_cast<uint32_t>(from.type), from.bytes.data(), from.bytes.size()};
}

const char* ccp_rope_type(const char* architecture) noexcept {
  using llama_cpp::RopeType;
  const auto* found = llama_cpp::find_architecture(architecture);
  if (found == nullptr) return nullptr;
  RopeType type = found->rope;
  // Without sections, which the caller has ruled out, the conditional ones are plain.
  if (type == RopeType::kNormOrMrope) type = RopeType::kNorm;
  if (type == RopeType::kNeoxOrMrope) type = RopeType::kNeox;
  return llama_cpp::rope_type_name(type).data();
}
