"""Reads llama.cpp state files from the layout notes alone: the facts of caches.json, checked to the last byte.

Deliberately separate from the C++ converter: what it finds is what the tests hold the converter to.
Which memory module a file holds and whether cells carry the 12 M-RoPE bytes is not in the file, so
both are arguments. Standard library only.
"""
import struct

SESSION_MAGIC, SEQUENCE_MAGIC, MEMORY_MAGIC = 0x6767736E, 0x67677371, 0xAF143CD8
CHECKPOINT_MAGIC = 0x504B4353
LAYOUTS = {(SESSION_MAGIC, 10): "10/3", (SEQUENCE_MAGIC, 3): "10/3",
           (SESSION_MAGIC, 11): "11/4", (SEQUENCE_MAGIC, 4): "11/4"}
MAX_CELLS = 1 << 20


class Reader:
    """A cursor that refuses to run past the end."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        if count < 0 or self.at + count > len(self.data):
            raise ValueError(f"offset {self.at}: {count} bytes wanted, {len(self.data) - self.at} left")
        self.at += count
        return self.data[self.at - count:self.at]

    def value(self, code):
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def values(self, code, count):
        return list(struct.unpack(f"<{count}{code}", self.take(struct.calcsize(f"<{count}{code}"))))


def read_state(data, container, layout, module="plain", cell_ext=False):
    """All the facts of a file; ValueError unless every byte is accounted for."""
    reader = Reader(data)
    state = {"tokens": [], "packed": None, "arch": None, "parts": [], "checkpoints": []}
    if container in ("session", "sequence"):
        read_header(reader, state, layout)
    if container in ("session", "whole_context"):
        state["arch"] = reader.take(reader.value("I")).decode()
    if container == "sequence_memory":
        if reader.value("I") != MEMORY_MAGIC:
            raise ValueError("no sequence memory magic")
        state["seq_id"] = reader.value("i")
    for kind in module_parts(module):
        state["parts"].append(read_recurrent(reader) if kind == "recurrent" else read_attention(reader, layout, cell_ext))
    if container == "sequence" and reader.at < len(data):
        state["checkpoints"] = read_checkpoints(reader)
    if reader.at != len(data):
        raise ValueError(f"{len(data) - reader.at} bytes after the state")
    return state


def module_parts(module):
    return {"plain": ["attention"], "mla": ["attention"], "iswa": ["attention", "attention"],
            "swa_only": ["attention"], "recurrent": ["recurrent"], "hybrid": ["attention", "recurrent"]}[module]


def read_header(reader, state, layout):
    magic, version = reader.value("I"), reader.value("I")
    if LAYOUTS.get((magic, version)) != layout:
        raise ValueError(f"magic {magic:#x}, version {version}: not layout {layout}")
    words = reader.values("i", reader.value("I"))
    state["packed"] = bool(words) and words[0] == -1
    state["tokens"] = read_packed(words, state) if state["packed"] else words


def read_packed(words, state):
    """llama-server's token blob: marker, version, tokens, media starts, media bytes, padding."""
    blob = Reader(struct.pack(f"<{len(words)}i", *words))
    if blob.value("i") != -1 or blob.value("I") != 1:
        raise ValueError("unknown token blob")
    tokens = blob.values("i", blob.value("I"))
    starts = blob.values("I", blob.value("I"))
    state["media"] = [(start, blob.take(blob.value("I"))) for start in starts]
    if len(blob.data) - blob.at > 3 or any(blob.data[blob.at:]):
        raise ValueError("token blob does not end in zero padding")
    return tokens


def read_attention(reader, layout, cell_ext):
    part = {"kind": "attention", "counts": [], "positions": [], "sequences": [], "ext": [], "layers_k": [],
            "layers_v": [], "v_trans": None, "n_rot": None}
    for _ in range(reader.value("I")):
        count = reader.value("I")
        if count > MAX_CELLS:
            raise ValueError(f"cell count {count}")
        part["counts"].append(count)
        if count:
            read_cells(reader, part, count, cell_ext)
            read_tensors(reader, part, count, layout)
    return part


def read_cells(reader, part, count, cell_ext):
    for _ in range(count):
        part["positions"].append(reader.value("i"))
        ids = reader.value("I")
        if cell_ext:
            part["ext"].append(reader.values("i", 3))
        part["sequences"].append(reader.values("i", ids))


def read_tensors(reader, part, count, layout):
    part["v_trans"], layers = reader.value("I"), reader.value("I")
    if layout == "11/4":
        part["n_rot"] = [reader.value("I"), reader.value("I")]
    part["layers_k"] = [read_rows(reader, count) for _ in range(layers)]
    mark = reader.at
    try:
        part["layers_v"] = [read_columns(reader, count) if part["v_trans"] else read_rows(reader, count)
                            for _ in range(layers)]
    except ValueError:  # latent attention: no V tensor, so nothing was written for it
        reader.at = mark
        part["layers_v"] = []


def read_rows(reader, count):
    kind, size = reader.value("i"), reader.value("Q")
    if not 0 <= kind < 43 or not 0 < size < 1 << 24:
        raise ValueError(f"tensor of type {kind}, row of {size} bytes")
    reader.take(count * size)
    return {"type": kind, "row_bytes": size}


def read_columns(reader, count):
    kind, element, width = reader.value("i"), reader.value("I"), reader.value("I")
    if kind not in (0, 1, 30) or element != (4 if kind == 0 else 2):
        raise ValueError(f"transposed tensor of type {kind}, element of {element} bytes")
    reader.take(count * element * width)
    return {"type": kind, "row_bytes": element * width}


def read_recurrent(reader):
    part = {"kind": "recurrent", "positions": [], "sequences": []}
    count = reader.value("I")
    for _ in range(count):
        part["positions"].append(reader.value("i"))
        part["sequences"].append(reader.values("i", reader.value("I")))
    part["counts"] = [count]
    if count:
        read_recurrent_layers(reader, part, count)
    return part


def read_recurrent_layers(reader, part, count):
    """How many layers have state is not in the file: rows are read while they look like rows.

    R and S rows follow each other, each 12 bytes of header (type f32) and count rows.
    """
    part["s_trans"], part["n_layer"] = reader.value("I"), reader.value("I")
    rows = []
    while reader.at < len(reader.data) and len(rows) < 2 * part["n_layer"]:
        if struct.unpack_from("<i", reader.data, reader.at)[0] != 0:
            break
        rows.append(read_optional_rows(reader, count))
    if len(rows) % 2:
        raise ValueError(f"{len(rows)} recurrent tensors")
    part["r_rows"], part["s_rows"] = rows[:len(rows) // 2], rows[len(rows) // 2:]


def read_optional_rows(reader, count):
    """Row bytes of one R or S tensor; S is empty (0 bytes) for short convolutions."""
    reader.value("i")
    size = reader.value("Q")
    reader.take(count * size)
    return size


def read_checkpoints(reader):
    """What newer servers append: each checkpoint holds three sequence memory blobs."""
    if reader.value("I") != CHECKPOINT_MAGIC or reader.value("I") != 1:
        raise ValueError(f"offset {reader.at}: neither the end nor checkpoints")
    checkpoints = []
    for _ in range(reader.value("I")):
        token_count, first, last = reader.value("q"), reader.value("i"), reader.value("i")
        buffers = [reader.take(reader.value("Q")) for _ in range(3)]
        checkpoints.append({"token_count": token_count, "pos_min": first, "pos_max": last,
                            "bytes": [len(buffer) for buffer in buffers], "target": buffers[0]})
    return checkpoints
