"""Sequence states of tiny_llama (2 layers, 2 KV heads of 64, f16, layout 10/3) of any length: a longer one continues a shorter one."""

import math
import random
import struct

LAYERS, CHANNELS, F16 = 2, 128, 1
SEQUENCE_MAGIC, VERSION = 0x67677371, 3


def token_id(index):
    return index * index % 13


def row(layer, stream, index):
    """Keys of position 0 turn slowly with the token, so that neighbours resemble each other; values scatter."""
    scatter = random.Random(f"{layer} {stream} {token_id(index)}")
    return [math.sin(0.02 * index * (c % 7) + c) + scatter.gauss(0, 0.3) for c in range(CHANNELS)]


def write_state(path, tokens, ids=None, changed=()):
    """changed: rows (layer, stream, token) that are another token's."""
    ids = ids or [token_id(i) for i in range(tokens)]
    out = [struct.pack("<3I", SEQUENCE_MAGIC, VERSION, tokens), struct.pack(f"<{tokens}i", *ids), struct.pack("<2I", 1, tokens)]
    out += [struct.pack("<iIi", i, 1, 0) for i in range(tokens)]
    out.append(struct.pack("<2I", 0, LAYERS))
    for stream in ("key", "value"):
        for layer in range(LAYERS):
            out.append(struct.pack("<iQ", F16, 2 * CHANNELS))
            for i in range(tokens):
                source = i + 5 if (layer, stream, i) in changed else i
                out.append(struct.pack(f"<{CHANNELS}e", *row(layer, stream, source)))
    path.write_bytes(b"".join(out))
    return path
