"""Caches in safetensors files, read and written by the real safetensors package, and by the command."""

import json
import pathlib
import struct
import sys
import time

import numpy
import safetensors
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "cli"))
from cli_runner import CACHES, MODEL, CommandTest, main  # noqa: E402

ROPE = ["--rope", "neox"]
LAYERS, HEADS, TOKENS, DIM = 3, 2, 5, 8


def tensor(layer, side, dtype=numpy.float16, tokens=TOKENS):
    values = numpy.arange(HEADS * tokens * DIM, dtype=numpy.float32) / 16 + layer * 2 + side
    return values.reshape(1, HEADS, tokens, DIM).astype(dtype)


def bf16(array):
    """The upper half of f32: these values have no more bits."""
    return (array.astype(numpy.float32).view(numpy.uint32) >> 16).astype(numpy.uint16)


def mlx_cache(tokens=TOKENS, room=TOKENS):
    """As mlx-lm 0.32 saves it: keys and values with room for more tokens, and how many there are."""
    tensors = {}
    for layer in range(LAYERS):
        for side in (0, 1):
            tensors[f"{layer}.{side}"] = tensor(layer, side, tokens=room)
        tensors[f"{layer}.2"] = numpy.array(tokens, dtype=numpy.int32)
    metadata = {"0.model": "mlx-community/tiny", "2.0": ""}
    for layer in range(LAYERS):
        metadata |= {f"1.{layer}": "KVCache", f"2.{layer + 1}.0": f"{layer}.2", f"2.{layer + 1}.1": "scalar"}
    return tensors, metadata


def kvcdn_cache(dtype=numpy.float16):
    return {f"{'kv'[side]}_{layer}": tensor(layer, side, dtype) for layer in range(LAYERS) for side in (0, 1)}


