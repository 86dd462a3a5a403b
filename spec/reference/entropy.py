"""The codec entropy: FORMAT.md#lane-sections, #references, S13 to S16, and CODECS.md#entropy up to the rows, all in integers."""
import csv
import math
import pathlib
import struct
from types import SimpleNamespace

from records import *

FINE = 126
FREQUENCIES, MULTIPLIERS, SCALE_LENGTHS = [], [], []        # tables/entropy.csv
for line in csv.DictReader(pathlib.Path(__file__).parents[1].joinpath("tables/entropy.csv").read_text().splitlines()[3:]):
    numbers = [int(number) for number in line["values"].split()]
    if line["name"] == "scale_code_length":
        SCALE_LENGTHS = numbers
    else:
        (FREQUENCIES if line["name"] == "frequency" else MULTIPLIERS).append(numbers)

def slots_of(frequencies):
    """For each of a table's 4,096 slots: symbol (32 is the escape), its frequency, the slot's place among the symbol's."""
    symbols = [(s, frequencies[abs(s)]) for s in range(-31, 33)]
    return [(s, f, i) for s, f in symbols for i in range(f)]

SLOTS = [slots_of(frequencies) for frequencies in FREQUENCIES]

def scale_codes():
    """Canonical Huffman: the bits of a code as text, in the order of the stream, -> difference."""
    codes, code, before = {}, 0, 0
    for length, difference in sorted((length, d - 15) for d, length in enumerate(SCALE_LENGTHS)):
        code <<= length - before
        codes[f"{code:0{length}b}"], before = difference, length
        code += 1
    return codes

SCALE_CODES = scale_codes()

def check_lanes(card, f, payload):
    record, before = begin("lanes", payload), (-1, -1)
    need(record.table_set == 1, "bad_enum")
    rows, at = rows_behind(payload, record.layout.size, "lane_stream", record.stream_count)
    for row in rows:
        row.need_reserved_zero()
        need(row.has_mean <= 1 and row.has_scale <= 1, "bad_enum")
        need(math.isfinite(row.step), "non_finite")
        need(2.0 ** -64 <= row.step <= 2.0 ** 64 and (row.layer, row.stream) > before, "corrupt")
        before = row.layer, row.stream
    need(at + sum(row.lane_count * (4 + 2 * row.has_mean) for row in rows) == len(payload), "bad_size")
    found = card.named[LANES, f.stored_digest] = {}
    for row in rows:
        lanes = struct.unpack_from(f"<{row.lane_count}I", payload, at)
        means = struct.unpack_from(f"<{row.lane_count * row.has_mean}H", payload, at + 4 * row.lane_count)
        at += row.lane_count * (4 + 2 * row.has_mean)
        need(all(lane >> 15 & 15 <= 8 and lane >> 19 & 15 <= 8 for lane in lanes), "corrupt")
        need(all(mean & 0x7C00 != 0x7C00 for mean in means), "non_finite")
        found[row.layer, row.stream] = SimpleNamespace(record=row, lanes=lanes, means=means)
    keep(card, len(payload))

def check_references(card, f, payload):
    count = card.segments[f.segment].token_count
    need(len(payload) == 2 * count, "bad_size")
    references = struct.unpack(f"<{count}H", payload)
    for t, reference in enumerate(references):
        distance = reference & 4095
        need(reference < 8192 and distance <= t and (distance or reference == 0), "corrupt")
    keep(card, len(payload))
    card.named[REFERENCES, f.stored_digest] = references

def keep(card, size):
    card.map_bytes += size
    need(card.map_bytes <= LIMITS["map_bytes"], "limit_exceeded")

def check_context(card, f, stream, base, cap, offsets, groups, parameters_fit):
    """S13 and S14. offsets: of each head, as bytes. And what decoding needs: f.offsets, f.lanes, f.references."""
    f.offsets = [[(byte ^ 0x80) - 0x80 for byte in row] for row in offsets]
    kinds = [[o if o in (EXACT, FINE) else 0 for o in row] for row in f.offsets]
    allowed = all(-7 <= o <= 8 or o in (EXACT, FINE) for row in f.offsets for o in row)
    f.need(cap == 255 and allowed and all(row == kinds[0] for row in kinds), "corrupt", "map_digest")   # S13
    f.widths = [element_width(f.dtype) if o == EXACT else 16 if o == FINE else max(0, min(255, base + o))
                for row in f.offsets for o in row]
    parameters, segment = f.parameters, card.segments[f.segment]
    lanes = card.named.get((LANES, parameters.record.lanes_digest), {}).get((stream.layer, stream.stream))
    fit = len(parameters.parts) <= stream.part_count and lanes and lanes.record.lane_count == row_elements(stream)
    f.need(fit and parameters_fit(f, stream), "corrupt", "parameter_digest")                         # S14
    f.lanes, f.references = lanes, [0] * f.token_count
    if parameters.record.references_digest:
        references = card.named[REFERENCES, parameters.record.references_digest]
        f.need(len(references) == segment.token_count, "corrupt", "parameter_digest")
        start = f.first_token - segment.first_token
        f.references = references[start:start + f.token_count]
        f.need(all(r & 4095 <= t for t, r in enumerate(f.references)), "corrupt", "parameter_digest")
    f.units = [(head, head * stream.head_dim + first, width) for head in range(stream.kv_head_count) for first, width in groups]

