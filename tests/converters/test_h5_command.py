"""cachecard convert to and from HDF5, seen with h5py and h5dump, and against the reader of spec/reference."""

import csv
import pathlib
import re
import resource
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "cli"), str(HERE.parents[1] / "spec" / "reference")]

import h5py  # noqa: E402
import numpy  # noqa: E402
from cli_runner import CACHES, FIXTURES, CommandTest, main, measured  # noqa: E402
from values import stream_values  # noqa: E402  (spec/reference)
from verify import Card  # noqa: E402

STREAMS = ("key", "value", "latent", "opaque")
SEED = 20261127


def write_stranger(path, shape, make, dtype="<f2", layers=1, tokens=True, **storage):
    """A decoded file as someone would write it who knows spec/HDF5.md and h5py alone."""
    token_count, heads, head_dim = shape
    stream = numpy.zeros(2 * layers, [
        ("layer", "<u4"), ("stream", "u1"), ("dtype", "u1"), ("rope_state", "u1"), ("rope_pairing", "u1"),
        ("kv_head_count", "<u4"), ("head_dim", "<u4"), ("hadamard_size", "<u4"), ("window", "<u4"),
        ("first_token", "<u8"), ("token_count", "<u8"), ("part_first", "<u4"), ("part_count", "<u4"),
        ("opaque_size", "<u8"), ("reserved", "u1", 8)])
    stream["layer"] = numpy.arange(2 * layers) // 2
    stream["stream"] = numpy.arange(2 * layers) % 2
    stream["dtype"] = {"<f4": 0, "<f2": 1}[dtype]
    stream["kv_head_count"], stream["head_dim"], stream["hadamard_size"] = heads, head_dim, 1
    stream["token_count"] = token_count
    segment = numpy.zeros(1, [("first_token", "<u8"), ("token_count", "<u8"), ("chunk_order", "u1"), ("reserved", "u1", 15)])
    segment["token_count"] = token_count
    with h5py.File(path, "w") as file:
        file.attrs["format"] = numpy.bytes_(b"cachecard-hdf5")
        file.attrs["layout_version"] = numpy.uint32(1)
        file.attrs["content"] = numpy.bytes_(b"decoded")
        header = file.create_group("header")
        for name, value in {"flags": numpy.uint32(0 if tokens else 4), "token_count": numpy.uint64(token_count),
                            "next_position": numpy.int64(token_count), "layer_count": numpy.uint32(layers),
                            "restorable": numpy.uint8(0), "restorable_from": numpy.uint64(0)}.items():
            header.attrs[name] = value
        header["stream"], header["segment"] = stream, segment
        header.create_dataset("part", (0,), [("offset", "<u4"), ("width", "<u4"), ("rotated", "u1"), ("reserved", "u1", 7)])
        identity = file.create_group("identity")
        identity.attrs["architecture"] = numpy.bytes_(b"llama")
        identity.attrs["vocab_size"] = numpy.uint64(256)
        file["positions"] = numpy.arange(token_count, dtype="<i4")
        if tokens:
            file["token_ids"] = numpy.arange(7, 7 + token_count, dtype="<i4")
        for row in stream:
            group = file.require_group(f"layers/{row['layer']:02}/{STREAMS[row['stream']]}")
            group.create_dataset("values", data=make(shape).astype(dtype), **storage)


