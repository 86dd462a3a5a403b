/* read_card CARD [LAYER]: prints a card's identity and decodes one layer into a paged f32 cache, as a runtime
 * with a block table would. */
#include <cachecard/cachecard.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { PAGE_SIZE = 16 }; /* tokens */

static int fail(const ccd_error* error) {
  fprintf(stderr, "read_card: %s\n", error->message);
  return 1;
}

static int print_identity(const ccd_card* card, uint32_t count) {
  ccd_error error;
  for (uint32_t i = 0; i < count; ++i) {
    uint32_t field = 0;
    char text[1024];
    if (ccd_card_get_identity_id(card, i, &field, &error) != CCD_OK ||
        ccd_card_format_identity(card, field, text, sizeof text, NULL, &error) != CCD_OK) {
      return fail(&error);
    }
    printf("%s: %s\n", ccd_identity_name(field), text);
  }
  return 0;
}

/* Pages of [token][head][channel], whose table lists them last page first: any order will do. */
static int decode_stream(const ccd_card* card, const ccd_stream* stream) {
  const size_t row = (size_t)stream->kv_head_count * stream->head_dim; /* values */
  const size_t page_count = (size_t)((stream->token_count + PAGE_SIZE - 1) / PAGE_SIZE);
  float* memory = calloc(page_count * PAGE_SIZE * row + 1, sizeof *memory);
  void** pages = calloc(page_count + 1, sizeof *pages);
  ccd_error error;
  int failed = memory == NULL || pages == NULL;
  if (!failed) {
    for (size_t i = 0; i < page_count; ++i) pages[i] = memory + (page_count - 1 - i) * PAGE_SIZE * row;
    ccd_target target = {0};
    target.struct_size = sizeof target;
    target.dtype = CCD_DTYPE_F32;
    target.token_stride = (int64_t)(row * sizeof(float));
    target.head_stride = (int64_t)(stream->head_dim * sizeof(float));
    target.channel_stride = sizeof(float);
    target.page_size = PAGE_SIZE;
    target.pages = pages;
    target.page_count = page_count;
    failed = ccd_card_decode(card, stream->layer, stream->stream, stream->first_token, stream->token_count,
                             &target, &error) != CCD_OK &&
             fail(&error);
  }
  if (!failed && stream->token_count > 0) {
    const size_t last = (size_t)stream->token_count - 1;
    const float* first_row = pages[0];
    const float* last_row = (const float*)pages[last / PAGE_SIZE] + last % PAGE_SIZE * row;
    printf("layer %" PRIu32 " %s: %" PRIu64 " tokens x %" PRIu32 " heads x %" PRIu32
           " %s in %zu pages, %g to %g\n",
           stream->layer, ccd_stream_name(stream->stream), stream->token_count, stream->kv_head_count,
           stream->head_dim, ccd_dtype_name(stream->dtype), page_count, first_row[0], last_row[row - 1]);
  }
  free(pages);
  free(memory);
  return failed;
}

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    fprintf(stderr, "usage: read_card CARD [LAYER]\n");
    return 2;
  }
  const uint32_t layer = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
  ccd_card* card = NULL;
  ccd_error error;
  if (ccd_open_file(argv[1], NULL, &card, &error) != CCD_OK) return fail(&error);
  ccd_facts facts = {0};
  facts.struct_size = sizeof facts;
  int failed = ccd_card_get_facts(card, &facts, &error) != CCD_OK && fail(&error);
  if (!failed) {
    printf("format %d.%d, %" PRIu64 " tokens, %" PRIu32 " layers, %" PRIu64 " values in %" PRIu64 " bytes\n",
           facts.format_major, facts.format_minor, facts.token_count, facts.layer_count, facts.value_count,
           facts.file_size);
    failed = print_identity(card, facts.identity_count);
  }
  for (uint32_t i = 0; !failed && i < facts.stream_count; ++i) {
    ccd_stream stream = {0};
    stream.struct_size = sizeof stream;
    failed = ccd_card_get_stream(card, i, &stream, &error) != CCD_OK && fail(&error);
    if (failed || stream.layer != layer || stream.stream == CCD_STREAM_OPAQUE) continue;
    failed = decode_stream(card, &stream);
  }
  ccd_close(card);
  return failed;
}