def check_payload(f, stream, payload, place):
    """S15 and S16. Takes the payload apart: f.exact_rows, f.fine_rows, f.rows[lane][token]."""
    record = begin("entropy", payload, place)
    strips = [(unit, lane, min(64, width - c)) for unit, (_, first, width) in enumerate(f.units)
              for c in range(0, width, 64) for lane in (first + c,)]
    counts = (len(strips), f.offsets[0].count(EXACT), f.offsets[0].count(FINE))
    need((record.strip_count, record.exact_count, record.fine_count) == counts, "corrupt", place)
    need(f.lanes.record.has_scale or record.scale_size == 0, "corrupt", place)
    sizes = [record.layout.size, 8 * counts[0], counts[1] * row_bytes(stream),
             counts[2] * (4 * len(f.units) + row_elements(stream)), record.scale_size]
    at = sum(sizes)

    def zeros(at):
        end = (at + 7) // 8 * 8
        f.need(end <= len(payload), "bad_size", "stored_size")
        need_zeros(payload, at, end, place)
        return end

    first_strip = zeros(at)
    table_at, exact_at, fine_at, scales_at = (sum(sizes[:i]) for i in range(1, 5))
    f.exact_rows, f.fine_rows = bytes(payload[exact_at:fine_at]), bytes(payload[fine_at:scales_at])
    for row in range(fine_at, scales_at, 4 * len(f.units) + row_elements(stream)):
        for scale in struct.unpack_from(f"<{len(f.units)}f", payload, row):
            need(math.isfinite(scale), "non_finite", place)
            need(math.copysign(1, scale) > 0 and scale <= 2.0 ** 64, "corrupt", place)
    parts, at = [], first_strip
    for (unit, lane, count), strip in zip(strips, LAYOUTS["strip"].read_all(payload, table_at, len(strips))):
        words, escapes = strip.word_count, strip.escape_count
        end = zeros(at + 4 * count + 6 * escapes + 2 * words)
        parts.append((unit, lane, struct.unpack_from(f"<{count}I{escapes}I{escapes}h{words}H", payload, at), words, escapes))
        at = end
    f.need(at == len(payload), "bad_size", "stored_size")
    scales = vector_scales(f, payload[scales_at:scales_at + record.scale_size], place)
    f.rows = {}
    for unit, lane, numbers, words, escapes in parts:
        decode_strip(f, unit, lane, numbers, words, escapes, scales[unit], place)

def vector_scales(f, data, place):
    """CODECS.md#vector-scales: by head vector, by token of the chunk; 0 where there is none."""
    coded = [t for t, o in enumerate(f.offsets[0]) if o not in (EXACT, FINE)]
    scales = [[0] * f.token_count for _ in f.units]
    if not f.lanes.record.has_scale:
        return scales
    bits, at = "".join(f"{byte:08b}"[::-1] for byte in data), 0
    for row in scales:
        for i, t in enumerate(coded):
            end = at + 4 if i == 0 else next((at + n for n in range(1, 16) if bits[at:at + n] in SCALE_CODES), 0)
            need(0 < end <= len(bits), "corrupt", place)
            row[t] = int(bits[at:end][::-1], 2) - 8 if i == 0 else row[coded[i - 1]] + SCALE_CODES[bits[at:end]]
            need(-8 <= row[t] <= 7, "corrupt", place)
            at = end
    need((at + 7) // 8 == len(data) and "1" not in bits[at:], "corrupt", place)
    return scales

def decode_strip(f, unit, first, numbers, word_count, escape_count, scales, place):
    """CODECS.md#symbols, for all tokens of the chunk."""
    count = len(numbers) - word_count - 2 * escape_count
    x, rest = list(numbers[:count]), numbers[count:]
    keys, escapes = rest[:escape_count], dict(zip(rest, rest[escape_count:2 * escape_count]))
    need(list(keys) == sorted(set(keys)), "corrupt", place)
    words = iter(rest[2 * escape_count:])
    order = [*range(0, count, 2), *range(1, count, 2)]                      # the channel of each state
    lanes = [f.lanes.lanes[first + c] for c in order]
    head = f.units[unit][0]
    rows = [[0] * f.token_count for _ in order]

    def refill(i):
        if x[i] < 65536:
            word = next(words, None)
            need(word is not None, "corrupt", place)
            x[i] = x[i] << 16 | word

    for t, offset in enumerate(f.offsets[head]):
        if offset in (EXACT, FINE):
            continue
        distance, e = f.references[t] & 4095, -offset
        kind = (f.references[t] >> 12) + 1 if distance else 0
        m = MULTIPLIERS[e + 8][scales[t] + 8]
        shift = max(-8, min(7, -e + ((scales[t] + 1) >> 1)))
        coded = []
        for i, lane in enumerate(lanes):
            level = max(0, min(23, (lane >> 5 * kind & 31) - 8 + shift))
            k = (level - 10) >> 1 if level > 11 else 0
            symbol, frequency, place_of_slot = SLOTS[12 * (lane >> 23 & 1) + level - 2 * k][x[i] & 4095]
            x[i] = frequency * (x[i] >> 12) + place_of_slot
            refill(i)
            coded.append((symbol, k))
        for i, (symbol, k) in enumerate(coded):
            index = symbol
            if k:
                index = (symbol << k) + (x[i] & (1 << k) - 1) - (1 << k - 1)
                x[i] >>= k
                refill(i)
            key = 64 * t + order[i] // 2 + 32 * (order[i] % 2)
            need((symbol == 32) == (key in escapes), "corrupt", place)
            index = escapes.pop(key, index)
            weight = lanes[i] >> 11 + 4 * kind & 15 if kind else 0
            a = (weight * rows[i][t - distance] + m * index + 4) >> 3
            rows[i][t] = max(-32768, min(32767, a))
    need(next(words, None) is None and not escapes and all(state == 65536 for state in x), "corrupt", place)
    f.rows.update((first + order[i], row) for i, row in enumerate(rows))
