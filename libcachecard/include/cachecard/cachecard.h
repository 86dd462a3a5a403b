/* CacheCard's C ABI: a card (an LLM's KV cache in one file) read into, and written from, a runtime's memory.
 *
 * Order of calls
 *   Reading: ccd_open_file, _bytes or _callbacks; then any of ccd_card_*, as often as wanted; then ccd_close.
 *   Writing: ccd_writer_create, _add_stream, any of _set_*; ccd_writer_write_file or _write_to;
 *   ccd_writer_destroy. Checking a whole card needs no handle: ccd_verify_file, _bytes, _callbacks.
 *
 * Results
 *   Functions that can fail return CCD_OK (0) or one of the codes below, which are the codes of FORMAT.md and
 *   never change their meaning. `error` may be NULL; else it is filled on every return, with CCD_OK where all
 *   went well. A function that fails leaves its outputs alone unless it says otherwise. Nothing is thrown,
 *   printed or aborted, and no thread is started. "invalid_argument" (a NULL where none is allowed, a number
 *   that names nothing, a struct_size that is too small) and "out_of_memory" can come from every function and
 *   are not listed again. "reads" stands for io, truncated, checksum_mismatch, corrupt, bad_size, bad_enum
 *   and whatever a read_at callback returns.
 *
 * Structs that may grow begin with struct_size: set it to sizeof the struct, and everything unused to zero.
 *   A library that knows less than the caller refuses what it does not know (inputs, unless zero) or sets
 *   struct_size to what it filled (outputs).
 *
 * Arrays that the caller provides: (out, capacity, &count), in items. count, which may be NULL, always says
 *   how many items there are. out == NULL with capacity 0 only asks; a capacity that is too small is
 *   buffer_too_small, and then nothing is written to out.
 *
 * Ownership: the caller's pointers are not kept past the call, but for what ccd_open_bytes and
 *   ccd_open_callbacks say. Strings returned by ccd_*_name are static.
 *
 * Threads: any number may use one ccd_card at once, if its callbacks can bear it; ccd_close comes after all
 *   of them. A ccd_writer belongs to one thread at a time. Handles have nothing to do with each other.
 *
 * Units: offset is bytes from the card's start; first_token and token_count count tokens of the card, not
 *   positions; strides are bytes; widths are half bits (q8_0's 8.5 bits are 17).
 */
#ifndef CACHECARD_CACHECARD_H
#define CACHECARD_CACHECARD_H

