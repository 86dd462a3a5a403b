"""What fixtures/ cover: every record field of the spec, and every edge of the list below. Usage: test_coverage.py CACHECARD

Valid cards are walked by spec/reference, which reads each record through one function: what that function returned for a
record is what the cards hold. Invalid cards are given to `cachecard verify --decode --json`, whose error names record.field.
"""
import collections
import csv
import itertools
import json
import pathlib
import re
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIXTURES = ROOT / "fixtures"
sys.path.insert(0, str(ROOT / "spec" / "reference"))

import records  # noqa: E402
import verify  # noqa: E402

CACHECARD = sys.argv.pop() if len(sys.argv) == 2 else None

# Fields that no reader checks, because any number is legal.
ANY_NUMBER = {
    "model_profile.layer": "sections are looked at one by one; who reads the whole profile holds them to ascend",
    "prologue.optional_features": "unknown bits are ignored",
    "header.next_position": "the writer's word: M-RoPE puts it anywhere",
    "source_layout.family": "an unknown family is carried, not replayed",
    "source_layout.container": "the family's own number",
    "source_layout.container_version": "the foreign file's own number",
    "source_layout.stream_count": "a fact about the foreign file; the operations say what is put out",
    "source_layout.stream_index": "as stream_count",
    "provenance_step.hop": "a story, which nothing checks",
    "provenance_step.time": "any time, 0 for none",
    "provenance_step.parent_root": "the parent is not at hand",
    "summary.predicted_error": "a reader cannot make it anew",
}
# Fields whose defect the spec lets a reader find at another field: that field, and a card in which only the first is wrong.
FOUND_AT = {
    "prologue.format_minor": ("prologue.format_major", "newer_minor"),                           # P4
    "header.layer_count": ("stream.layer", "header_layer_count_small"),                          # H25
    "stream.window": ("stream.stream", "opaque_with_window"),                                    # H27; any number where values are
    "stream.first_token": ("stream.token_count", "stream_span_overflows"),                       # H33
    "part.width": ("part.offset", "part_empty"),                                                 # H38
    "parameters.codec": ("frame_header.parameter_digest", "planes_parameters_of_ggml"),          # S1
    "rope_table.rotated_offset": ("frame_header.parameter_digest", "planes_rope_table_too_wide"),   # S11
    "strip.word_count": ("frame_header.stored_size", "entropy_words_beyond"),                    # S15
    "strip.escape_count": ("frame_header.stored_size", "entropy_escapes_beyond"),                # S15
}
# Fields that have one number in every card.
ONE_NUMBER = {"prologue.format_major": "0 until 1.0"}

CODECS = ("raw", "ggml", "planes", "entropy")
LOSSY = (records.PLANES, records.ENTROPY)
OPTIONAL = (records.TEXT, records.MEDIA, records.SOURCE_LAYOUT, records.SOURCE_BYTES, records.CANARY, records.PROVENANCE,
            records.PROFILE_DIGEST)


def spec_fields():
    """record.field -> its rule, of every record table in the spec."""
    found = {}
    for name in ("FORMAT.md", "CODECS.md"):
        heading, record = "", None  # record: the heading, inside one of its tables
        for line in (ROOT / "spec" / name).read_text(encoding="utf-8").splitlines():
            if line.startswith("#"):
                heading = line.strip("# ")
            record = heading if line.startswith("| offset | size | type | name | rule |") else record if line.startswith("|") else None
            row = re.match(r"\| \d+ \| \d+ \| [^|]+ \| (\w+) \| (\w+) \|", line)
            if record and row:
                found[f"{record}.{row[1]}"] = row[2]
    return found


def manifest():
    with open(FIXTURES / "MANIFEST.csv", newline="") as rows:
        return list(csv.DictReader(rows))


def walk_valid():
    """The cards as walked, and record.field -> up to two numbers that they hold."""
    names = {id(layout): name for name, layout in records.LAYOUTS.items()}
    numbers, read = collections.defaultdict(set), records.Layout.read

    def noting(layout, data, place):
        row = read(layout, data, place)
        for field in layout.offsets:
            seen = numbers[f"{names[id(layout)]}.{field}"]
            if len(seen) < 2:
                seen.add(getattr(row, field))
        return row

    records.Layout.read = noting
    cards = {}
    for row in manifest():
        if row["expect"] == "ok":
            card = cards[row["file"]] = verify.Card((FIXTURES / row["file"]).read_bytes())
            card.walk()
    records.Layout.read = read
    return cards, numbers


CARDS, NUMBERS = walk_valid()


class Fields(unittest.TestCase):
    def test_valid_cards_have_every_field(self):
        for field, rule in spec_fields().items():
            with self.subTest(field):
                self.assertTrue(NUMBERS.get(field), "no valid card has the record")
                if rule == "value" and field not in ONE_NUMBER:
                    self.assertTrue(len(NUMBERS[field]) > 1 or any(map(bool, NUMBERS[field])), "it is 0 in all valid cards")

    def test_invalid_cards_name_every_field(self):
        fields, named = spec_fields(), collections.defaultdict(set)
        for row in manifest():
            if row["expect"] != "ok":
                command = [CACHECARD, "verify", "--decode", "--json", FIXTURES / row["file"]]
                done = subprocess.run(command, capture_output=True, text=True)
                named[json.loads(done.stdout or done.stderr)["error"].get("field")].add(pathlib.Path(row["file"]).stem)
        for field in fields:
            with self.subTest(field):
                place, card = FOUND_AT.get(field, (field, None))
                if card:
                    self.assertIn(card, named[place])
                self.assertEqual(bool(named.get(field)), field not in ANY_NUMBER and field not in FOUND_AT,
                                 "no invalid card names it, or one does and the exception can go")
        self.assertLessEqual({*ANY_NUMBER, *FOUND_AT, *ONE_NUMBER}, set(fields), "an exception that is no field")
        excepted = len(ANY_NUMBER) + len(FOUND_AT)
        print(f"{len(fields)} fields in the spec: all in valid cards; {len(fields) - excepted} named by invalid ones, "
              f"{len(FOUND_AT)} found at another field, {len(ANY_NUMBER)} with any number legal")


