#!/usr/bin/env python3
"""Damages valid cards at random and compares what spec/reference/ says of each mutant with what a testee says: error and
offset, and where both find it whole, tokens, positions and values. Most mutants are sealed again around the damage (digests,
directory, summary, root), so that the checks behind a digest are reached. Equal seeds make equal mutants."""
import argparse
import collections
import json
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "spec" / "reference"))

import decode  # noqa: E402
import sections  # noqa: E402
from records import (CHUNK, DIRECTORY, FRAME_HEADER, LAYOUTS, NONE32, PARAMETERS, PLANES, POSITIONS, SUMMARY,  # noqa: E402
                     Defect, align64, check32, digest64, xxhash)
from verify import Card, verify  # noqa: E402

NUMBERS = [0, 1, 2, 3, 4, 5, 7, 8, 9, 16, 30, 32, 63, 64, 65, 126, 127, 128, 129, 255, 256, 257, 0x7FFF, 0x8000, 0xFFFF, 0x10000,
           0x7FFFFFFF, 0x80000000, NONE32, 1 << 32, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]
RECORDS = {3: "position_run", 4: "bit_width_map", 5: "parameters", 7: "rope_table", 8: "planes", 10: "source_layout",
           13: "provenance", 15: "summary"}
ROWS_BEHIND = {5: "part", 10: "source_operation", 13: "provenance_step", 15: "summary_stage"}
SEALS = ("summary", "directory", "planes", "names")
HEADER_AT = 64


def fields_of(row):
    return {name: getattr(row, name) for name in row.layout.offsets}


class Frame:
    def __init__(self, row, payload):
        self.fields = fields_of(row)
        self.payload = bytearray(payload)
        self.old_digest = row.stored_digest
        self.keep_payload = False

    def is_planes(self):
        return self.fields["section_type"] == CHUNK and self.fields["codec"] == PLANES


class Parts:
    """A valid card taken apart. Fields set in `forced` win over what sealing would write: (part, field) -> value."""

    def __init__(self, data, seals):
        self.seals = seals
        self.forced = {}
        self.prologue = fields_of(LAYOUTS["prologue"].read(data, 0))
        size = self.prologue["header_size"]
        self.header = bytearray(data[HEADER_AT:HEADER_AT + size])
        self.frames = []
        at = HEADER_AT + align64(size)
        while not self.frames or self.frames[-1].fields["section_type"] != DIRECTORY:
            row = FRAME_HEADER.read(data, at)
            payload_at = at + FRAME_HEADER.size
            self.frames.append(Frame(row, data[payload_at:payload_at + row.stored_size]))
            at = payload_at + align64(row.stored_size)
        self.trailer = fields_of(LAYOUTS["trailer"].read(data, at))

    def pack(self, name, part, fields):
        """The record, its check made anew."""
        fields.update({field: value for (owner, field), value in self.forced.items() if owner is part})
        layout = LAYOUTS[name]
        record = bytearray(layout.struct.pack(*fields.values()))
        if (part, "check") not in self.forced:
            at = layout.offsets["check"]
            struct.pack_into("<I", record, at, check32(bytes(record[:at])))
        return bytes(record)

    def sealed(self):
        prologue = dict(self.prologue, header_size=len(self.header), header_digest=digest64(bytes(self.header)))
        out = bytearray(self.pack("prologue", "prologue", prologue))
        out += self.header + bytes(-len(self.header) % 64)
        begin, heads, places, names = bytes(out), [], {}, {}
        for frame in self.frames:
            self.seal_payload(frame, bytes(out), heads, names)
            places[frame.fields["section_type"]] = len(out)
            heads.append(self.seal_frame(frame, len(out), names))
            out += heads[-1] + frame.payload + bytes(-len(frame.payload) % 64)
        trailer = dict(self.trailer, summary_offset=places.get(SUMMARY, 0), directory_offset=places.get(DIRECTORY, 0),
                       frame_count=len(heads), file_size=len(out) + LAYOUTS["trailer"].size)
        first = self.pack("trailer", "trailer", dict(trailer))[:32]
        trailer["root"] = xxhash.xxh3_128_digest(begin + b"".join(heads) + first)
        return bytes(out) + self.pack("trailer", "trailer", trailer)

    def seal_payload(self, frame, before, heads, names):
        kind, payload = frame.fields["section_type"], frame.payload
        if kind == DIRECTORY and "directory" in self.seals:
            payload[:] = b"".join(heads)
        elif kind == SUMMARY and "summary" in self.seals and not frame.keep_payload and len(payload) >= 40:
            card = Card(before)
            try:
                card.walk()
            except Defect:
                payload[:] = sections.summary_payload(card, bytes(payload[32:40]))
        elif frame.is_planes() and "planes" in self.seals:
            seal_planes(frame)
        elif kind == PARAMETERS and "names" in self.seals and not frame.keep_payload:
            for at in (8, 16, 24):
                digest, = struct.unpack_from("<Q", payload, at)
                struct.pack_into("<Q", payload, at, names.get(digest, digest))

    def seal_frame(self, frame, offset, names):
        fields, size = dict(frame.fields, offset=offset), len(frame.payload)
        fields.update(stored_size=size, digest_size=min(fields["digest_size"], size) if frame.is_planes() else size)
        if fields["compressor"] == 0:
            fields["decoded_size"] = size
        if "names" in self.seals:
            for name in ("parameter_digest", "map_digest"):
                fields[name] = names.get(fields[name], fields[name])
        fields["stored_digest"] = digest64(bytes(frame.payload[:fields["digest_size"]]))
        names[frame.old_digest] = fields["stored_digest"]
        return self.pack("frame_header", frame, fields)