class Hdf5Command(CommandTest):
    def to_h5(self, card, *flags, name="made.h5"):
        self.expect(0, "convert", card, name, "-q", *flags)
        return h5py.File(self.folder / name, "r")

    def test_h5py_reads_the_values_that_the_spec_gives(self):
        for path in sorted((FIXTURES / "valid").glob("*.card")):
            with self.subTest(path.name), self.to_h5(path) as file:
                card = Card(path.read_bytes())
                card.walk()
                self.assertEqual(len(file["header/stream"]), len(card.streams))
                for i, stream in enumerate(card.streams):
                    group = file[f"layers/{stream.layer:02}/{STREAMS[stream.stream]}"]
                    wanted = numpy.frombuffer(stream_values(card, i), "<f4" if stream.stream != 3 else "u1")
                    found = group["values"][()].astype("<f4") if stream.stream != 3 else group["bytes"][()]
                    numpy.testing.assert_array_equal(found.reshape(-1), wanted)

    def test_facts_stand_there_by_their_names(self):
        card = self.card()
        told = self.json("inspect", card)
        for form in ("--decoded", "--coded"):
            with self.to_h5(card, form) as file:
                self.assertEqual(bytes(file.attrs["root"]).hex(), told["root"])
                self.assertEqual(file["header"].attrs["token_count"], told["token_count"])
                self.assertEqual(file["identity"].attrs["architecture"], b"llama")
                self.assertEqual(file["positions"][:].tolist(), list(range(told["token_count"])))
                self.assertEqual(len(file["token_ids"]), told["token_count"])
                key = file["layers/00/key"]
                self.assertEqual((key.attrs["dtype"], key.attrs["rope_state"]), (b"f16", b"post_rope"))
                self.assertEqual(key["chunk"]["token_count"].sum(), told["token_count"])
                self.assertIn(b"cachecard convert", file["provenance/text"][0])

    def test_every_name_in_a_file_stands_in_the_spec(self):
        spec = HERE.parents[1] / "spec"
        layout = set(re.findall(r"\w+", (spec / "HDF5.md").read_text()))
        fields = set(re.findall(r"\w+", (spec / "FORMAT.md").read_text()))  # identity and records

        def check(name, thing):
            for part in name.split("/"):
                self.assertTrue(part in layout or part.isdecimal(), name)
            known = fields if name == "identity" or re.fullmatch(r"layers/\d+/\w+", name) else layout
            for attribute in thing.attrs:
                self.assertIn(attribute, known, name)
            if isinstance(thing, h5py.Dataset):
                for member in thing.dtype.names or ():
                    self.assertIn(member, fields, name)

        for path in ("planes_segments_and_chunks", "ggml_q4_1"):
            for form in ("--decoded", "--coded"):
                with self.to_h5(FIXTURES / "valid" / f"{path}.card", form) as file:
                    file.visititems(check)
                    for attribute in file.attrs:
                        self.assertIn(attribute, layout)

    def test_steps_follow_from_scales_and_widths(self):
        with open(HERE.parents[1] / "spec" / "tables" / "planes.csv", encoding="utf-8") as table:
            rows = [row for row in csv.reader(table) if row[0] == "sixteenth_octave"]
        octave = numpy.array([float(row[-1]) for row in rows])
        for name in ("planes_mixed_widths", "planes_segments_and_chunks", "planes_dropped", "planes_latent_with_parts"):
            with self.subTest(name), self.to_h5(FIXTURES / "valid" / f"{name}.card") as file:
                uses = 0
                for i, stream in enumerate(file["header/stream"][()]):
                    group = file[f"layers/{stream['layer']:02}/{STREAMS[stream['stream']]}"]
                    at = 0
                    for number, chunk in enumerate(group["chunk"][()]):
                        segment = file[f"segments/{chunk['segment']:02}"]
                        skip = int(chunk["first_token"] - segment.attrs["first_token"])
                        bits = segment["bit_width_map"]
                        offsets = bits["rows"][bits["row_of"][uses]].astype(int)
                        for token in range(int(chunk["token_count"])):
                            scale = group["scale"][at].astype(int)
                            wanted = numpy.zeros(len(scale))
                            if chunk["codec"] == 2 and offsets[skip + token] != 127:
                                width = min(int(bits["base"][i]) + offsets[skip + token], int(bits["cap"][i])) // 2
                                k = group["top"][number].astype(int) + scale - 255
                                wanted = numpy.where(scale == 0, 0, 2.0 * octave[k % 16] * 2.0 ** (k // 16 - width))
                            numpy.testing.assert_allclose(group["step"][at], wanted, rtol=2e-7)
                            at += 1
                    uses += int(stream["kv_head_count"])

    def test_blocks_have_their_scales(self):
        with self.to_h5(FIXTURES / "valid" / "ggml_q4_1.card") as file:
            key = file["layers/00/key"]
            values = key["values"][()].reshape(*key["scale"].shape, 32)
            scale, minimum = (key[name][()].astype("f4")[..., None] for name in ("scale", "minimum"))
            with numpy.errstate(all="ignore"):
                levels = numpy.where(scale == 0, 0, (values - minimum) / scale)
            numpy.testing.assert_allclose(levels, numpy.rint(levels), atol=2e-2)
            self.assertLessEqual(levels.max(), 15.01)

    def test_h5dump_reads_both_forms(self):
        for form in ("--decoded", "--coded"):
            self.to_h5(FIXTURES / "valid" / "planes_bf16.card", form).close()
            dumped = subprocess.run(["h5dump", self.folder / "made.h5"], capture_output=True, check=True).stdout
            self.assertIn(b'DATASET "chunk"', dumped)

    def test_every_state_comes_back_through_the_coded_form(self):
        for state, flags in (("llama_q8_0.seq", ("--rotated", "yes")), ("llama_f16_v_transposed.seq", ())):
            card = self.card(state, *flags)
            self.expect(0, "convert", card, "made.h5", "--coded", "-q")
            told = self.json("convert", "made.h5", "back.card")
            self.assertEqual(card.read_bytes(), (self.folder / "back.card").read_bytes())
            self.assertEqual(told["root"], self.json("inspect", card)["root"])
            self.expect(0, "convert", "back.card", "back.seq", "-q")
            self.assertEqual((CACHES / state).read_bytes(), (self.folder / "back.seq").read_bytes())

    def test_values_become_a_card_in_any_codec(self):
        self.to_h5(self.card()).close()
        self.expect(0, "convert", "made.h5", "raw.card", "-q")
        self.expect(0, "convert", "made.h5", "planes.card", "--codec", "planes", "--bits", "8,8", "-q")
        self.expect(0, "convert", "made.h5", "small.card", "--zstd", "--split", "-q")
        for name in ("raw.card", "planes.card", "small.card"):
            self.expect(0, "verify", "--decode", name, "-q")
        with self.to_h5("made.card", name="a.h5") as a, self.to_h5("small.card", name="b.h5") as b:
            numpy.testing.assert_array_equal(a["layers/01/value/values"][()], b["layers/01/value/values"][()])

    def test_a_stranger_needs_h5py_alone(self):
        random = numpy.random.default_rng(SEED)
        shape = (37, 3, 20)
        storages = {"contiguous": {}, "auto chunks": {"chunks": True, "compression": "gzip", "shuffle": True},
                    "boxes": {"chunks": (5, 2, 7), "compression": "gzip"}, "shuffled": {"chunks": (8, 3, 20), "shuffle": True},
                    "wide": {"chunks": (64, 4, 32), "maxshape": (None,) * 3, "compression": 9}}
        for dtype in ("<f2", "<f4"):
            for name, storage in storages.items():
                with self.subTest(name, dtype=dtype):
                    write_stranger(self.folder / "in.h5", shape, random.standard_normal, dtype, 2, **storage)
                    self.expect(0, "convert", "in.h5", "in.card", "-q", "--chunk-tokens", 9)
                    self.expect(0, "verify", "--decode", "in.card", "-q")
                    with h5py.File(self.folder / "in.h5") as wanted, self.to_h5("in.card", name="out.h5") as found:
                        for path in ("layers/00/key/values", "layers/01/value/values", "token_ids", "positions"):
                            numpy.testing.assert_array_equal(wanted[path][()], found[path][()])
        write_stranger(self.folder / "in.h5", shape, random.standard_normal, tokens=False)
        self.expect(0, "convert", "in.h5", "in.card", "-q")
        with self.to_h5("in.card", name="out.h5") as found:
            self.assertNotIn("token_ids", found)

    def test_memory_is_a_few_chunks_whatever_the_size(self):
        random = numpy.random.default_rng(SEED)
        piece = random.standard_normal((8192, 8, 128), dtype="f4").astype("<f2")  # 16 MB a stream, 128 MB in all
        write_stranger(self.folder / "in.h5", piece.shape, lambda _: piece, layers=4, chunks=(256, 8, 128))
        for arguments in (("in.h5", "in.card", "--threads", 2), ("in.card", "out.h5", "--threads", 2),
                          ("in.card", "out.h5", "--coded"), ("out.h5", "out.card")):
            code, said, peak, _ = measured(self.folder, "convert", *arguments, "-q")
            self.assertEqual(code, 0, said)
            self.assertLess(peak, 96 << 20, arguments)
        self.assertEqual((self.folder / "in.card").read_bytes(), (self.folder / "out.card").read_bytes())

    def test_pipes_dry_run_and_names(self):
        card = self.card()
        h5 = self.expect(0, "convert", card, "-", "--to", "hdf5", "--coded", "-q").stdout
        self.assertTrue(h5.startswith(b"\x89HDF\r\n\x1a\n"))
        self.assertEqual(self.expect(0, "convert", "-", "-", "-q", stdin=h5).stdout, card.read_bytes())
        self.expect(0, "convert", card, "no.h5", "--dry-run", "-q")
        self.assertEqual(self.files(), ["made.card"])
        self.expect(0, "convert", card, "a.hdf5", "-q")
        self.assertEqual(self.expect(0, "convert", card, "-", "--to", "hdf5", "-q").stdout,
                         (self.folder / "a.hdf5").read_bytes())

    def test_flags_that_do_not_go_together_are_usage_errors(self):
        card = self.card()
        self.to_h5(card).close()
        self.to_h5(card, "--coded", name="coded.h5").close()
        for arguments in ((card, "x.h5", "--coded", "--decoded"), (card, "x.h5", "--coded", "--deflate", 3),
                          (card, "x.h5", "--deflate", 10), (card, "x.h5", "--zstd"), (card, "x.h5", "--v-trans", "yes"),
                          (card, "x.seq", "--coded"), (card, "x.pt", "--deflate", 1), ("made.h5", "x.card", "--rope", "neox"),
                          ("made.h5", "x.card", "--coded"), ("coded.h5", "x.card", "--zstd"), (card, "x.h5", "--dtype", "f32")):
            self.expect(2, "convert", *arguments)
        self.assertEqual(self.files(), ["coded.h5", "made.card", "made.h5"])

    def test_a_full_disk_is_one_line_and_leaves_nothing(self):
        card = self.card()

        def full():
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        for form in ("--coded", "--decoded"):
            for size in (0, 4096, 16384):
                self.expect(3, "convert", card, "out.h5", form, preexec_fn=full)
        self.assertEqual(self.files(), ["made.card"])

    def test_what_stood_there_stays_when_it_fails(self):
        (self.folder / "out.h5").write_bytes(b"before")
        card = bytearray(self.card().read_bytes())
        card[-4096] ^= 1
        (self.folder / "bad.card").write_bytes(card)
        for form in ("--coded", "--decoded"):
            self.assertIn(self.run_command("convert", "bad.card", "out.h5", form, "-q").returncode, (5,))
            self.assertEqual((self.folder / "out.h5").read_bytes(), b"before")
        self.assertEqual(self.files(), ["bad.card", "made.card", "out.h5"])


if __name__ == "__main__":
    main()