def codecs_of(card):
    """Those of its chunks; of a card without tokens that which its feature bits allow."""
    found = {CODECS[f.codec] for f, number, _ in card.chunks if card.streams[number].stream != records.OPAQUE}
    if not found and not card.header.token_count:
        bits = card.prologue.required_features
        found = {next((name for name in CODECS[1:] if bits >> records.FEATURES[name][1] & 1), "raw")}
    return found


def kept_whole(f):
    """How every token of a lossy chunk is kept: exact, or exact or fine."""
    if f.codec == records.PLANES:
        offsets = {127 if width is None else 0 for width in f.coded_widths}
    else:
        offsets = {offset for row in f.offsets for offset in row}
    return {name for name, allowed in (("exact", {127}), ("fine", {126, 127})) if offsets <= allowed}


def edges_of_chunk(card, f, number):
    stream, codec = card.streams[number], CODECS[f.codec]
    yield codec, records.DTYPES[f.dtype][0], records.STREAM_NAMES[stream.stream]
    yield codec, "compressor", f.compressor
    if stream.stream == records.OPAQUE:
        return
    yield codec, "head_dim", stream.head_dim
    yield codec, "heads", "one" if stream.kv_head_count == 1 else "several"
    if stream.part_count > 1:
        yield codec, "rows in parts"
    if stream.window and stream.first_token:
        yield codec, "sliding window"
    if f.codec in LOSSY:
        kept = kept_whole(f)
        if "exact" in kept and f.token_count > 4:
            yield codec, "all exact"
        if "fine" in kept and card.header.token_count <= 4:
            yield codec, "all sinks"


def hops(card, f):
    layout = records.LAYOUTS["provenance_step"]
    payload = f.offset + records.FRAME_HEADER.size
    record = records.LAYOUTS["provenance"].read(card.data, payload)
    return {step.hop for step in layout.read_all(card.data, payload + record.layout.size, record.step_count)}


def edges_of(card):
    """What a card is an example of, from its own headers and records."""
    frames = [records.FRAME_HEADER.read(frame, 0) for frame in card.frames]
    kinds = collections.Counter(f.section_type for f in frames)
    for f, number, _ in card.chunks:
        yield from edges_of_chunk(card, f, number)
    for codec in codecs_of(card):
        yield codec, "tokens", card.header.token_count
        if len(card.segments) > 2:
            yield codec, "three segments"
        for name, (kind, bit) in records.FEATURES.items():
            wanted = {i for i, row in records.SECTIONS.items() if row["feature"] == name}
            used = any(f.compressor for f in frames) if name == "zstd" else wanted and wanted <= set(kinds)
            if used and getattr(card.prologue, kind + "_features") >> bit & 1:
                yield codec, "feature", name
    for f in frames:
        if f.section_type == records.TEXT and f.decoded_size == 0:
            yield ("empty text",)
        if f.section_type == records.PROVENANCE and not f.compressor and hops(card, f) >= {0, 1, 2}:
            yield ("three hops in provenance",)
    if any(0x80 in bits.row(row, 0, card.segments[segment].token_count)
           for segment, bits in card.maps.items() for row in set(bits.uses)):
        yield ("absent tokens",)
    unknown = sum(count for kind, count in kinds.items() if kind not in records.SECTIONS)
    if unknown >= len(OPTIONAL) and not any(kinds[kind] for kind in OPTIONAL):
        yield ("every optional section unknown",)


def wanted_edges():
    """The list of fixtures/README.md."""
    floats, kinds = ("f32", "f16", "bf16"), ("key", "value", "latent")
    blocks = [name for name, elements, _ in records.DTYPES.values() if elements > 1]
    yield "raw", "bytes", "opaque"
    for codec in CODECS:
        yield from itertools.product([codec], [*floats, *blocks] if codec == "ggml" else floats, kinds)
        yield from ((codec, "tokens", count) for count in (0, 1, 63, 64, 65))
        yield from ((codec, "head_dim", width) for width in (1, 48, 64, 80, 96, 112, 128, 256, 512))
        yield from ((codec, "heads", count) for count in ("one", "several"))
        yield from ((codec, edge) for edge in ("rows in parts", "sliding window", "three segments"))
        yield from ((codec, "feature", name) for name, (kind, _) in records.FEATURES.items() if kind == "optional" or name == "zstd")
        compressors = {"raw": (0, 1, 2), "ggml": (0, 1)}.get(codec, (0,))
        yield from ((codec, "compressor", number) for number in compressors)
    yield from itertools.product(("planes", "entropy"), ("all exact", "all sinks"))
    yield from (("empty text",), ("absent tokens",), ("three hops in provenance",), ("every optional section unknown",))


class Edges(unittest.TestCase):
    def test_valid_cards_have_every_edge(self):
        found = {edge for card in CARDS.values() for edge in edges_of(card)}
        wanted = list(wanted_edges())
        self.assertEqual([edge for edge in wanted if edge not in found], [])
        print(f"{len(wanted)} edges, all in the {len(CARDS)} valid cards")

    def test_size(self):
        size = sum(path.stat().st_size for path in FIXTURES.rglob("*") if path.is_file())
        self.assertLess(size, 8 << 20)
        print(f"fixtures/ has {size:,} bytes")


if __name__ == "__main__":
    unittest.main()
