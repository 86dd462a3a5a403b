"""The profile of SmolLM2-135M and `cachecard calibrate` against the live runtime: are estimated queries the model's own?"""
import json
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import unittest

import llama_runtime
import numpy as np
from llama_runtime import Model, Runtime
from sender_queries import QueryTap
from sequence_state import SequenceState

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "spec" / "reference"))
import sections  # noqa: E402
from verify import Card  # noqa: E402

MODEL, CLI = os.environ["CACHECARD_MODEL"], os.environ["CACHECARD_CLI"]
PROFILE = ROOT / "fixtures" / "profiles" / "smollm2-135m.profile"
COUNT, FIRST = 600, 16  # of a text that the profile was not made from; tokens that say nothing yet are left out
KV_HEADS, QUERY_HEADS, DIM, RANK, INPUTS, BASE = 3, 9, 64, 64, 3 * (64 + 64) + 1, 100_000.0


def maps(path):
    """(down, up) by layer, in f64, by the text of FORMAT.md#model-profiles."""
    payloads = {}
    known = sections.check_model_profile

    def keep(card, frame, payload):
        payloads[struct.unpack_from("<I", payload, 4)[0]] = payload
        known(card, frame, payload)

    sections.check_model_profile = keep
    try:
        Card(pathlib.Path(path).read_bytes()).walk()
    finally:
        sections.check_model_profile = known
    found = {}
    for layer, payload in payloads.items():
        at = 48 + 8 * KV_HEADS + KV_HEADS * DIM

        def take(kind, count):
            nonlocal at
            numbers = np.frombuffer(payload, kind, count, at)
            at += numbers.nbytes
            return numbers.astype(np.float64)

        width = QUERY_HEADS * DIM
        scales = take("<f2", INPUTS)
        down = take("<i1", RANK * INPUTS).reshape(RANK, INPUTS) * scales
        scales = take("<f2", width)
        found[layer] = down, take("<i1", width * RANK).reshape(width, RANK) * scales[:, None]
    return found


