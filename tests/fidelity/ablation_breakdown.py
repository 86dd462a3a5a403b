"""Where a card's bits are: every byte of the file in one of a few kinds."""
import struct

FRAME_BYTES = 128
ENTROPY_RECORD, STRIP_RECORD = struct.Struct("<5I12x"), struct.Struct("<2I")
PLANES_RECORD, PLANE_RECORD_BYTES = struct.Struct("<4I16x"), 16
LANE_STREAM = struct.Struct("<5xB2xI4x")

# Order of the table; what a chunk does not say is framing.
KINDS = ("symbols", "coder states", "escapes", "vector scales", "exact tokens", "map", "references", "lanes", "means", "parameters",
         "token ids", "about the card", "framing")
OF_SECTION = {"token_ids": "token ids", "positions": "parameters", "bit_width_map": "map", "parameters": "parameters",
              "references": "references", "rope_table": "parameters", "summary": "about the card", "provenance": "about the card",
              "source_layout": "about the card", "source_bytes": "about the card", "profile_digest": "about the card"}


def breakdown(facts, path, value_count):
    """Bits a value by kind; they add up to the file's. facts: of CardCommand.sections"""
    with open(path, "rb") as file:
        data = file.read()
    sizes = dict.fromkeys(KINDS, 0)
    streams = {(layer, stream["stream"]): stream for stream in facts["streams"] for layer in stream["layers"]}
    for frame in facts["sections"]:
        payload = data[frame["offset"] + FRAME_BYTES:frame["offset"] + FRAME_BYTES + frame["stored_size"]]
        kind = frame["section_type"]
        if kind == "chunk" and frame["codec"] in CHUNKS:
            parts = CHUNKS[frame["codec"]](payload, streams[frame["layer"], frame["stream"]])
        elif kind == "lanes":
            parts = _lanes(payload)
        else:
            parts = {OF_SECTION.get(kind, "framing"): len(payload)}
        for name, size in parts.items():
            sizes[name] += size
    sizes["framing"] += len(data) - sum(sizes.values())
    return {name: 8 * size / value_count for name, size in sizes.items()}


def _row_elements(stream):
    return stream["kv_head_count"] * stream["head_dim"]


def _entropy(payload, stream):
    """spec: CODECS.md#entropy-layout. Rows of 16-bit values in one part, as llama.cpp's are."""
    _, strips, exact, fine, scales = ENTROPY_RECORD.unpack_from(payload)
    records = [STRIP_RECORD.unpack_from(payload, ENTROPY_RECORD.size + STRIP_RECORD.size * i) for i in range(strips)]
    elements = _row_elements(stream)
    return {"symbols": 2 * sum(words for words, _ in records), "escapes": 6 * sum(escapes for _, escapes in records),
            "coder states": 4 * elements, "vector scales": scales,
            "exact tokens": exact * 2 * elements + fine * (elements + 4 * stream["kv_head_count"])}


def _planes(payload, stream):
    """spec: CODECS.md#planes"""
    _, planes, exact, coded = PLANES_RECORD.unpack_from(payload)
    heads, rows = stream["kv_head_count"], exact * 2 * _row_elements(stream)
    head = -(-(PLANES_RECORD.size + 2 * heads + coded * heads + rows) // 8) * 8 + PLANE_RECORD_BYTES * planes
    return {"symbols": len(payload) - head, "vector scales": (coded + 2) * heads, "exact tokens": rows}


def _lanes(payload):
    """The records in front are framing."""
    size, count = struct.unpack_from("<2I", payload)
    rows = [LANE_STREAM.unpack_from(payload, size + LANE_STREAM.size * i) for i in range(count)]
    return {"lanes": 4 * sum(lanes for _, lanes in rows), "means": 2 * sum(lanes for has_mean, lanes in rows if has_mean)}


CHUNKS = {"entropy": _entropy, "planes": _planes}
