"""spec/reference/ against fixtures/ (judged as run_testee judges any testee, but in this process) and against spec/VECTORS.md."""
import importlib.machinery
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
import types
import unittest

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
READER = ROOT / "spec" / "reference"
sys.path.insert(0, str(READER))

import compressors  # noqa: E402
import decode  # noqa: E402
import entropy  # noqa: E402
import floats  # noqa: E402
import records  # noqa: E402
import sections  # noqa: E402
import values  # noqa: E402
from verify import verify  # noqa: E402


def run_testee():
    path = str(ROOT / "tests" / "conformance" / "run_testee")
    loader = importlib.machinery.SourceFileLoader("run_testee", path)
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("run_testee", loader))
    loader.exec_module(module)
    return module


def answer(_, verb, path):
    data = pathlib.Path(path).read_bytes()
    if verb == "decode":
        return decode.decode(data), None
    name, offset = verify(data)
    return {"error": name, "offset": offset}, None


def vectors():
    """The blocks of VECTORS.md: (kind, name) -> their lines without comments."""
    found, lines = {}, None
    for line in (ROOT / "spec" / "VECTORS.md").read_text().splitlines():
        if line.startswith("```"):
            words = line.strip("`").split(" name=")
            lines = found.setdefault(tuple(words), []) if len(words) == 2 else None
        elif lines is not None and line.split("#")[0].strip():
            lines.append(line.split("#")[0].split())
    return found


VECTORS = vectors()


def hex_block(name):
    out = b""
    for _, *words in VECTORS["hex", name]:
        if words[0] == "zero":
            out += bytes(int(words[1]))
        elif words[0] == "copy":
            at = int(words[1], 16)
            out += out[at:at + int(words[2])]
        else:
            out += bytes.fromhex("".join(words))
    return out


def f32_block(name):
    return np.array([float(word) for line in VECTORS["f32", name] for word in line], np.float32)


def columns(name, *types_of_columns):
    rows = [[int(word, 16) for word in line] for line in VECTORS["cases", name]]
    return [np.array(column, kind) for column, kind in zip(zip(*rows), types_of_columns)]


class Fixtures(unittest.TestCase):
    def test_all_cards(self):
        module = run_testee()
        module.run = answer
        sys.argv = ["run_testee", "in-process"]
        self.assertEqual(module.main(), 0)

    def test_command_line(self):
        command = [sys.executable, "-B", READER / "decode.py"]
        done = subprocess.run([ROOT / "tests/conformance/run_testee", "--only", "tokens_1.card", *command], capture_output=True)
        self.assertEqual(done.returncode, 0, done.stdout)
        with tempfile.NamedTemporaryFile() as card:
            done = subprocess.run([*command, "decode", card.name], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stdout), (1, '{"error": "truncated", "offset": 0}\n'))


