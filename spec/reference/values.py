"""CODECS.md: from a chunk's bytes to rows, and from rows to f32. Of a card that verify found without defect."""
import csv
import pathlib
import struct

import numpy as np

from entropy import FINE
from floats import fma32, fma64, narrow_bf16, narrow_f16, widen_bf16, widen_f16
from records import *
from sections import groups

TABLE = {}                                  # tables/planes.csv: name -> numbers
for line in csv.DictReader(pathlib.Path(__file__).parents[1].joinpath("tables/planes.csv").read_text().splitlines()[1:]):
    code = {"f32": ">f", "f64": ">d"}[line["type"]]
    TABLE.setdefault(line["name"], []).append(struct.unpack(code, bytes.fromhex(line["bits"]))[0])
IQ4_NL = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)

def rows_to_f32(rows, dtype):
    """Rows of any element type, as a flat array of f32; still rotated."""
    name, _, block_bytes = DTYPES[dtype]
    if name == "f32":
        return np.frombuffer(rows, "<f4")
    if name in ("f16", "bf16"):
        return (widen_f16 if name == "f16" else widen_bf16)(np.frombuffer(rows, "<u2"))
    return blocks_to_f32(np.frombuffer(rows, np.uint8).reshape(-1, block_bytes), name).reshape(-1)

def blocks_to_f32(blocks, name):
    d = widen_f16(blocks[:, 0:2].copy().view("<u2"))
    with np.errstate(all="ignore"):
        if name == "q8_0":
            return blocks[:, 2:].view(np.int8).astype(np.float32) * d
        nibbles = np.concatenate([blocks[:, -16:] & 15, blocks[:, -16:] >> 4], axis=1).astype(np.int32)
        if name == "iq4_nl":
            return IQ4_NL[nibbles] * d
        if name.startswith("q5"):
            nibbles += 16 * np.unpackbits(blocks[:, -20:-16], axis=1, bitorder="little").astype(np.int32)
        if name in ("q4_1", "q5_1"):
            return nibbles.astype(np.float32) * d + widen_f16(blocks[:, 2:4].copy().view("<u2"))
        return (nibbles - (8 if name == "q4_0" else 16)).astype(np.float32) * d

def butterflies(values, n):
    """Step 2 of #rotation, in groups of n."""
    shape, stride = values.shape, 1
    while stride < n:
        a, b = np.moveaxis(values.reshape(-1, 2, stride), 1, 0)
        values = np.stack([a + b, a - b], axis=1)
        stride *= 2
    return values.reshape(shape)

def one_over_root(n):
    return np.float32(1) / np.sqrt(np.float32(n))

def card_order(stream, parameters, table):
    """For each channel of a row in card order, its number in the source's order."""
    head = list(range(stream.head_dim))
    if parameters.record.rope_removed:
        first, pairs = table.record.rotated_offset, table.record.pair_count
        x, y = (2, 1) if table.record.pairing == 1 else (1, pairs)     # from pair to pair, from its first channel to its second
        rotated = [first + i * x + k * y for i in range(pairs) for k in (0, 1)]
        head = rotated + sorted(set(head) - set(rotated))
    return np.add.outer(np.arange(stream.kv_head_count) * stream.head_dim, head).reshape(-1).astype(np.int64)

