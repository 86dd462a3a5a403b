"""FORMAT.md#content-checks: S1, S2 and S9 to S12. A Defect without an offset is at the first byte of the payload."""
import collections
import math
import struct
from types import SimpleNamespace

import entropy
from records import *

ABSENT = 0x80                               # offset of the map, as a byte

def check_chunk_context(card, f, number):
    """And how wide the chunk's tokens are: f.widths in half bits; for planes f.coded_widths in bits, None where exact."""
    stream = card.streams[number]
    parameters = card.named[PARAMETERS, f.parameter_digest] if f.parameter_digest else None
    planes, lossy = f.codec == PLANES, (PLANES, ENTROPY)
    if parameters:
        right = f.codec in lossy or parameters.record.hadamard_size == stream.hadamard_size
        same = f.codec == parameters.record.codec or f.codec not in lossy and parameters.record.codec not in lossy
        f.need(right and same, "corrupt", "parameter_digest")                                        # S1
    bits = card.maps[f.segment]
    start = f.first_token - card.segments[f.segment].first_token
    first_use = sum(s.kv_head_count for s in card.streams[:number] if s.stream != OPAQUE)
    rows = sorted(set(bits.uses[first_use:first_use + stream.kv_head_count]))
    offsets = [bits.row(row, start, f.token_count) for row in rows]
    f.need(not any(ABSENT in row for row in offsets), "corrupt", "map_digest")                       # S2
    f.widths, f.width_values = [element_width(f.dtype)] * f.token_count, row_elements(stream)
    if f.codec not in lossy:
        return
    cap = bits.caps[number]
    f.parameters = parameters
    f.positions = card.positions.get(f.segment)
    f.rope_table = card.named.get((ROPE_TABLE, parameters.record.rope_table_digest))
    if not planes:
        f.width_values = stream.head_dim
        by_head = [bits.row(row, start, f.token_count) for row in bits.uses[first_use:first_use + stream.kv_head_count]]
        entropy.check_context(card, f, stream, bits.bases[number], cap, by_head, groups(stream, parameters), parameters_fit)
        return
    f.need(len(rows) == 1 and (cap == 255 or cap in range(2, 17, 2)), "corrupt", "map_digest")       # S10
    f.coded_widths, f.present_limit = [None] * f.token_count, 8 if cap == 255 else cap // 2
    for i, byte in enumerate(offsets[0]):
        if byte != EXACT:
            width = bits.bases[number] + (byte ^ 0x80) - 0x80
            f.need(width in range(2, 17, 2), "corrupt", "map_digest")
            f.coded_widths[i], f.widths[i] = width // 2, min(width, cap)
    f.need(parameters_fit(f, stream), "corrupt", "parameter_digest")                                 # S11

def groups(stream, parameters):
    """(first channel, channels) of each group of a head, in card order."""
    return [(part.offset, part.width) for part in parameters.parts] or [(0, stream.head_dim)]

def parameters_fit(f, stream):
    """CODECS.md#parameters-of-planes."""
    record, end = f.parameters.record, 0
    for offset, width in groups(stream, f.parameters):
        if offset != end or width == 0 or width % record.hadamard_size:
            return False
        end += width
    fit = (end == stream.head_dim and record.data_size in (0, 2 * row_elements(stream))
           and all(part.rotated <= 1 for part in f.parameters.parts))
    if not fit or not record.rope_removed:
        return fit
    table = f.rope_table.record
    return (stream.stream in (KEY, LATENT) and stream.rope_state == 2 and stream.hadamard_size == 1
            and table.rotated_offset + table.rotated_width <= stream.head_dim
            and f.positions is not None and record.positions_digest == f.positions.digest)

