/* The decoder under test in run_testee, over the C ABI alone. See README.md for what it prints. */
#define XXH_INLINE_ALL
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "cachecard/cachecard.h"

static int print_status(ccd_status status, const ccd_error* error) {
  printf("{\"error\":\"%s\",\"offset\":", ccd_status_name(status));
  if (status == CCD_OK || error->offset == CCD_NO_OFFSET) {
    printf("null}\n");
  } else {
    printf("%" PRIu64 "}\n", error->offset);
  }
  return status == CCD_OK ? 0 : 1;
}

static void print_list(const char* name, const int32_t* numbers, size_t count) {
  printf("\"%s\":[", name);
  for (size_t i = 0; i < count; ++i) printf("%s%" PRId32, i == 0 ? "" : ",", numbers[i]);
  printf("],");
}

/* XXH3-64 of a stream's values as f32, or of an opaque stream's bytes. */
static ccd_status stream_digest(const ccd_card* card, const ccd_stream* stream, uint64_t* digest, ccd_error* error) {
  const size_t row = (size_t)stream->kv_head_count * stream->head_dim;
  const size_t size = stream->opaque_size + stream->token_count * row * sizeof(float);
  void* bytes = malloc(size + 1);
  if (bytes == NULL) {
    error->offset = CCD_NO_OFFSET;
    return CCD_OUT_OF_MEMORY;
  }
  ccd_status status;
  if (stream->stream == CCD_STREAM_OPAQUE) {
    status = ccd_card_read_opaque(card, stream->layer, 0, bytes, size, error);
  } else {
    const ccd_target target = {.struct_size = sizeof(target),
                               .dtype = CCD_DTYPE_F32,
                               .base = bytes,
                               .token_stride = (int64_t)(row * sizeof(float)),
                               .head_stride = (int64_t)(stream->head_dim * sizeof(float)),
                               .channel_stride = sizeof(float)};
    status = stream->token_count == 0 ? CCD_OK
                                      : ccd_card_decode(card, stream->layer, stream->stream, stream->first_token,
                                                        stream->token_count, &target, error);
  }
  *digest = XXH3_64bits(bytes, size);
  free(bytes);
  return status;
}

static ccd_status print_tokens(const ccd_card* card, const ccd_facts* facts, ccd_error* error) {
  int32_t* numbers = malloc(facts->token_count * sizeof(int32_t) + 1);
  if (numbers == NULL) return CCD_OUT_OF_MEMORY;
  size_t count = 0;
  ccd_status status = CCD_OK;
  if ((facts->flags & CCD_CARD_TOKENS_UNKNOWN) != 0) {
    printf("\"tokens\":null,");
  } else {
    status = ccd_card_get_token_ids(card, numbers, facts->token_count, &count, error);
    if (status == CCD_OK) print_list("tokens", numbers, count);
  }
  if (status == CCD_OK) status = ccd_card_get_positions(card, numbers, facts->token_count, &count, error);
  if (status == CCD_OK) print_list("positions", numbers, count);
  free(numbers);
  return status;
}

static ccd_status print_card(const ccd_card* card, ccd_error* error) {
  ccd_facts facts = {.struct_size = sizeof(facts)};
  ccd_status status = ccd_card_get_facts(card, &facts, error);
  if (status != CCD_OK) return status;
  printf("{");
  status = print_tokens(card, &facts, error);
  printf("\"streams\":[");
  for (uint32_t i = 0; status == CCD_OK && i < facts.stream_count; ++i) {
    ccd_stream stream = {.struct_size = sizeof(stream)};
    status = ccd_card_get_stream(card, i, &stream, error);
    uint64_t digest = 0;
    if (status == CCD_OK) status = stream_digest(card, &stream, &digest, error);
    printf("%s{\"layer\":%" PRIu32 ",\"stream\":\"%s\",\"first_token\":%" PRIu64 ",\"token_count\":%" PRIu64
           ",\"xxh3_64\":\"%016" PRIx64 "\"}",
           i == 0 ? "" : ",", stream.layer, ccd_stream_name(stream.stream), stream.first_token, stream.token_count, digest);
  }
  printf("]}\n");
  return status;
}

int main(int argc, char** argv) {
  ccd_error error;
  if (argc == 3 && strcmp(argv[1], "verify") == 0)
    return print_status(ccd_verify_file(argv[2], CCD_VERIFY_DECODE, NULL, NULL, &error), &error);
  if (argc != 3 || strcmp(argv[1], "decode") != 0) {
    fputs("usage: testee_c decode|verify FILE\n", stderr);
    return 2;
  }
  ccd_card* card = NULL;
  ccd_status status = ccd_open_file(argv[2], NULL, &card, &error);
  if (status != CCD_OK) return print_status(status, &error);
  status = print_card(card, &error);
  ccd_close(card);
  return status == CCD_OK ? 0 : print_status(status, &error);
}
