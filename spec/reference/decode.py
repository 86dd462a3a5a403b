#!/usr/bin/env python3
"""Reads CacheCards by the text of spec/: `decode.py verify FILE`, `decode.py decode FILE`. See README.md beside this file."""
import json
import pathlib
import struct
import sys

from records import STREAM_NAMES, Defect, digest64
from verify import Card, verify

def decode(data):
    """What a card holds, as tests/conformance/README.md asks for it. Raises Defect."""
    from values import positions_of, stream_values                   # numpy: verify does without it
    card = Card(data)
    card.walk()
    tokens = b"".join(ids for _, ids in sorted(card.tokens.items()))
    streams = [{"layer": s.layer, "stream": STREAM_NAMES[s.stream], "first_token": s.first_token, "token_count": s.token_count,
                "xxh3_64": f"{digest64(stream_values(card, i)):016x}"} for i, s in enumerate(card.streams)]
    return {"tokens": None if card.header.flags & 4 else [number for number, in struct.iter_unpack("<i", tokens)],
            "positions": [p for _, found in sorted(card.positions.items()) for p in positions_of(found.runs)],
            "streams": streams}

def main(verb, file):
    data = pathlib.Path(file).read_bytes()
    name, offset = verify(data)
    answer = {"error": name} if name == "ok" else {"error": name, "offset": offset}
    print(json.dumps(decode(data) if verb == "decode" and name == "ok" else answer))
    return 0 if name == "ok" else 1

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ("decode", "verify"):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