class Vectors(unittest.TestCase):
    def bits_equal(self, found, expected):
        self.assertEqual(np.asarray(found).tobytes().hex(), np.asarray(expected).tobytes().hex())

    def test_card(self):
        card = hex_block("tiny_card")
        self.assertEqual(verify(card), ("ok", None))
        self.assertEqual(decode.decode(card)["tokens"], [5, 7])

    def test_blocks(self):
        types_of = {name: (dtype, size) for dtype, (name, _, size) in records.DTYPES.items()}
        for name in ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl", "q4_1_rounding"):
            dtype, _ = types_of[name.removesuffix("_rounding")]
            with self.subTest(name):
                self.bits_equal(values.rows_to_f32(hex_block(name), dtype), f32_block(name))

    def test_floats(self):
        bits, f16, bf16 = columns("narrow", np.uint32, np.uint16, np.uint16)
        self.bits_equal(floats.narrow_f16(bits.view(np.float32)), f16)
        self.bits_equal(floats.narrow_bf16(bits.view(np.float32)), bf16)
        half, wide = columns("widen_f16", np.uint16, np.uint32)
        self.bits_equal(floats.widen_f16(half), wide)

    def test_fused_multiply_add(self):
        """fma32 against rational numbers: nearest, and even in a tie; sums that cancel and, at 2^-70, subnormal results."""
        rng = np.random.default_rng(20260101)
        fraction = floats.Fraction
        ties = 0
        for scale in (0, -70):
            a, b = rng.integers(1, 1 << 14, (2, 1500)) * 2.0 ** scale
            c = rng.integers(-(1 << 24), 1 << 24, 1500) * 2.0 ** (2 * scale + rng.integers(-8, 40, 1500))
            a, b, c = (x.astype(np.float32) for x in (a, b, c))
            for x, y, z, found in zip(a, b, c, floats.fma32(a, b, c)):
                exact = fraction(float(x)) * fraction(float(y)) + fraction(float(z))
                near = (np.nextafter(found, np.float32(end)) for end in (-np.inf, np.inf))
                error, other = abs(fraction(float(found)) - exact), min(abs(fraction(float(n)) - exact) for n in near)
                ties += error == other
                self.assertTrue(error < other or error == other and not found.view(np.uint32) & 1, (x, y, z))
        self.assertGreater(ties, 20)
        # 1 + 2^-23 + (1 - 2^-30) 2^-24 is just below a tie, which it becomes where f64 rounds it first.
        for sign in (1, -1):
            a, b = np.float32(sign * (1 + 2 ** -15)), np.float32((1 - 2 ** -15) * 2 ** -24)
            self.bits_equal(floats.fma32(a, b, np.float32(sign * (1 + 2 ** -23))), np.float32(sign * (1 + 2 ** -23)))

    def test_fused_vectors(self):
        for a, b, c, expected in VECTORS["cases", "fused"]:
            b, c = np.array([int(b, 16), int(c, 16)], np.uint32).view(np.float32)
            self.bits_equal(floats.fma32(np.float32(int(a)), b, c), np.uint32(int(expected, 16)))
        for x, y, *words in VECTORS["cases", "turned"]:
            c, s, *expected = np.array([int(word, 16) for word in words], np.uint32).view(np.float32)
            x, y = np.float32(int(x)), np.float32(int(y))
            self.bits_equal([floats.fma32(x, c, -(y * s)), floats.fma32(y, c, x * s)], expected)

    def test_rotation(self):
        for n in (2, 4):
            rotated = values.butterflies(f32_block(f"hadamard_{n}_in") * values.one_over_root(n), n)
            self.bits_equal(rotated, f32_block(f"hadamard_{n}_out"))

    def test_compressors(self):
        self.assertEqual(compressors.undo(1, hex_block("zstd_1000_a"), 1000, 1), b"a" * 1000)
        self.assertEqual(compressors.undo(2, hex_block("split_zstd_32_ones"), 64, 2), b"\x00\x3c" * 32)
        for name, size in (("split_f16", 2), ("split_f32", 4)):
            self.assertEqual(compressors.unsplit(hex_block(name + "_out"), size), hex_block(name + "_in"))

    def test_angles(self):
        for position, frequency, c, s in VECTORS["cases", "rope_angles"]:
            theta = np.float64(position) * np.frombuffer(bytes.fromhex(frequency), ">f8").astype(np.float64)
            sine, cosine = values.sine_cosine(theta)
            found = [x.astype(np.float32).view(np.uint32).item() for x in (cosine, sine)]
            self.assertEqual(found, [int(c, 16), int(s, 16)], (position, frequency))

    def test_planes(self):
        payload = hex_block("planes_payload")
        stream = types.SimpleNamespace(kv_head_count=1, head_dim=8, dtype=1)
        means = np.array([0.5, -0.25, 0, 1, 0, 0, 2, -0.125], np.float16).tobytes()
        parameters = types.SimpleNamespace(parts=[], data=means,
                                           record=types.SimpleNamespace(rope_removed=1, hadamard_size=4))
        table = types.SimpleNamespace(frequencies=[1, 0.25], record=types.SimpleNamespace(
            pairing=2, rotated_offset=0, rotated_width=4, pair_count=2, magnitude=1.0))
        runs = [types.SimpleNamespace(token_count=4, first_position=10, step=1)]
        for limit, name in ((8, "planes_rows"), (1, "planes_rows_1_bit")):
            frame = records.FRAME_HEADER.read(bytes(128), 0)
            frame.__dict__.update(token_count=4, digest_size=104, stored_size=len(payload), coded_widths=[None, 2, 3, 2],
                                  present_limit=8, parameters=parameters, rope_table=table,
                                  positions=types.SimpleNamespace(runs=runs))
            sections.check_planes_head(frame, stream, payload, 0)
            frame.present_limit, frame.planes = limit, frame.planes[:limit]
            rows = values.planes_to_rows(frame, stream, types.SimpleNamespace(first_token=0))
            expected = [int(word, 16) for line in VECTORS["cases", name] for word in line]
            self.bits_equal(np.frombuffer(rows, np.uint16), np.array(expected, np.uint16))

    def test_entropy(self):
        payload = hex_block("entropy_payload")
        stream = types.SimpleNamespace(kv_head_count=1, head_dim=4, dtype=1)
        lanes = [[int(word, 16) for word in line] for line in VECTORS["cases", "entropy_lanes"]]
        frame = records.FRAME_HEADER.read(bytes(128), 0)
        frame.__dict__.update(
            token_count=5, digest_size=len(payload), stored_size=len(payload), offsets=[[126, 0, 2, 127, -1]],
            references=[0, 0, 1 | 1 << 12, 0, 3], units=[(0, 0, 4)], rope_table=None,
            parameters=types.SimpleNamespace(parts=[], record=types.SimpleNamespace(rope_removed=0)),
            lanes=types.SimpleNamespace(lanes=[lane for lane, _ in lanes], means=[mean for _, mean in lanes],
                                        record=types.SimpleNamespace(step=0.25, has_scale=1)))
        entropy.check_payload(frame, stream, payload, 0)
        fixed = [[int(word) for word in line] for line in VECTORS["cases", "entropy_fixed"]]
        self.assertEqual([[frame.rows[lane][token] for lane in range(4)] for token in (1, 2, 4)], fixed)
        rows = values.entropy_to_rows(frame, stream, types.SimpleNamespace(first_token=0))
        expected = [int(word, 16) for line in VECTORS["cases", "entropy_rows"] for word in line]
        self.bits_equal(np.frombuffer(rows, np.uint16), np.array(expected, np.uint16))


if __name__ == "__main__":
    unittest.main()
