/* write_card CARD: writes a small card whose values follow a formula, from a callback. */
#include <cachecard/cachecard.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum { LAYERS = 2, TOKENS = 100, HEADS = 2, HEAD_DIM = 32 };

/* What a runtime would copy out of its cache: [token][head][channel] in f32. */
static ccd_status read_rows(void* user, uint32_t layer, uint32_t stream_kind, uint64_t first_token,
                            uint64_t token_count, void* out, size_t size) {
  float* values = out;
  (void)user;
  if (size != token_count * HEADS * HEAD_DIM * sizeof(float)) return CCD_INTERNAL;
  for (uint64_t t = 0; t < token_count; ++t) {
    for (int i = 0; i < HEADS * HEAD_DIM; ++i) {
      *values++ =
          (float)(first_token + t) + (float)i / 64 + 1000.0f * (float)layer + 500.0f * (float)stream_kind;
    }
  }
  return CCD_OK;
}

static ccd_status describe(ccd_writer* writer, ccd_error* error) {
  for (uint32_t i = 0; i < 2 * LAYERS; ++i) {
    ccd_stream stream = {0};
    stream.struct_size = sizeof stream;
    stream.layer = i / 2;
    stream.stream = i % 2 == 0 ? CCD_STREAM_KEY : CCD_STREAM_VALUE;
    stream.dtype = CCD_DTYPE_F32;
    stream.rope_state = i % 2 == 0 ? CCD_ROPE_AFTER : CCD_ROPE_NONE;
    stream.rope_pairing = i % 2 == 0 ? CCD_PAIRING_INTERLEAVED : CCD_PAIRING_NONE;
    stream.kv_head_count = HEADS;
    stream.head_dim = HEAD_DIM;
    stream.token_count = TOKENS;
    const ccd_status status = ccd_writer_add_stream(writer, &stream, error);
    if (status != CCD_OK) return status;
  }
  const char* architecture = "llama";
  const double rope_base = 10000.0;
  const ccd_identity_value identity[] = {{1, CCD_VALUE_TEXT, architecture, strlen(architecture)},
                                         {11, CCD_VALUE_F64, &rope_base, sizeof rope_base}};
  for (size_t i = 0; i < 2; ++i) {
    const ccd_status status = ccd_writer_set_identity(writer, &identity[i], error);
    if (status != CCD_OK) return status;
  }
  int32_t token_ids[TOKENS];
  for (int32_t i = 0; i < TOKENS; ++i) token_ids[i] = 3 * i;
  return ccd_writer_set_tokens(writer, token_ids, NULL, TOKENS, error);
}

int main(int argc, char** argv) {
  if (argc != 2) {
    fprintf(stderr, "usage: write_card CARD\n");
    return 2;
  }
  ccd_writer_facts facts = {0};
  facts.struct_size = sizeof facts;
  facts.layer_count = LAYERS;
  facts.next_position = TOKENS;
  ccd_values values = {0};
  values.struct_size = sizeof values;
  values.read_rows = read_rows;
  ccd_write_report report = {0};
  report.struct_size = sizeof report;

  ccd_writer* writer = NULL;
  ccd_error error;
  ccd_status status = ccd_writer_create(&facts, &writer, &error);
  if (status == CCD_OK) status = describe(writer, &error);
  if (status == CCD_OK) status = ccd_writer_write_file(writer, argv[1], &values, NULL, &report, &error);
  ccd_writer_destroy(writer);
  if (status != CCD_OK) {
    fprintf(stderr, "write_card: %s\n", error.message);
    return 1;
  }
  printf("%" PRIu64 " values in %" PRIu64 " bytes\n", report.value_count, report.file_size);
  return 0;
}