def raw_file(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


class Safetensors(CommandTest):
    def setUp(self):
        super().setUp()
        (self.folder / "ids").write_text("[7, 8, 9, 10, 11]")

    def save(self, tensors, metadata=None, name="in.safetensors"):
        save_file(tensors, self.folder / name, metadata)

    def card_of(self, name="in.safetensors", *flags):
        self.expect(0, "convert", name, "a.card", "-q", *ROPE, "--tokens", "ids", *flags)
        self.expect(0, "verify", "--decode", "-q", "a.card")
        return self.json("inspect", "a.card", "--tokens")

    def test_mlx_names_in_and_out(self):
        tensors, metadata = mlx_cache()
        self.save(tensors, metadata)
        facts = self.card_of()
        self.assertEqual(facts["token_ids"], [7, 8, 9, 10, 11])
        self.expect(0, "convert", "a.card", "out.safetensors", "-q")
        back = load_file(self.folder / "out.safetensors")
        self.assertEqual(set(back), set(tensors))
        for name, array in tensors.items():
            numpy.testing.assert_array_equal(back[name], array, name)
        with safetensors.safe_open(self.folder / "out.safetensors", "np") as opened:
            self.assertEqual(opened.metadata(), metadata)

    def test_room_for_more_tokens_is_left_out(self):
        self.save(*mlx_cache(tokens=5, room=256))
        self.card_of()
        self.expect(0, "convert", "a.card", "out.safetensors", "-q")
        back = load_file(self.folder / "out.safetensors")
        self.assertEqual(back["1.0"].shape, (1, HEADS, 5, DIM))
        numpy.testing.assert_array_equal(back["1.0"], tensor(1, 0, tokens=256)[:, :, :5])

    def test_metadata_of_mlx_lm_before_0_32(self):
        tensors = {name: array for name, array in mlx_cache()[0].items() if not name.endswith(".2")}
        metadata = {"1.model": "old"} | {f"0.{i}": "" for i in range(LAYERS)} | {f"2.{i}": "KVCache" for i in range(LAYERS)}
        self.save(tensors, metadata)
        facts = self.card_of()
        self.assertEqual(facts["identity"]["model_name"], "old")

    def test_kvcdn_names_and_its_sidecar(self):
        for dtype in (numpy.float16, numpy.float32):
            with self.subTest(dtype=dtype):
                tensors = kvcdn_cache(dtype)
                self.save(tensors, name="in.kv")
                sidecar = {"model_name": "tiny", "num_layers": LAYERS, "num_tokens": TOKENS, "dtype": "F16",
                           "storage_dtype": "F16", "nbytes": 1, "quantized": False, "prompt": "five tokens",
                           "tokens": [1, 2, 3, 4, 5]}
                (self.folder / "in.kv.json").write_text(json.dumps(sidecar))
                self.expect(0, "convert", "in.kv", "a.card", "-q", *ROPE)
                self.expect(0, "convert", "a.card", "out.kv", "-q")
                back = load_file(self.folder / "out.kv")
                self.assertEqual(set(back), set(tensors))
                for name, array in tensors.items():
                    self.assertEqual(back[name].dtype, array.dtype)
                    numpy.testing.assert_array_equal(back[name], array, name)
                made = json.loads((self.folder / "out.kv.json").read_text())
                name = "F16" if dtype == numpy.float16 else "F32"
                self.assertEqual(made, sidecar | {"dtype": name, "storage_dtype": name,
                                                  "nbytes": (self.folder / "out.kv").stat().st_size})
                self.expect(0, "convert", "out.kv", "b.card", "-q", *ROPE)
                self.assertEqual((self.folder / "b.card").read_bytes(), (self.folder / "a.card").read_bytes())

    def test_bf16(self):
        data = {f"{'kv'[side]}_{layer}": bf16(tensor(layer, side)) for layer in range(LAYERS) for side in (0, 1)}
        specs = {name: safetensors.TensorSpec(dtype="bfloat16", shape=array.shape, data_ptr=array.ctypes.data,
                                              data_len=array.nbytes) for name, array in data.items()}
        (self.folder / "in.safetensors").write_bytes(safetensors.serialize(specs))
        self.card_of()
        self.assertEqual(self.json("inspect", "a.card", "--streams")["streams"][0]["dtype"], "bf16")
        self.expect(0, "convert", "a.card", "out.safetensors", "-q", "--to", "kvcdn")
        back = dict(safetensors.deserialize((self.folder / "out.safetensors").read_bytes()))
        for name, wanted in data.items():
            self.assertEqual(bytes(back[name]["data"]), wanted.tobytes())
            self.assertEqual(back[name]["dtype"], "BF16")

    def test_dtype_and_pipes(self):
        self.save(*mlx_cache())
        self.card_of()
        piped = self.expect(0, "convert", "-", "-", "--to", "mlx", "--dtype", "f32", "-q",
                            stdin=(self.folder / "a.card").read_bytes()).stdout
        (self.folder / "f32.safetensors").write_bytes(piped)
        numpy.testing.assert_array_equal(load_file(self.folder / "f32.safetensors")["2.1"], tensor(2, 1, numpy.float32))

    def test_a_state_becomes_tensors_in_transformers_order(self):
        """tiny_llama's pairs are neighbours in llama.cpp, half a head apart in mlx-lm, as in transformers."""
        card = self.card()
        self.expect(0, "convert", card, "out.safetensors", "-q")
        self.expect(0, "convert", card, "same.safetensors", "-q", "--pairing", "interleaved")
        moved, same = (load_file(self.folder / name)["0.0"] for name in ("out.safetensors", "same.safetensors"))
        dim = same.shape[-1]
        numpy.testing.assert_array_equal(moved[..., :dim // 2], same[..., 0::2])
        numpy.testing.assert_array_equal(moved[..., dim // 2:], same[..., 1::2])
        ids = self.json("inspect", card, "--tokens")["token_ids"]
        (self.folder / "ids").write_text(json.dumps(ids))
        self.expect(0, "convert", "out.safetensors", "b.card", "-q", "--model", MODEL, "--tokens", "ids")
        report = self.json("diff", card, "b.card", "--tolerance", "0")
        self.assertEqual({row["relative_error"] for row in report["streams"]}, {0})

    def test_what_the_files_lack_is_asked_for(self):
        self.save(*mlx_cache())
        self.assertIn("--tokens FILE", self.expect(2, "convert", "in.safetensors", "a.card", *ROPE).stderr.decode())
        self.assertIn("--rope", self.expect(2, "convert", "in.safetensors", "a.card", "--tokens", "ids").stderr.decode())
        self.expect(0, "convert", "in.safetensors", "a.card", "-q", *ROPE, "--tokens", "none")
        self.assertIn("tokens_unknown", self.json("inspect", "a.card")["flags"])
        (self.folder / "ids").write_text("1 2 3")
        self.assertIn("token_ids", self.expect(4, "convert", "in.safetensors", "a.card", *ROPE, "--tokens", "ids").stderr.decode())

    def test_what_the_files_cannot_say_is_refused(self):
        card = self.folder / "made.card"
        self.expect(0, "convert", CACHES / "gemma3_f16.seq", card, "-q", "--model", CACHES / "models" / "tiny_gemma3.gguf")
        for name in ("out.safetensors", "out.kv"):
            self.expect(6, "convert", card, name)
        hole = self.card("llama_f16_hole.seq", name="hole.card")
        self.assertIn("position", self.expect(6, "convert", hole, "out.kv").stderr.decode())
        self.expect(2, "convert", hole, "out.kv", "--libtorch")
        self.assertEqual(self.files(), ["hole.card", "ids", "made.card"])

    def refused(self, code, says, name="in.safetensors"):
        started = time.monotonic()
        done = self.expect(code, "convert", name, "out.card", *ROPE, "--tokens", "ids")
        self.assertLess(time.monotonic() - started, 1 if code != 4 else 2)
        self.assertIn(says, done.stderr.decode())
        self.assertNotIn("out.card", self.files())

    def test_defects_are_refused_by_name(self):
        path = self.folder / "in.safetensors"
        size = HEADS * TOKENS * DIM * 2
        one = {"dtype": "F16", "shape": [1, HEADS, TOKENS, DIM]}

        def pair(first, second, data=2 * size, **other):
            raw_file(path, {"k_0": one | {"data_offsets": first}, "v_0": one | {"data_offsets": second}} | other, bytes(data))

        pair([0, size], [size, 2 * size])
        self.card_of()
        (self.folder / "a.card").unlink()
        for says, change in (
                ("neither overlap nor leave gaps", lambda: pair([0, size], [size - 2, 2 * size - 2], 2 * size - 2)),
                ("neither overlap nor leave gaps", lambda: pair([0, size], [0, size], size)),
                ("neither overlap nor leave gaps", lambda: pair([0, size], [size + 2, 2 * size + 2], 2 * size + 2)),
                ("bytes behind the last tensor", lambda: pair([0, size], [size, 2 * size], 2 * size + 1)),
                ("found data_offsets of", lambda: pair([0, size - 2], [size - 2, 2 * size - 2], 2 * size - 2)),
                ("found data_offsets", lambda: pair([size, 0], [size, 2 * size])),
                ("found dtype 'F7'", lambda: pair([0, size], [size, 2 * size], k_1={"dtype": "F7", "shape": [1], "data_offsets": [0, 1]})),
                ("found dtype 'I16', allowed F32, F16, BF16",
                 lambda: raw_file(path, {n: one | {"dtype": "I16", "data_offsets": [i * size, (i + 1) * size]} for i, n in enumerate(("k_0", "v_0"))}, bytes(2 * size))),
                ("no part of a cache", lambda: pair([0, size], [size, 2 * size], weight={"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})),
                ("'k_0' occurs twice", lambda: raw_file(path, b'{"k_0":{"dtype":"F16","shape":[0],"data_offsets":[0,0]},"k_0":{"dtype":"F16","shape":[0],"data_offsets":[0,0]}}', b"")),
                ("its shape has no possible size", lambda: pair([0, size], [size, 2 * size], k_1={"dtype": "F16", "shape": [2**40, 2**40], "data_offsets": [0, 0]})),
                ("no dtype, shape and two data_offsets", lambda: raw_file(path, {"k_0": {"dtype": "F16", "shape": [0]}}, b"")),
                ("found a negative number", lambda: pair([-1, size], [size, 2 * size])),
                ("found an array", lambda: raw_file(path, b'{"k_0":' + b"[" * 100000, b"")),
                ("no JSON", lambda: raw_file(path, b'{"k_0":', b"")),
                ("layer 0 has no values", lambda: raw_file(path, {"k_0": one | {"data_offsets": [0, size]}}, bytes(size))),
                ("quantised caches of kvcdn", lambda: raw_file(path, {"k_0_q": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}, b"\0")),
        ):
            with self.subTest(says=says):
                change()
                self.refused(4, says)
        pair([0, size], [size, 2 * size], 2 * size - 1)
        self.refused(5, "it ends at")
        tensors, metadata = mlx_cache()
        self.save(tensors, metadata | {"1.1": "RotatingKVCache"})
        self.refused(4, "found a cache of class 'RotatingKVCache'")
        tensors["0.2"] = numpy.array(6, dtype=numpy.int32)
        self.save(tensors, metadata)
        self.refused(4, "found 6 tokens, allowed 1 to 5")

    def test_a_header_of_100_mb(self):
        with open(self.folder / "in.safetensors", "wb") as out:
            out.write(struct.pack("<Q", 100_000_000) + b"{" + b" " * 99_999_999)
        self.refused(7, "header: found 100000000 bytes, allowed 2097152")
        raw_file(self.folder / "in.safetensors", b"{" + b'"a":{},' * 290_000 + b'"b":{}}', b"")
        self.refused(4, "'a'")

    def test_a_sidecar_that_lies(self):
        self.save(kvcdn_cache(), name="in.kv")
        for code, says, text in ((4, "num_layers", '{"num_layers": 4}'), (4, "tokens", '{"tokens": [1, -2]}'),
                                 (4, "quantized", '{"quantized": true}'), (4, "no JSON object", "[1"),
                                 (7, "allowed 4194304", '{"prompt": "' + "x" * (4 << 20) + '"}')):
            (self.folder / "in.kv.json").write_text(text)
            done = self.expect(code, "convert", "in.kv", "a.card", *ROPE)
            self.assertIn("in.kv.json", done.stderr.decode())
            self.assertIn(says, done.stderr.decode())

    def test_every_truncation_is_refused(self):
        self.save(*mlx_cache())
        whole = (self.folder / "in.safetensors").read_bytes()
        for cut in list(range(0, 24)) + list(range(24, len(whole), 97)):
            (self.folder / "cut.safetensors").write_bytes(whole[:cut])
            done = self.run_command("convert", "cut.safetensors", "out.card", *ROPE, "--tokens", "ids")
            self.assertIn(done.returncode, (4, 5), (cut, done.stderr))


if __name__ == "__main__":
    main()