def check(card, f, payload):
    rules = {TEXT: check_text, POSITIONS: check_positions, MAP: check_map, PARAMETERS: check_parameters,
             ROPE_TABLE: check_rope_table, SOURCE_LAYOUT: check_source_layout, PROVENANCE: check_provenance,
             SUMMARY: check_summary, MODEL_PROFILE: check_model_profile}
    if f.section_type in rules:
        rules[f.section_type](card, f, payload)
    elif f.section_type == TOKEN_IDS:
        card.tokens[f.segment] = bytes(payload)
    elif f.section_type == REFERENCES:
        entropy.check_references(card, f, payload)
    elif f.section_type == LANES:
        entropy.check_lanes(card, f, payload)
    elif f.section_type == SOURCE_BYTES:
        card.literal_size += len(payload)

def check_text(card, f, payload):
    need(is_text(payload), "corrupt")

def check_positions(card, f, payload):
    size = LAYOUTS["position_run"].size
    need(len(payload) % size == 0, "bad_size")
    runs, _ = rows_behind(payload, 0, "position_run", len(payload) // size)
    i32 = range(-2 ** 31, 2 ** 31)
    for run in runs:
        last = run.first_position + (run.token_count - 1) * run.step
        need(1 <= run.token_count < 2 ** 31 and all(x in i32 for x in (run.first_position, run.step, last)), "corrupt")
    need(sum(run.token_count for run in runs) == f.token_count, "corrupt")
    card.positions[f.segment] = card.named[POSITIONS, f.stored_digest] = SimpleNamespace(digest=f.stored_digest, runs=runs)

def check_map(card, f, payload):
    record = begin("bit_width_map", payload)
    heads = sum(s.kv_head_count for s in card.streams if s.stream != OPAQUE)
    counts = (record.base_count, record.use_count, record.token_count)
    need(counts == (len(card.streams), heads, f.token_count), "corrupt")
    need(record.row_count <= MAP_ROWS, "limit_exceeded")
    uses_at = 2 * record.base_count
    rows_at = uses_at + 2 * heads
    size = rows_at + record.row_count * record.token_count
    card.map_bytes += size
    need(card.map_bytes <= LIMITS["map_bytes"], "limit_exceeded")
    need(record.encoding <= 1, "bad_enum")
    body = bytes(payload[record.layout.size:])
    if record.encoding == 1:
        need(len(body) % 2 == 0 and 0 not in body[::2] and sum(body[::2]) == size, "corrupt")
        body = b"".join(body[i + 1:i + 2] * body[i] for i in range(0, len(body), 2))
    need(len(body) == size, "bad_size")
    uses = struct.unpack_from(f"<{heads}H", body, uses_at)
    below = record.row_count or (1 if f.token_count == 0 else 0)
    need(all(use < below for use in uses), "corrupt")
    card.maps[f.segment] = SimpleNamespace(
        digest=f.stored_digest, bases=body[:record.base_count], caps=body[record.base_count:uses_at], uses=uses,
        row=lambda row, start, count: body[rows_at + row * f.token_count + start:][:count])

def check_parameters(card, f, payload):
    record = begin("parameters", payload)
    need(record.rope_removed <= 1, "bad_enum")
    need(is_power_of_two(record.hadamard_size), "corrupt")
    parts, data_at = rows_behind(payload, record.layout.size, "part", record.part_count)
    need(data_at + record.data_size == len(payload), "bad_size")
    for part in parts:
        part.need_reserved_zero()
    digests = {ROPE_TABLE: record.rope_table_digest, POSITIONS: record.positions_digest, REFERENCES: record.references_digest,
               LANES: record.lanes_digest}
    need(all(digest == 0 or (kind, digest) in card.named for kind, digest in digests.items()), "corrupt")
    data = bytes(payload[data_at:])
    if record.codec in (PLANES, ENTROPY):
        right = all((digests[kind] != 0) == record.rope_removed for kind in (ROPE_TABLE, POSITIONS))
        if record.codec == PLANES:
            right = right and record.references_digest == record.lanes_digest == 0 and record.hadamard_size <= 128
        need(right and (record.codec == PLANES or record.hadamard_size == 1), "corrupt")
        need(record.part_count <= PLANES_PARTS, "limit_exceeded")
        need(record.data_size % 2 == 0 if record.codec == PLANES else record.data_size == 0, "bad_size")
        need(record.codec == PLANES or record.lanes_digest, "corrupt")
        need(all(high & 0x7C != 0x7C for high in data[1::2]), "non_finite")
    card.named[PARAMETERS, f.stored_digest] = SimpleNamespace(record=record, parts=parts, data=data)

def check_rope_table(card, f, payload):
    record = begin("rope_table", payload)
    need(record.pairing in (1, 2), "bad_enum")
    need(len(payload) == record.layout.size + 8 * record.pair_count, "bad_size")
    need(record.rotated_width == 2 * record.pair_count, "corrupt")
    frequencies = struct.unpack_from(f"<{record.pair_count}d", payload, record.layout.size)
    for number, least in ((record.magnitude, 1 / 1024), *((frequency, math.ulp(0.0)) for frequency in frequencies)):
        need(math.isfinite(number), "non_finite")
        need(least <= number <= 1024, "corrupt")
    card.named[ROPE_TABLE, f.stored_digest] = SimpleNamespace(record=record, frequencies=frequencies)

def check_model_profile(card, f, payload):
    record = begin("model_profile", payload)
    counts = ((record.kv_head_count, 1, 4096), (record.query_head_count, 1, 4096), (record.key_dim, 1, 4096),
              (record.value_dim, 1, 4096), (record.map_rank, 0, 4096), (record.centroid_count, 0, 1024))
    need(all(least <= count <= most for count, least, most in counts), "bad_size")
    need(record.query_head_count % record.kv_head_count == 0, "corrupt")
    need(0 < record.attention_scale < math.inf, "non_finite")
    heads, queries, rank = record.kv_head_count, record.query_head_count * record.key_dim, record.map_rank
    inputs, centroids = heads * (record.key_dim + record.value_dim) + 1, record.query_head_count * record.centroid_count
    arrays = (("costs", "f", 2 * heads), ("steps", "B", heads * record.key_dim),
              ("down_scales", "e", inputs if rank else 0), ("down", "b", rank * inputs),
              ("up_scales", "e", queries if rank else 0), ("up", "b", queries * rank),
              ("centroid_scales", "e", centroids), ("weights", "H", centroids), ("centroids", "b", centroids * record.key_dim))
    layout = struct.Struct("<" + "".join(f"{count}{code}" for _, code, count in arrays))
    need(len(payload) == record.layout.size + layout.size, "bad_size")
    numbers = iter(layout.unpack_from(payload, record.layout.size))
    found = {name: [next(numbers) for _ in range(count)] for name, _, count in arrays}
    need(all(0 <= cost < math.inf for cost in found["costs"]), "non_finite")
    need(all(math.isfinite(scale) for name in found if name.endswith("scales") for scale in found[name]), "non_finite")

def check_source_layout(card, f, payload):
    record = begin("source_layout", payload)
    need(record.v_transposed <= 1, "bad_enum")
    operations, runs_at = rows_behind(payload, record.layout.size, "source_operation", record.operation_count)
    runs, end = rows_behind(payload, runs_at, "order_run", record.order_run_count)
    need(end == len(payload), "bad_size")
    orders = collections.defaultdict(list)
    for run in runs:
        need(run.order in (len(orders), len(orders) - 1) and run.order >= 0, "corrupt")
        need(run.token_count > 0 and run.first_token + run.token_count <= card.header.token_count, "corrupt")
        orders[run.order].append(run)
    need(len(orders) == record.order_count, "corrupt")
    for operation in operations:
        operation.need_reserved_zero()
        need(operation.operation <= 2 and operation.transposed <= 1, "bad_enum")
        if operation.operation:
            check_source_rows(card, operation, orders)
    need(sum(o.size for o in operations if o.operation == 0) == record.literal_size, "corrupt")
    need(sum(o.size for o in operations) == record.file_size, "corrupt")
    card.layout = record

def check_source_rows(card, operation, orders):
    number = card.index.get((operation.layer, operation.stream))
    need(number is not None and (operation.stream == OPAQUE) == (operation.operation == 2), "corrupt")
    stream, size = card.streams[number], 0
    need(stream.stream == OPAQUE or not operation.transposed or block_elements(stream.dtype) == 1, "bad_enum")
    need(stream.stream == OPAQUE or operation.order in orders, "corrupt")
    for run in orders[operation.order] if stream.stream != OPAQUE else ():
        size += run.token_count * row_bytes(stream)
        end = run.first_token + run.token_count
        need(stream.first_token <= run.first_token and end <= stream.first_token + stream.token_count, "corrupt")
    need(operation.size == size + stream.opaque_size, "corrupt")

def check_provenance(card, f, payload):
    record = begin("provenance", payload)
    need(record.step_stride == LAYOUTS["provenance_step"].size, "bad_size")
    steps, text_at = rows_behind(payload, record.layout.size, "provenance_step", record.step_count)
    need(text_at + record.text_size == len(payload), "bad_size")
    for step in steps:
        step.need_reserved_zero()
        need(1 <= step.operation <= 6, "bad_enum")
        need(step.text_offset + step.text_size <= record.text_size, "bad_offset")
        need(is_text(payload[text_at + step.text_offset:][:step.text_size]), "corrupt")

def check_summary(card, f, payload):
    record = begin("summary", payload)
    stages, widths_at = rows_behind(payload, record.layout.size, "summary_stage", record.stage_count)
    widths, end = rows_behind(payload, widths_at, "summary_width", record.width_count)
    need(end == len(payload), "bad_size")
    for row in (*stages, *widths):
        row.need_reserved_zero()
    error_at = record.layout.offsets["predicted_error"]
    need(payload == summary_payload(card, bytes(payload[error_at:error_at + 8])), "corrupt")

def summary_payload(card, predicted_error):
    """FORMAT.md#summary-section: what the frames so far give."""
    made = struct.pack("<IIIIQQ", 48, len(card.stages), len(card.widths), 0, card.value_count, card.opaque_size)
    made += predicted_error + bytes(8)
    made += b"".join(LAYOUTS["summary_stage"].struct.pack(*key, b"", *sums) for key, sums in sorted(card.stages.items()))
    return made + b"".join(LAYOUTS["summary_width"].struct.pack(*key, b"", values) for key, values in sorted(card.widths.items()))

def check_planes_head(f, stream, payload, place):
    """Also takes the payload apart: f.tops, f.scales, f.exact_rows, f.planes."""
    record = begin("planes", payload[:f.digest_size], place)
    coded = [width for width in f.coded_widths if width is not None]
    exact_count, plane_count = f.token_count - len(coded), min(max(coded, default=0), f.present_limit)
    counts = (record.plane_count, record.exact_count, record.coded_count)
    need(counts == (plane_count, exact_count, len(coded)), "corrupt", place)
    vectors = stream.kv_head_count * len(groups(stream, f.parameters))
    scales_at = record.layout.size + 2 * vectors
    exact_at = scales_at + len(coded) * vectors
    zeros_at = exact_at + exact_count * row_bytes(stream)
    table_at = (zeros_at + 7) // 8 * 8
    at = table_at + plane_count * PLANE.size
    f.need(f.digest_size == at, "bad_size", "digest_size")
    f.tops = struct.unpack_from(f"<{vectors}h", payload, record.layout.size)
    need(all(-1344 <= top <= 1600 for top in f.tops), "corrupt", place)
    need_zeros(payload, zeros_at, table_at, place)
    planes = PLANE.read_all(payload, table_at, plane_count)
    for i, plane in enumerate(planes):
        tokens = sum(width > i for width in coded)
        need(plane.size == tokens * ((row_elements(stream) + 7) // 8), "bad_size", place)
    f.need(at + sum(plane.size for plane in planes) == f.stored_size, "bad_size", "stored_size")
    f.planes, f.scales, f.exact_rows = [], payload[scales_at:exact_at], payload[exact_at:zeros_at]
    for plane in planes:
        f.planes.append(payload[at:at + plane.size])
        need(plane.digest == digest64(f.planes[-1]), "checksum_mismatch", place + at)
        at += plane.size