def seal_planes(frame):
    """The planes' digests, as far as the head still makes sense."""
    payload, at = frame.payload, frame.fields["digest_size"]
    count = struct.unpack_from("<I", payload, 4)[0] if len(payload) >= 32 else 9
    if count > 8 or not 32 + 16 * count <= at <= len(payload):
        return
    table = at - 16 * count
    for i in range(count):
        size, = struct.unpack_from("<Q", payload, table + 16 * i)
        struct.pack_into("<Q", payload, table + 16 * i + 8, digest64(bytes(payload[at:at + size])))
        at += size


class Mutator:
    def __init__(self, seed):
        self.rng = random.Random(seed)

    def poke(self, data, place, size):
        if place + size > len(data):
            return
        old = int.from_bytes(data[place:place + size], "little")
        new = self.rng.choice([old ^ 1 << self.rng.randrange(8 * size), old + self.rng.choice([-16, -2, -1, 1, 2, 16]),
                               self.rng.choice(NUMBERS), self.rng.choice(NUMBERS), self.rng.getrandbits(8 * size)])
        data[place:place + size] = (new % (1 << 8 * size)).to_bytes(size, "little")

    def poke_record(self, data, name, place):
        layout = LAYOUTS[name]
        places = [*layout.offsets.values(), layout.size]
        number, field = self.rng.choice(list(enumerate(layout.offsets)))
        size = places[number + 1] - places[number]
        at = self.rng.randrange(size) if size > 8 else 0
        self.poke(data, place + places[number] + at, min(size, 8) if size <= 8 else 1)
        return f"{name}.{field}"

    def mutate(self, data):
        parts = Parts(data, [seal for seal in SEALS if self.rng.random() > .03])
        ways = {self.bytes_of_file: 15, self.frame_order: 10, self.header: 20, self.fixed_record: 25, self.payload: 30}
        way, = self.rng.choices(list(ways), list(ways.values()))
        mutant = bytearray(data)
        what = way(mutant if way == self.bytes_of_file else parts)
        return (bytes(mutant) if way == self.bytes_of_file else parts.sealed()), what

    def bytes_of_file(self, data):
        way = self.rng.choice(["flip", "flip", "flip", "cut", "append"])
        if way == "flip":
            data[self.rng.randrange(len(data))] ^= 1 << self.rng.randrange(8)
        elif way == "cut":
            del data[self.rng.randrange(len(data)):]
        else:
            data.append(self.rng.randrange(2))
        return way

    def frame_order(self, parts):
        frames, way = parts.frames, self.rng.choice(["drop", "double", "move", "move", "new"])
        frame = self.rng.choice(frames)
        if way in ("drop", "move"):
            frames.remove(frame)
        if way == "new":
            parts.prologue["optional_features"] = self.rng.choice([15, parts.prologue["optional_features"]])
            row = FRAME_HEADER.read(FRAME_HEADER.struct.pack(*frames[0].fields.values()), 0)
            frame = Frame(row, bytes(self.rng.randrange(70)))
            frame.old_digest = None
            frame.fields.update(section_type=self.rng.choice([0, 2, 6, 9, 10, 11, 12, 13, 14, 17, 99]),
                                flags=self.rng.randrange(4), compressor=self.rng.choice([0, 0, 1, 2]),
                                segment=self.rng.choice([0, NONE32]), token_count=self.rng.choice([0, row.token_count]))
        if way != "drop":
            frames.insert(self.rng.randrange(len(frames) + 1), frame)
        return f"{way} frame of type {frame.fields['section_type']}"

    def header(self, parts):
        record = LAYOUTS["header"].read(bytes(parts.header), 0)
        names = [name for name in ("stream", "stream", "part", "segment", "identity") if getattr(record, name + "_count")]
        if self.rng.random() < .4:
            return self.poke_record(parts.header, "header", 0)
        name = self.rng.choice(names)
        row = self.rng.randrange(getattr(record, name + "_count"))
        return self.poke_record(parts.header, name, getattr(record, name + "_offset") + row * LAYOUTS[name].size)

    def fixed_record(self, parts):
        part = self.rng.choice(["prologue", "trailer", *parts.frames, *parts.frames])
        name = part if isinstance(part, str) else "frame_header"
        card = parts.sealed()
        place = {"prologue": 0, "trailer": len(card) - LAYOUTS["trailer"].size}.get(name)
        if place is None:
            before = parts.frames[:parts.frames.index(part)]
            place = HEADER_AT + align64(len(parts.header))
            place += sum(FRAME_HEADER.size + align64(len(frame.payload)) for frame in before)
        record = bytearray(card[place:place + LAYOUTS[name].size])
        what = self.poke_record(record, name, 0)
        field = what.split(".")[1]
        parts.forced[part, field] = getattr(LAYOUTS[name].read(bytes(record), 0), field)
        return what if isinstance(part, str) else f"{what} of type {part.fields['section_type']}"

    def payload(self, parts):
        # Not inside zstd data: versions of zstd differ in what damage they notice (CODECS.md#zstd).
        plain = [f for f in parts.frames if f.payload and f.fields["compressor"] == 0]
        frame = self.rng.choice([f for f in plain if f.fields["section_type"] != DIRECTORY])
        kind, payload = frame.fields["section_type"], frame.payload
        frame.keep_payload = True
        way = self.rng.random()
        if way < .5 and kind in RECORDS and (kind != CHUNK or frame.is_planes()):
            run = LAYOUTS["position_run"].size
            place = self.rng.randrange(len(payload)) // run * run if kind == POSITIONS else 0
            return self.poke_record(payload, RECORDS[kind], place)
        if way < .65 and kind in ROWS_BEHIND:
            begin, size = LAYOUTS[RECORDS[kind]].size, LAYOUTS[ROWS_BEHIND[kind]].size
            row = self.rng.randrange(max(1, (len(payload) - begin) // size))
            return self.poke_record(payload, ROWS_BEHIND[kind], begin + row * size)
        if way < .7:
            del payload[-self.rng.choice([1, 2, 8, 16, 24, 64]):]
            return f"shorter payload of type {kind}"
        if way < .75:
            payload.extend(bytes(self.rng.choice([1, 2, 8, 16, 24, 64])))
            return f"longer payload of type {kind}"
        self.poke(payload, self.rng.randrange(len(payload)), self.rng.choice([1, 1, 2, 4, 8]))
        return f"payload of type {kind}"


def ask(testee, verb, path):
    done = subprocess.run([*testee, verb, path], capture_output=True)
    try:
        return json.loads(done.stdout)
    except ValueError:
        return {"error": f"exit {done.returncode}: {done.stderr[-100:]!r}"}


def compare(testee, mutant, path):
    """What this reader found, and how the testee differs (empty: it does not)."""
    path.write_bytes(mutant)
    name, offset = verify(mutant)
    found = ask(testee, "verify", path)
    if found.get("error") != name or name != "ok" and found.get("offset") != offset:
        return name, f"{name} at {offset}, testee: {found.get('error')} at {found.get('offset')}"
    if name == "ok":
        mine, found = decode.decode(mutant), ask(testee, "decode", path)
        for key in mine:
            if mine[key] != found.get(key, mine[key] if key == "positions" else None):
                return name, f"{key} differ"
    return name, ""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--only", default="", help="only fixtures whose file contains this")
    parser.add_argument("--keep", type=pathlib.Path, help="folder for the mutants that differ")
    parser.add_argument("testee", nargs=argparse.REMAINDER, help="CMD verify FILE, CMD decode FILE as in README.md")
    options = parser.parse_args()
    paths = [path for path in sorted((ROOT / "fixtures/valid").glob("*.card")) if options.only in path.name]
    cards = [(path.name, path.read_bytes()) for path in paths]
    counts, differ = collections.Counter(), 0
    with tempfile.TemporaryDirectory() as folder:
        for i in range(options.count):
            mutator = Mutator(f"{options.seed}/{i}")
            file, data = mutator.rng.choice(cards)
            mutant, what = mutator.mutate(data)
            name, difference = compare(options.testee, mutant, pathlib.Path(folder) / "mutant.card")
            counts[name] += 1
            if difference:
                differ += 1
                print(f"mutant {i} of {file}, {what}: {difference}", flush=True)
                if options.keep:
                    (options.keep / f"{options.seed}_{i}.card").write_bytes(mutant)
    print(f"seed {options.seed}: {options.count} mutants of {len(cards)} cards, {differ} differ; {dict(counts.most_common())}")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