def turned_back(rows):
    """Rotary embedding off; llama.cpp's llama has a pair's channels side by side, as card order has."""
    angle = np.arange(len(rows))[:, None] * BASE ** (-np.arange(DIM // 2) / (DIM // 2))
    pairs = rows.astype(np.float64).reshape(len(rows), -1, DIM // 2, 2)
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    x, y = pairs[..., 0], pairs[..., 1]
    return np.stack([x * cos + y * sin, y * cos - x * sin], axis=-1).reshape(len(rows), -1)


def explained(found, estimated):
    """1 less the share of the queries' variance that is missed, for each layer."""
    return 1 - np.square(found - estimated).sum() / np.square(found - found.mean(axis=0)).sum()


class ModelProfile(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        llama_runtime.start_backend()
        cls.folder = tempfile.TemporaryDirectory(prefix="cachecard-profile-")
        path = os.path.join(cls.folder.name, "state.seq")
        tap = QueryTap()
        with Model(MODEL) as model:
            tokens = model.tokenize((ROOT / "fixtures" / "texts" / "handbook.txt").read_text(), True)[:COUNT]
            with Runtime(model, COUNT, "f16", os.cpu_count() or 1, tap) as runtime:
                tap.start()
                runtime.decode(tokens, 0)
                tap.stop()
                runtime.save(path, tokens)
        cls.tokens = np.array(tokens)
        cls.queries = [turned_back(np.concatenate(tap.queries[layer]).reshape(COUNT, -1)) for layer in range(30)]
        state = SequenceState(pathlib.Path(path).read_bytes())
        cls.keys = [turned_back(state.f16(tensor)) for tensor in state.keys]
        cls.values = [state.f16(tensor).astype(np.float64) for tensor in state.values]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def r2(self, layer, down, up):
        inputs = np.concatenate([self.keys[layer], self.values[layer], np.ones((COUNT, 1))], axis=1)
        return explained(self.queries[layer][FIRST:], (inputs @ down.T @ up.T)[FIRST:])

    def test_without_embedding_keys_of_layer_0_depend_on_the_token_alone(self):
        """What the rest stands on: the positions, the base and the pairs of turned_back are right."""
        ids, first = np.unique(self.tokens, return_index=True)
        same = first[np.searchsorted(ids, self.tokens)]
        error = np.square(self.keys[0] - self.keys[0][same]).sum() / np.square(self.keys[0]).sum()
        self.assertLess(error, 1e-4)

    def test_the_map_gives_the_queries_of_a_text_it_was_not_made_from(self):
        found = {layer: self.r2(layer, *pair) for layer, pair in maps(PROFILE).items()}
        self.assertEqual(sorted(found), list(range(30)))
        print(f"  R2 of estimated queries: mean {np.mean(list(found.values())):.2f}, least {min(found.values()):.2f}")
        self.assertGreater(np.mean(list(found.values())), 0.5)
        self.assertGreater(min(found.values()), 0.2)

    def test_calibrate_makes_a_profile_that_convert_takes(self):
        out = os.path.join(self.folder.name, "made.profile")
        done = subprocess.run([CLI, "calibrate", "--model", MODEL, "--text", str(ROOT / "fixtures" / "calibration"), "-o", out,
                               "--texts", "2", "--context", "300", "--cost-windows", "1", "--layers", "3:5", "--own-weights",
                               "--json"], capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        json.loads(done.stdout)
        made = maps(out)
        self.assertEqual(sorted(made), [3, 4])
        for layer, pair in made.items():
            self.assertGreater(self.r2(layer, *pair), 0.3)
        state, card = (os.path.join(self.folder.name, name) for name in ("state.seq", "made.card"))
        for command in (["convert", state, card, "--model", MODEL, "--codec", "entropy", "--bits", "2", "--profile", out, "-q"],
                        ["verify", "--decode", card, "-q"]):
            done = subprocess.run([CLI, *command], capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)

    def convert(self, *flags, cache=None):
        state, card = (os.path.join(self.folder.name, name) for name in ("state.seq", "weights.card"))
        return subprocess.run([CLI, "convert", state, card, "--model", MODEL, *flags], capture_output=True, text=True, check=False,
                              env={**os.environ, "XDG_CACHE_HOME": cache or os.path.join(self.folder.name, "cache")})

    def test_a_profile_of_the_model_file_is_kept_and_gives_queries(self):
        cache = os.path.join(self.folder.name, "kept")
        roots = []
        for damage in (None, None, b"no card"):
            kept = list(pathlib.Path(cache).glob("cachecard/*.profile"))
            self.assertEqual(len(kept), 0 if not roots else 1)
            if damage:
                kept[0].write_bytes(damage)
            done = self.convert("--bits", "2", "--json", cache=cache)
            self.assertEqual(done.returncode, 0, done.stderr)
            roots.append(json.loads(done.stdout)["root"])
        self.assertEqual(len(set(roots)), 1)
        found = [self.r2(layer, *pair) for layer, pair in maps(kept[0]).items()]
        print(f"  R2 of queries by the model file: mean {np.mean(found):.2f}, least {min(found):.2f}")
        self.assertGreater(np.mean(found), 0.5)
        self.assertGreater(min(found), 0.2)

    def test_weights_of_the_model_alone_tell_which_tokens_count(self):
        """The map is held to the runtime's own queries of a short text: weights that are read wrongly are refused."""
        sizes = {}
        for name, flags in {"named": ["--profile", MODEL], "at hand": [], "recency": ["--queries", "recency"]}.items():
            done = self.convert("--bits", "2", "--json", *flags)
            self.assertEqual(done.returncode, 0, done.stderr)
            sizes[name] = json.loads(done.stdout)["root"]
        self.assertEqual(sizes["named"], sizes["at hand"])
        self.assertNotEqual(sizes["named"], sizes["recency"])
        done = self.convert("--codec", "planes", "--profile", MODEL)
        self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
        self.assertIn("what errors cost", done.stderr)

    def test_calibrate_refuses_what_it_cannot_use(self):
        texts, out = str(ROOT / "fixtures" / "calibration"), os.path.join(self.folder.name, "none.profile")
        empty, bare = os.path.join(self.folder.name, "empty"), os.path.join(self.folder.name, "bare")
        os.mkdir(bare)
        pathlib.Path(empty).touch()
        tiny = ROOT / "fixtures" / "caches" / "models" / "tiny_llama.gguf"  # keys without weights: libllama does not load it
        for code, model, folder in ((3, "none.gguf", texts), (5, empty, texts), (4, tiny, texts), (3, MODEL, empty + "s"), (2, MODEL, bare)):
            done = subprocess.run([CLI, "calibrate", "--model", model, "--text", folder, "-o", out], capture_output=True, text=True,
                                  check=False)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (code, 1), done.stderr)
            self.assertFalse(os.path.exists(out))
        for layers, words in (("40:", "from 40 on: the model has layers 0 to 29"), ("30:31", "from 30 on: the model"),):
            done = subprocess.run([CLI, "calibrate", "--model", MODEL, "--text", texts, "-o", out, "--layers", layers],
                                  capture_output=True, text=True, check=False)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
            self.assertIn(words, done.stderr)
            self.assertFalse(os.path.exists(out))


if __name__ == "__main__":
    unittest.main()
