/* What the Python package asks of a model's GGUF file, beside cachecard.h: the identity that the command
 * `cachecard` reads from the same file. Private to the package: it may change with it. */
#ifndef CACHECARD_MODEL_FILE_H
#define CACHECARD_MODEL_FILE_H

#include "cachecard/cachecard.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct ccp_model ccp_model;

/* The model's own geometry. Its size never changes. */
typedef struct ccp_layer {
  uint32_t kv_head_count; /* 0: no attention cache in this layer */
  uint32_t key_head_dim;
  uint32_t value_head_dim;
  uint32_t rotated; /* 1: rotary embedding acts on its keys */
} ccp_layer;

/* Reads a GGUF file's metadata and digests its tensors (once: cache_folder, which may be NULL, keeps digests by
 * device, inode, size and times). *model is NULL on failure; else the caller frees it.
 * Errors: foreign_input (no model file), truncated, limit_exceeded, io */
CCD_API ccd_status ccp_model_open(const char* path, const char* cache_folder, ccp_model** model,
                                  ccd_error* error) CCD_NOEXCEPT;
CCD_API void ccp_model_free(ccp_model* model) CCD_NOEXCEPT; /* NULL is allowed */

CCD_API uint32_t ccp_model_layer_count(const ccp_model* model) CCD_NOEXCEPT;
CCD_API uint32_t ccp_model_identity_count(const ccp_model* model) CCD_NOEXCEPT;
/* Needs: layer and index below their counts. value->bytes live as long as the model. */
CCD_API void ccp_model_layer(const ccp_model* model, uint32_t layer, ccp_layer* out) CCD_NOEXCEPT;
CCD_API void ccp_model_identity(const ccp_model* model, uint32_t index, ccd_identity_value* value) CCD_NOEXCEPT;

/* "norm", "neox", ... as llama.cpp has it for an architecture; NULL for one that is not known. Static. */
CCD_API const char* ccp_rope_type(const char* architecture) CCD_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* CACHECARD_MODEL_FILE_H */