#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define CCD_API __attribute__((visibility("default")))
#else
#define CCD_API
#endif
#ifdef __cplusplus
#define CCD_NOEXCEPT noexcept
extern "C" {
#else
#define CCD_NOEXCEPT
#endif

/* Version of this header. ccd_version() says that of the library, in the same form; under 0.x the first two
 * numbers must be equal. */
#define CCD_VERSION_MAJOR 0
#define CCD_VERSION_MINOR 1
#define CCD_VERSION_PATCH 0
#define CCD_VERSION (CCD_VERSION_MAJOR * 10000 + CCD_VERSION_MINOR * 100 + CCD_VERSION_PATCH)
CCD_API uint32_t ccd_version(void) CCD_NOEXCEPT;

/* ---- Errors -------------------------------------------------------------------------------------------- */

typedef int32_t ccd_status;
enum {
  CCD_OK = 0,
  /* Not a card that this library reads. */
  CCD_BAD_MAGIC = 10,
  CCD_UNSUPPORTED_VERSION = 11,
  CCD_UNSUPPORTED_FEATURE = 12,
  CCD_UNSUPPORTED_CODEC = 13,
  CCD_FOREIGN_INPUT = 14,
  /* Damaged. */
  CCD_TRUNCATED = 20,
  CCD_CORRUPT = 21,
  CCD_CHECKSUM_MISMATCH = 22,
  CCD_RESERVED_NOT_ZERO = 23,
  CCD_BAD_OFFSET = 24,
  CCD_BAD_SIZE = 25,
  CCD_BAD_ENUM = 26,
  CCD_NON_FINITE = 27,
  /* Refused. */
  CCD_LIMIT_EXCEEDED = 30,
  CCD_OUT_OF_MEMORY = 31,
  /* The caller. */
  CCD_INVALID_ARGUMENT = 40,
  CCD_BUFFER_TOO_SMALL = 41,
  /* The wrong destination. */
  CCD_MODEL_MISMATCH = 50,
  CCD_GEOMETRY_MISMATCH = 51,
  CCD_POSITION_MISMATCH = 52,
  CCD_IDENTITY_UNKNOWN = 53,
  CCD_TOKENS_UNKNOWN = 54,
  CCD_NOT_RESTORABLE = 55,
  CCD_PARTIAL_CARD = 56,
  /* Outside. */
  CCD_IO = 60,
  CCD_TARGET_UNAVAILABLE = 61,
  CCD_TARGET_BUSY = 62,
  CCD_TARGET_TOO_SMALL = 63,
  CCD_INTERRUPTED = 80,
  CCD_INTERNAL = 90 /* a defect of the library: please report it */
};

#define CCD_NO_OFFSET UINT64_MAX

/* Why a call failed. Owned by the caller; needs no initialising; its size never changes. */
typedef struct ccd_error {
  ccd_status code;
  uint32_t reserved;
  uint64_t offset;   /* where in the card, or CCD_NO_OFFSET */
  char field[48];    /* record.field as FORMAT.md spells it, or empty */
  char message[256]; /* one line for a person: code, offset, field, what was found and allowed; cut to fit */
} ccd_error;

/* "checksum_mismatch" for CCD_CHECKSUM_MISMATCH; "internal" for a number that is no code. */
CCD_API const char* ccd_status_name(ccd_status status) CCD_NOEXCEPT;

/* ---- What callers may provide -------------------------------------------------------------------------- */

/* Memory for decoding (the largest part by far: up to four chunks, of at most 16 MiB each, per task). Both or
 * neither. allocate returns size bytes aligned to alignment (64), or NULL, and the call then fails with
 * out_of_memory; release gets what allocate gave. Called from whatever threads call or run tasks. */
typedef struct ccd_allocator {
  void* (*allocate)(void* user, size_t size, size_t alignment);
  void (*release)(void* user, void* pointer, size_t size);
  void* user;
} ccd_allocator;

/* Threads for work that falls into chunks. run calls task(context, i) once for every i below count, in any
 * order, on any threads, and returns when all are done. NULL: the calling thread does them in turn.
 * width: how many tasks run at once at most; it bounds the memory that writing and verifying hold. */
typedef struct ccd_parallel {
  void (*run)(void* user, size_t count, void (*task)(void* context, size_t index), void* context);
  void* user;
  size_t width;
} ccd_parallel;

/* Bytes at positions. read_at fills all of out (offset + size never passes `size`) and returns CCD_OK; any
 * other ccd_status is what the reading call then returns (CCD_IO where nothing fits better). */
typedef struct ccd_source {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t size;
  ccd_status (*read_at)(void* user, uint64_t offset, void* out, size_t size);
  void* user;
} ccd_source;

/* What a card may ask for before it is refused with limit_exceeded. 0: FORMAT.md's own limit. */
typedef struct ccd_limits {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t header_bytes;
  uint64_t section_bytes; /* stored or decoded, of one section */
  uint64_t map_bytes;     /* decoded, of all bit-width maps */
  uint64_t summary_bytes;
  uint64_t frame_count;
  uint64_t token_count;
  uint64_t stream_count;
  uint64_t segment_count;
} ccd_limits;

/* ccd_open_*, flags. */
enum { CCD_OPEN_MMAP = 1 }; /* files: map instead of reading; faults if another process shrinks the file */

typedef struct ccd_open_options {
  uint32_t struct_size;
  uint32_t flags;
  const ccd_limits* limits; /* read during the call; NULL: all defaults */
  ccd_allocator allocator;  /* copied; must stay callable until ccd_close */
  ccd_parallel parallel;    /* copied; must stay callable until ccd_close */
} ccd_open_options;

/* ---- Opening ------------------------------------------------------------------------------------------- */

typedef struct ccd_card ccd_card;

/* Opens a card: checks prologue, header, trailer, directory and every frame header, so that nothing below
 * finds the card's structure broken. Values are checked by digest when they are read. Reads well under 1 MB
 * for a card of 10 GB. options may be NULL. *card is NULL on failure; else the caller closes it.
 *   _file       keeps the file open; the path is copied.
 *   _bytes      needs `bytes` unchanged until ccd_close.
 *   _callbacks  copies *source; its function and user must stay good until ccd_close.
 * Errors: bad_magic, unsupported_version, unsupported_feature, unsupported_codec, reserved_not_zero,
 *   bad_offset, limit_exceeded; reads. A file that is missing or no regular file is io. */
CCD_API ccd_status ccd_open_file(const char* path, const ccd_open_options* options, ccd_card** card,
                                 ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_open_bytes(const void* bytes, size_t size, const ccd_open_options* options,
                                  ccd_card** card, ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_open_callbacks(const ccd_source* source, const ccd_open_options* options,
                                      ccd_card** card, ccd_error* error) CCD_NOEXCEPT;

/* Frees everything that came with the card. NULL is allowed. */
CCD_API void ccd_close(ccd_card* card) CCD_NOEXCEPT;

/* ---- Facts --------------------------------------------------------------------------------------------- */

/* ccd_facts.flags, ccd_writer_facts.flags. */
enum {
  CCD_CARD_NOT_A_PREFIX = 1,   /* its first token is not the context's first */
  CCD_CARD_PARTIAL_LAYERS = 2, /* it lacks layers */
  CCD_CARD_TOKENS_UNKNOWN = 4  /* it holds no token ids */
};

/* Which prefixes of the card a runtime can restore. */
enum { CCD_RESTORABLE_ANY_PREFIX = 0, CCD_RESTORABLE_WHOLE_ONLY = 1, CCD_RESTORABLE_FROM_COUNT = 2 };

typedef struct ccd_facts {
  uint32_t struct_size;
  uint16_t format_major;
  uint16_t format_minor;
  uint32_t flags;       /* CCD_CARD_... */
  uint32_t layer_count; /* of the model; a partial card may hold fewer */
  uint64_t token_count;
  int64_t next_position; /* position of the token that would follow */
  uint32_t restorable;   /* CCD_RESTORABLE_... */
  uint32_t stream_count;
  uint64_t restorable_from; /* smallest prefix in tokens, for FROM_COUNT */
  uint32_t segment_count;
  uint32_t identity_count;
  uint64_t value_count; /* K and V values, opaque state left out */
  uint64_t opaque_size; /* bytes */
  uint64_t file_size;   /* bytes */
  uint8_t root[16];     /* digest over the whole card: two cards are equal if their roots are */
} ccd_facts;

/* Errors: reads (the summary). */
CCD_API ccd_status ccd_card_get_facts(const ccd_card* card, ccd_facts* facts, ccd_error* error) CCD_NOEXCEPT;

enum { CCD_STREAM_KEY = 0, CCD_STREAM_VALUE = 1, CCD_STREAM_LATENT = 2, CCD_STREAM_OPAQUE = 3 };

/* Element types: ggml's numbers. Only F32, F16 and BF16 can be decoded to. */
enum {
  CCD_DTYPE_F32 = 0,
  CCD_DTYPE_F16 = 1,
  CCD_DTYPE_Q4_0 = 2,
  CCD_DTYPE_Q4_1 = 3,
  CCD_DTYPE_Q5_0 = 6,
  CCD_DTYPE_Q5_1 = 7,
  CCD_DTYPE_Q8_0 = 8,
  CCD_DTYPE_IQ4_NL = 20,
  CCD_DTYPE_BF16 = 30,
  CCD_DTYPE_BYTES = 255 /* opaque streams */
};

enum { CCD_ROPE_NONE = 0, CCD_ROPE_BEFORE = 1, CCD_ROPE_AFTER = 2 };
enum { CCD_PAIRING_NONE = 0, CCD_PAIRING_INTERLEAVED = 1, CCD_PAIRING_HALF_SPLIT = 2 };

/* One stream of one layer, as the source held it. */
typedef struct ccd_stream {
  uint32_t struct_size;
  uint32_t layer;
  uint32_t stream;       /* CCD_STREAM_... */
  uint32_t dtype;        /* CCD_DTYPE_... */
  uint32_t rope_state;   /* CCD_ROPE_...: keys before or after rotary embedding */
  uint32_t rope_pairing; /* CCD_PAIRING_...: which channels form a pair */
  uint32_t kv_head_count;
  uint32_t head_dim;      /* values per head */
  uint32_t hadamard_size; /* 1: stored values are not rotated; decoding undoes it unless told */
  uint32_t window;        /* tokens of a sliding window; 0: full attention */
  uint64_t first_token;   /* the stream holds [first_token, first_token + token_count) */
  uint64_t token_count;
  uint64_t row_size;    /* bytes of one token's values in dtype; 0 for opaque streams */
  uint64_t opaque_size; /* bytes of an opaque stream, which has no rows; else 0 */
} ccd_stream;

/* The index-th stream, ascending by (layer, stream); or a layer's own. A missing one: invalid_argument. */
CCD_API ccd_status ccd_card_get_stream(const ccd_card* card, uint32_t index, ccd_stream* stream,
                                       ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_card_find_stream(const ccd_card* card, uint32_t layer, uint32_t stream_kind,
                                        ccd_stream* stream, ccd_error* error) CCD_NOEXCEPT;

/* "q8_0", "key", ...; "unknown" for other numbers. */
CCD_API const char* ccd_dtype_name(uint32_t dtype) CCD_NOEXCEPT;
CCD_API const char* ccd_stream_name(uint32_t stream_kind) CCD_NOEXCEPT;

/* ---- Identity ------------------------------------------------------------------------------------------ */

/* Type of an identity value and its bytes: UTF-8 without a final zero; u64, f64 (little-endian); 16 bytes. */
enum { CCD_VALUE_TEXT = 1, CCD_VALUE_U64 = 2, CCD_VALUE_F64 = 3, CCD_VALUE_DIGEST = 4 };

typedef struct ccd_identity_value {
  uint32_t field_id;   /* FORMAT.md lists them: 1 architecture, 2 weights_digest, ... */
  uint32_t value_type; /* CCD_VALUE_... */
  const void* bytes;
  size_t size;
} ccd_identity_value;

/* Field of the index-th fact, below ccd_facts.identity_count, ascending by field_id. */
CCD_API ccd_status ccd_card_get_identity_id(const ccd_card* card, uint32_t index, uint32_t* field_id,
                                            ccd_error* error) CCD_NOEXCEPT;
/* A fact as in the card. value_type, which may be NULL, is set like size. out, capacity, size: see "Arrays",
 * in bytes.
 * Errors: identity_unknown (the card does not say), buffer_too_small */
CCD_API ccd_status ccd_card_get_identity(const ccd_card* card, uint32_t field_id, uint32_t* value_type,
                                         void* out, size_t capacity, size_t* size,
                                         ccd_error* error) CCD_NOEXCEPT;
/* The same for a person: text, number or hex, ended by a zero, which size counts. */
CCD_API ccd_status ccd_card_format_identity(const ccd_card* card, uint32_t field_id, char* out,
                                            size_t capacity, size_t* size, ccd_error* error) CCD_NOEXCEPT;

/* "architecture" for 1; "unknown" for a number that this version has no name for. */
CCD_API const char* ccd_identity_name(uint32_t field_id) CCD_NOEXCEPT;

enum {
  CCD_VERDICT_EQUAL = 0,
  CCD_VERDICT_COMPATIBLE = 1,
  CCD_VERDICT_COMPATIBLE_WITH_LOSS = 2, /* this and the ones below refuse, unless overridden by name */
  CCD_VERDICT_DIFFERENT = 3,
  CCD_VERDICT_UNKNOWN = 4
};

/* What comparing one field gave. Its size never changes. */
typedef struct ccd_field_verdict {
  uint32_t field_id;
  uint32_t verdict;    /* CCD_VERDICT_... */
  uint32_t overridden; /* 1: refuses, but `allow` named its override */
  uint32_t reserved;
  const char* override_name; /* what `allow` would have to hold, static; NULL where nothing allows it */
} ccd_field_verdict;

/* XXH3-128 of bytes, as FORMAT.md#digests writes it: what template_digest holds of a chat template's text. */
CCD_API ccd_status ccd_digest128(const void* bytes, size_t size, uint8_t out[16], ccd_error* error) CCD_NOEXCEPT;

/* Whether the values may enter a cache of `target`: facts given by the caller, or those of another card.
 * allow: names of COMPATIBILITY.md#overrides, e.g. "weights-quantization"; NULL with 0 for none.
 * verdicts, capacity, count: see "Arrays"; filled on a refusal too.
 * Errors: model_mismatch or identity_unknown (the first refusal, named in error->field), buffer_too_small */
CCD_API ccd_status ccd_card_match(const ccd_card* card, const ccd_identity_value* target, size_t target_count,
                                  const char* const* allow, size_t allow_count, ccd_field_verdict* verdicts,
                                  size_t capacity, size_t* count, ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_card_match_card(const ccd_card* card, const ccd_card* target, const char* const* allow,
                                       size_t allow_count, ccd_field_verdict* verdicts, size_t capacity,
                                       size_t* count, ccd_error* error) CCD_NOEXCEPT;

/* "equal", "compatible", "compatible_with_loss", "different"; "unknown" for the rest. */
CCD_API const char* ccd_verdict_name(uint32_t verdict) CCD_NOEXCEPT;

/* ---- Tokens and values --------------------------------------------------------------------------------- */

/* Token ids, and the position of each token (ascending; they need not begin at 0 or be dense).
 * Errors: tokens_unknown (ids), buffer_too_small; reads */
CCD_API ccd_status ccd_card_get_token_ids(const ccd_card* card, int32_t* out, size_t capacity, size_t* count,
                                          ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_card_get_positions(const ccd_card* card, int32_t* out, size_t capacity, size_t* count,
                                          ccd_error* error) CCD_NOEXCEPT;

/* How finely each token of one KV head is kept, in half bits per value; out holds token_count numbers.
 * In `raw` and `ggml`, and for exact tokens of other codecs, it is the type's own width (32 for f16, 17 for
 * q8_0); in `planes` twice the bits that are left; in `entropy` a measure of the step, two less for each doubling, and 16
 * for tokens kept at 8 bits; 0 for a token that is absent. Errors: reads */
CCD_API ccd_status ccd_card_get_bit_widths(const ccd_card* card, uint32_t layer, uint32_t stream_kind,
                                           uint32_t kv_head, uint64_t first_token, uint64_t token_count,
                                           uint16_t* out, ccd_error* error) CCD_NOEXCEPT;

/* ccd_target.flags. */
enum {
  CCD_TARGET_KEEP_ROTATION = 1, /* leave Hadamard-rotated values as the source stored them */
  CCD_TARGET_FINITE = 2         /* NaN and infinities, in the target's type, are non_finite, naming the token */
};

/* Where decoded values go. Value (token, head, channel) lies at
 *   base + token * token_stride + head * head_stride + channel * channel_stride,
 * token counting from the request's first; all strides in bytes, negative ones too. With a block table
 * (page_size > 0) it is pages[token / page_size] + (token % page_size) * token_stride + ..., and base is not
 * used. The caller answers for the memory: nothing can check strides against it. */
typedef struct ccd_target {
  uint32_t struct_size;
  uint32_t dtype; /* CCD_DTYPE_F32, _F16 or _BF16 */
  uint32_t flags; /* CCD_TARGET_... */
  uint32_t reserved;
  void* base;
  int64_t token_stride;
  int64_t head_stride;
  int64_t channel_stride;
  uint64_t page_size; /* tokens in a page; 0: no block table */
  void* const* pages;
  uint64_t page_count;
  uint32_t rope_pairing; /* CCD_PAIRING_...: of the target's keys, which are reordered; NONE: as the source stored them */
  uint32_t reserved2;
} ccd_target;

/* Decodes tokens of one stream into target, rounding to nearest even; a target of the source's own float type
 * gets its bits unchanged. On failure the target holds anything.
 * Errors: buffer_too_small (too few pages), unsupported_codec, non_finite (CCD_TARGET_FINITE), identity_unknown
 *   (rope_pairing, and the card does not say how many channels rotate); reads. invalid_argument also for an opaque
 *   stream and for tokens that the stream does not hold. */
CCD_API ccd_status ccd_card_decode(const ccd_card* card, uint32_t layer, uint32_t stream_kind,
                                   uint64_t first_token, uint64_t token_count, const ccd_target* target,
                                   ccd_error* error) CCD_NOEXCEPT;

/* Digests of all sections that decoding the first token_count tokens of every stream, and reading opaque ones, do not
 * check: who does both has had everything checked, without a second reading. Errors: reads */
CCD_API ccd_status ccd_card_check_other_sections(const ccd_card* card, uint64_t token_count,
                                                 ccd_error* error) CCD_NOEXCEPT;

/* Rows as the source stored them: out[token][channel] in the stream's dtype and rotation, token_count x
 * ccd_stream.row_size bytes. Errors: buffer_too_small; as ccd_card_decode */
CCD_API ccd_status ccd_card_read_rows(const ccd_card* card, uint32_t layer, uint32_t stream_kind,
                                      uint64_t first_token, uint64_t token_count, void* out, size_t capacity,
                                      ccd_error* error) CCD_NOEXCEPT;

/* Bytes [offset, offset + size) of a layer's opaque stream. Errors: reads */
CCD_API ccd_status ccd_card_read_opaque(const ccd_card* card, uint32_t layer, uint64_t offset, void* out,
                                        size_t size, ccd_error* error) CCD_NOEXCEPT;

/* ---- Context -------------------------------------------------------------------------------------------- */

/* What the tokens were made from: UTF-8 without a final zero. See "Arrays", in bytes; size is 0 where the card
 * does not say. Errors: buffer_too_small; reads */
CCD_API ccd_status ccd_card_get_text(const ccd_card* card, char* out, size_t capacity, size_t* size,
                                     ccd_error* error) CCD_NOEXCEPT;

#define CCD_ALL_LAYERS UINT32_MAX

/* How keys are rotated: pair i of the token at position p turns by p x inverse_frequencies[i]. */
typedef struct ccd_rope_table {
  uint32_t struct_size;
  uint32_t layer;          /* the one layer that it holds for, or CCD_ALL_LAYERS */
  uint32_t pairing;        /* CCD_PAIRING_INTERLEAVED or _HALF_SPLIT */
  uint32_t rotated_offset; /* first rotated channel of a head */
  uint32_t pair_count;     /* inverse frequencies; twice as many channels are rotated */
  uint32_t reserved;
  double magnitude; /* factor on the rotated channels (YaRN); 1 where there is none */
} ccd_rope_table;

/* The table of a layer: its own, else the card's. out: its inverse frequencies, see "Arrays"; *table is filled
 * also where out only asks or is too small.
 * Errors: identity_unknown (the card holds none for this layer), buffer_too_small; reads */
CCD_API ccd_status ccd_card_get_rope_table(const ccd_card* card, uint32_t layer, ccd_rope_table* table,
                                           double* out, size_t capacity, size_t* count,
                                           ccd_error* error) CCD_NOEXCEPT;

enum {
  CCD_OPERATION_CONVERT = 1,
  CCD_OPERATION_CAPTURE = 2,
  CCD_OPERATION_TRIM = 3,
  CCD_OPERATION_EXTEND = 4,
  CCD_OPERATION_REQUANTIZE = 5,
  CCD_OPERATION_CALIBRATE = 6 /* a model profile was made */
};

/* One step of how the card came about. */
typedef struct ccd_provenance_step {
  uint32_t struct_size;
  uint32_t hop;       /* hand-offs before this step */
  uint32_t operation; /* CCD_OPERATION_... */
  uint32_t reserved;
  int64_t time;            /* seconds since 1970-01-01 UTC; 0: not recorded */
  uint8_t parent_root[16]; /* root of the card it was made from; zero: from none */
} ccd_provenance_step;

/* How many steps, which may be none; and the index-th of them, oldest first. text: what was done, with which
 * options, UTF-8 without a final zero; see "Arrays", in bytes. *step is filled also where text only asks or is
 * too small. Errors: buffer_too_small; reads */
CCD_API ccd_status ccd_card_get_provenance_count(const ccd_card* card, uint32_t* count,
                                                 ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_card_get_provenance(const ccd_card* card, uint32_t index, ccd_provenance_step* step,
                                           char* text, size_t capacity, size_t* size,
                                           ccd_error* error) CCD_NOEXCEPT;

/* ---- Verifying ----------------------------------------------------------------------------------------- */

/* ccd_verify_*, flags. */
enum { CCD_VERIFY_DECODE = 1 }; /* also decode every chunk */

typedef struct ccd_verify_report {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t file_size;
  uint64_t frame_count;
  uint64_t skipped_sections; /* optional ones that this library does not know */
  uint8_t root[16];
} ccd_verify_report;

/* Checks every byte of a card, in file order, in bounded memory. options (limits, parallel, CCD_OPEN_MMAP)
 * and report may be NULL. Errors: the first defect, with its offset: any code of the 10s to 30s; io */
CCD_API ccd_status ccd_verify_file(const char* path, uint32_t flags, const ccd_open_options* options,
                                   ccd_verify_report* report, ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_verify_bytes(const void* bytes, size_t size, uint32_t flags,
                                    const ccd_open_options* options, ccd_verify_report* report,
                                    ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_verify_callbacks(const ccd_source* source, uint32_t flags,
                                        const ccd_open_options* options, ccd_verify_report* report,
                                        ccd_error* error) CCD_NOEXCEPT;

/* ---- Writing ------------------------------------------------------------------------------------------- */

typedef struct ccd_writer ccd_writer;

typedef struct ccd_writer_facts {
  uint32_t struct_size;
  uint32_t flags;       /* CCD_CARD_NOT_A_PREFIX, _PARTIAL_LAYERS */
  uint32_t layer_count; /* of the model */
  uint32_t restorable;  /* CCD_RESTORABLE_... */
  uint64_t restorable_from;
  int64_t next_position;
} ccd_writer_facts;

/* Begins the description of a card; nothing is written yet. *writer is NULL on failure. */
CCD_API ccd_status ccd_writer_create(const ccd_writer_facts* facts, ccd_writer** writer,
                                     ccd_error* error) CCD_NOEXCEPT;
CCD_API void ccd_writer_destroy(ccd_writer* writer) CCD_NOEXCEPT; /* NULL is allowed */

/* Adds a stream, in any order; row_size is not read. hadamard_size 0 means 1. Whether its facts agree with
 * each other is checked when the card is written. invalid_argument also for a layer's second of a kind. */
CCD_API ccd_status ccd_writer_add_stream(ccd_writer* writer, const ccd_stream* stream,
                                         ccd_error* error) CCD_NOEXCEPT;

/* Sets one fact about the model; a second one of a field replaces the first. Copied. */
CCD_API ccd_status ccd_writer_set_identity(ccd_writer* writer, const ccd_identity_value* value,
                                           ccd_error* error) CCD_NOEXCEPT;

/* The card's tokens, in position order. token_ids NULL: not known (CCD_CARD_TOKENS_UNKNOWN); positions NULL:
 * 0, 1, 2, ... Copied. Without this call the card holds no tokens. */
CCD_API ccd_status ccd_writer_set_tokens(ccd_writer* writer, const int32_t* token_ids,
                                         const int32_t* positions, size_t token_count,
                                         ccd_error* error) CCD_NOEXCEPT;

/* What the tokens were made from, UTF-8; NULL with 0 takes it back. Copied. */
CCD_API ccd_status ccd_writer_set_text(ccd_writer* writer, const char* text, size_t size,
                                       ccd_error* error) CCD_NOEXCEPT;

/* How the keys of all layers are rotated (table->layer is CCD_ALL_LAYERS); a second table replaces the first.
 * table->pair_count numbers are read. Copied. Errors: non_finite */
CCD_API ccd_status ccd_writer_set_rope_table(ccd_writer* writer, const ccd_rope_table* table,
                                             const double* inverse_frequencies,
                                             ccd_error* error) CCD_NOEXCEPT;

/* Where the values come from. Each function fills all of out (size bytes) and returns CCD_OK, or the status
 * that the writing call then returns. read_rows gives [token][channel] in the stream's dtype. Called from
 * whatever threads run tasks. read_opaque may be NULL where no stream is opaque. */
typedef struct ccd_values {
  uint32_t struct_size;
  uint32_t reserved;
  ccd_status (*read_rows)(void* user, uint32_t layer, uint32_t stream_kind, uint64_t first_token,
                          uint64_t token_count, void* out, size_t size);
  ccd_status (*read_opaque)(void* user, uint32_t layer, uint64_t offset, void* out, size_t size);
  void* user;
} ccd_values;

/* ccd_write_options.flags. */
enum {
  CCD_WRITE_KEEP_EXISTING = 1, /* a file that exists is io instead of being replaced */
  CCD_WRITE_NO_SYNC = 2,       /* no fsync: fast, but a power cut may lose the card */
  CCD_WRITE_EXACT_TOKENS = 4,  /* planes, entropy: exact_tokens is meant; without it the first four tokens are exact, of
                                * entropy at few bits kept at 8; of planes attention sinks elsewhere get three bits more */
  CCD_WRITE_KEEP_NONFINITE = 8 /* planes, entropy: chunks with NaN or infinite values stay raw; else non_finite */
};
enum { CCD_CODEC_EXACT = 0, CCD_CODEC_PLANES = 2, CCD_CODEC_ENTROPY = 3 }; /* exact: raw or ggml, as the types need */
/* Whose look at the tokens counts, where no token_weights are given: the newest tokens' queries, estimated by the
 * profile; what queries of the model look like; newer tokens count more; all count alike; the first two together. BEST:
 * BOTH with a profile, else RECENCY. NEWEST, CENTROIDS and BOTH need a profile. */
enum {
  CCD_QUERIES_BEST = 0,
  CCD_QUERIES_NEWEST = 1,
  CCD_QUERIES_CENTROIDS = 2,
  CCD_QUERIES_RECENCY = 3,
  CCD_QUERIES_NONE = 4,
  CCD_QUERIES_BOTH = 5
};
enum { CCD_COMPRESSOR_NONE = 0, CCD_COMPRESSOR_ZSTD = 1, CCD_COMPRESSOR_SPLIT_ZSTD = 2 };
enum { CCD_ORDER_LAYER_MAJOR = 0, CCD_ORDER_SPAN_MAJOR = 1 };

typedef struct ccd_write_options {
  uint32_t struct_size;
  uint32_t flags;
  uint32_t compressor; /* of chunks */
  int32_t zstd_level;  /* 0: 3 */
  uint32_t chunk_order;
  uint32_t reserved;
  uint64_t chunk_tokens;  /* 0: 2048 */
  const char* provenance; /* UTF-8: what was done, with which options; no path. NULL: empty */
  ccd_parallel parallel;
  uint32_t codec;             /* CCD_CODEC_...: of f32, f16 and bf16 streams */
  uint32_t key_bits;          /* planes: 1 to 8; 0: 4 */
  uint32_t value_bits;        /* planes: 1 to 8; 0: 3 */
  uint32_t reserved2;
  uint64_t exact_tokens;      /* planes, entropy, with CCD_WRITE_EXACT_TOKENS: first tokens that stay as they are */
  const uint8_t* token_bits;  /* planes: {key, value} bits of each token of the card, 0: exact; NULL: as above */
  const uint8_t* layer_bits;  /* planes: {key, value} bits of each layer of the model, 1 to 8, in place of key_bits and
                               * value_bits; beside token_bits a token gets its layer's, plus what its own are above
                               * key_bits and value_bits. NULL: none */
  uint64_t newest_tokens;     /* last tokens that get a bit more (planes) or half the steps (entropy) */
  double bits;                /* entropy: wanted bits a value of the whole file, 0.05 to 4,096; 0: 2 */
  const ccd_card* profile;    /* a model profile, opened like any card: what errors of each head cost, and what its
                               * queries look at. planes: layers share key_bits and value_bits by it. NULL: none */
  const float* token_weights; /* entropy: how much each token counts, [row][token], finite and 0 or more; one row, or one
                               * for each KV head of the key (or latent) streams, layer by layer. NULL: queries */
  uint64_t weight_count;      /* rows x tokens */
  uint32_t queries;     /* entropy: CCD_QUERIES_... */
  uint32_t reserved3;
  uint64_t file_bytes;  /* entropy: the most that the whole card may take, in place of bits; at least 0.995 of it
                         * is used where finer steps can use it. 0: by bits */
} ccd_write_options;

typedef struct ccd_write_report {
  uint32_t struct_size;
  uint32_t reserved;
  uint64_t file_size;
  uint64_t value_count;
  uint8_t root[16];
} ccd_write_report;

/* Takes the card's bytes in order; returns CCD_OK or the status that the writing call then returns. */
typedef struct ccd_output {
  uint32_t struct_size;
  uint32_t reserved;
  ccd_status (*write)(void* user, const void* bytes, size_t size);
  void* user;
} ccd_output;

/* Writes the card described so far, in one forward pass; may be called again. options and report may be NULL.
 *   _file  writes a temporary file beside path, renamed when all is there: on failure path is as it was.
 *   _to    hands the bytes to a callback; on failure it has had a part.
 * Values are read once (exact), twice (planes) or up to six times (entropy; so often for each try with
 * file_bytes, mostly two). A setting that the codec has no use for is invalid_argument; so are file_bytes below
 * the smallest card, whose size the message names (field "file_bytes").
 * Errors: io; whatever a callback returns; bad_size, bad_enum, corrupt, limit_exceeded for a description that
 *   contradicts itself, naming the field; non_finite (planes, entropy); of a profile model_mismatch,
 *   geometry_mismatch, reads */
CCD_API ccd_status ccd_writer_write_file(const ccd_writer* writer, const char* path, const ccd_values* values,
                                         const ccd_write_options* options, ccd_write_report* report,
                                         ccd_error* error) CCD_NOEXCEPT;
CCD_API ccd_status ccd_writer_write_to(const ccd_writer* writer, const ccd_output* output,
                                       const ccd_values* values, const ccd_write_options* options,
                                       ccd_write_report* report, ccd_error* error) CCD_NOEXCEPT;

#ifdef __cplusplus
}
#endif

#endif /* CACHECARD_CACHECARD_H */