def octaves(k):
    """2^(k/16) as #range has it."""
    return np.ldexp(np.array(TABLE["sixteenth_octave"], np.float32)[k % 16], k // 16)

def planes_values(f, stream, widths):
    """#planes-decode, steps 1 to 4, for tokens of these coded widths: rows of f32 in card order."""
    channels, n = row_elements(stream), f.parameters.record.hadamard_size
    present = np.minimum(widths, f.present_limit)[:, None]
    q = np.zeros((len(widths), channels), np.int32)
    for i, plane in enumerate(f.planes):
        count = int((widths > i).sum())
        bits = np.unpackbits(np.frombuffer(plane, np.uint8).reshape(count, -1), axis=1, bitorder="little")
        q[:count] = q[:count] << 1 | bits[:, :channels]
    h = butterflies(2 * q + 1 - (1 << present), n)
    sizes = [width for _, width in groups(stream, f.parameters)] * stream.kv_head_count
    scales = np.frombuffer(f.scales, np.uint8).reshape(len(widths), len(sizes)).astype(np.int32)
    k = np.array(f.tops, np.int32) + scales - 255
    ranges = octaves(k)
    ranges[scales == 0] = 0
    m = np.ldexp(ranges, -present) * one_over_root(n)
    means = widen_f16(np.frombuffer(f.parameters.data, "<u2")) if f.parameters.data else np.float32(0)
    return fma32(h, np.repeat(m, sizes, axis=1), means)

def sine_cosine(theta):
    """#angles, steps 1 to 4."""
    k = np.rint(theta * TABLE["two_over_pi"][0])
    r = fma64(-k, TABLE["half_pi_low"][0], fma64(-k, TABLE["half_pi_high"][0], theta))
    z = r * r
    p, q = TABLE["sin_term"][5], TABLE["cos_term"][5]
    for i in range(4, -1, -1):
        p, q = fma64(p, z, TABLE["sin_term"][i]), fma64(q, z, TABLE["cos_term"][i])
    s, c = fma64(r * z, p, r), fma64(z * z, q, fma64(z, -0.5, 1.0))
    quarter = np.mod(k, 4)
    cases = [quarter == i for i in range(4)]
    return np.select(cases, [s, c, -s, -c]), np.select(cases, [c, -s, -c, s])

def positions_of(runs):
    return [run.first_position + i * run.step for run in runs for i in range(run.token_count)]

def apply_rope(values, positions, stream, table):
    """Step 5; values are rows in card order."""
    sine, cosine = sine_cosine(np.multiply.outer(np.array(positions, np.float64), np.array(table.frequencies)))
    with np.errstate(all="ignore"):
        c, s = ((table.record.magnitude * angle).astype(np.float32)[:, None, :] for angle in (cosine, sine))
        heads = values.reshape(len(positions), stream.kv_head_count, stream.head_dim)
        rotated = heads[:, :, :table.record.rotated_width]
        x, y = rotated[:, :, 0::2].copy(), rotated[:, :, 1::2].copy()
        rotated[:, :, 0::2], rotated[:, :, 1::2] = fma32(x, c, -(y * s)), fma32(y, c, x * s)
    return values

def finished(f, stream, segment, values, tokens):
    """Steps 5 and 6: rows of these tokens of the chunk, as bytes in the stream's element type and channel order."""
    if f.parameters.record.rope_removed:
        positions = positions_of(f.positions.runs)[f.first_token - segment.first_token:]
        values = apply_rope(values, [positions[token] for token in tokens], stream, f.rope_table)
    source = np.empty_like(values)
    source[:, card_order(stream, f.parameters, f.rope_table)] = values
    narrow = {"f32": np.copy, "f16": narrow_f16, "bf16": narrow_bf16}[DTYPES[stream.dtype][0]]
    return narrow(source).view(np.uint8).reshape(len(tokens), -1)

def planes_to_rows(f, stream, segment):
    """A planes chunk as rows in the stream's element type and channel order."""
    exact = [i for i, width in enumerate(f.coded_widths) if width is None]
    coded = sorted((i for i, width in enumerate(f.coded_widths) if width), key=lambda i: -f.coded_widths[i])
    rows = np.zeros((f.token_count, row_bytes(stream)), np.uint8)
    rows[exact] = np.frombuffer(f.exact_rows, np.uint8).reshape(len(exact), row_bytes(stream))
    if coded:
        values = planes_values(f, stream, np.array([f.coded_widths[i] for i in coded], np.int32))
        rows[coded] = finished(f, stream, segment, values, coded)
    return rows.tobytes()

def entropy_to_rows(f, stream, segment):
    """CODECS.md#entropy-decode: an entropy chunk as rows in the stream's element type and channel order."""
    kinds = {kind: [t for t, o in enumerate(f.offsets[0]) if (o if o in (EXACT, FINE) else 0) == kind] for kind in (0, EXACT, FINE)}
    elements, units = row_elements(stream), len(f.units)
    steps = np.array([lane >> 24 for lane in f.lanes.lanes], np.int32)
    lane_steps = np.float32(f.lanes.record.step) * octaves(steps - 128)
    means = widen_f16(np.array(f.lanes.means, np.uint16)) if f.lanes.means else np.float32(0)
    a = np.array([f.rows[lane] for lane in range(elements)], np.int16).T
    values = np.ascontiguousarray(fma32(a, lane_steps * np.float32(2.0 ** -6), means))
    fine = np.frombuffer(f.fine_rows, np.uint8).reshape(len(kinds[FINE]), 4 * units + elements)
    scales = np.repeat(fine[:, :4 * units].copy().view("<f4"), [width for _, _, width in f.units], axis=1)
    values[kinds[FINE]] = fine[:, 4 * units:].view(np.int8).astype(np.float32) * scales
    rows = finished(f, stream, segment, values, range(f.token_count)).copy()
    rows[kinds[EXACT]] = np.frombuffer(f.exact_rows, np.uint8).reshape(len(kinds[EXACT]), row_bytes(stream))
    return rows.tobytes()

LOSSY = {PLANES: planes_to_rows, ENTROPY: entropy_to_rows}

def stream_values(card, number):
    """A stream as the bytes of its f32 values [token][head][channel], rotation undone; an opaque one as its bytes."""
    stream = card.streams[number]
    rows = b"".join(LOSSY[f.codec](f, stream, card.segments[f.segment]) if f.codec in LOSSY else payload
                    for f, owner, payload in card.chunks if owner == number)
    if stream.stream == OPAQUE:
        return rows
    values, n = rows_to_f32(rows, stream.dtype), stream.hadamard_size
    with np.errstate(all="ignore"):
        return values.tobytes() if n == 1 else butterflies(values * one_over_root(n), n).tobytes()
