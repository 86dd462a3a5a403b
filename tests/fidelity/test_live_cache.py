"""The instrument against the live runtime: the F32 copy, the state, and what a quantised cache really contains."""
import os
import resource
import tempfile
import unittest

import f32_model
import ggml_recipe
import llama_runtime
import numpy as np
from fidelity_error import FOREIGN, IO, FidelityError
from gguf import GGUFReader
from gguf.quants import dequantize
from kl_metrics import Reference
from llama_runtime import Model, Runtime
from sequence_state import SequenceState

MODEL = os.environ["CACHECARD_MODEL"]
WORK = os.environ.get("CACHECARD_FIDELITY_WORK") or tempfile.mkdtemp(prefix="cachecard-fidelity-")
TEXT = "The keeper wrote down every ship that passed the northern rocks, and the hour, and the wind. " * 4
COUNT = 64


def setUpModule():
    llama_runtime.start_backend()


def copy_path():
    return f32_model.f32_copy(MODEL, f32_model.file_digest(MODEL), WORK)


def saved(runtime, tokens, folder):
    """The context read, and its sequence file's bytes."""
    path = os.path.join(folder, "state.seq")
    runtime.clear()
    runtime.decode(tokens, 0)
    runtime.save(path, tokens)
    with open(path, "rb") as file:
        return file.read()


class F32Copy(unittest.TestCase):
    def test_every_tensor_is_the_dequantised_one_and_every_key_is_kept(self):
        source, copy = GGUFReader(MODEL), GGUFReader(copy_path())
        self.assertEqual([t.name for t in source.tensors], [t.name for t in copy.tensors])
        for ours, theirs in zip(copy.tensors, source.tensors):
            self.assertEqual(int(ours.tensor_type), 0, ours.name)
            expected = dequantize(theirs.data, theirs.tensor_type).reshape(ours.data.shape)
            np.testing.assert_array_equal(ours.data, expected, ours.name)
        keys = [key for key in source.fields if not key.startswith("GGUF.") and key != "general.file_type"]
        for key in keys:
            self.assertEqual(copy.fields[key].contents(), source.fields[key].contents(), key)

    def test_a_copy_that_does_not_fit_is_not_left(self):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        with tempfile.TemporaryDirectory() as folder:
            resource.setrlimit(resource.RLIMIT_FSIZE, (50_000_000, limits[1]))
            try:
                with self.assertRaises(FidelityError) as caught:
                    f32_model.f32_copy(MODEL, "0" * 64, folder)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            self.assertEqual((caught.exception.code, os.listdir(folder)), (IO, []))

    def test_half_a_model_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            broken = os.path.join(folder, "broken.gguf")
            with open(MODEL, "rb") as file, open(broken, "wb") as target:
                target.write(file.read(3_000_000))
            with self.assertRaises(FidelityError) as caught:
                f32_model.f32_copy(broken, "0" * 64, folder)
            self.assertEqual(caught.exception.code, FOREIGN)
            self.assertEqual(os.listdir(folder), ["broken.gguf"])


class LiveCache(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = Model(copy_path())
        cls.folder = tempfile.TemporaryDirectory(prefix="cachecard-fidelity-")
        cls.tokens = cls.model.tokenize(TEXT, start_of_text=True)[:COUNT]

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()
        cls.model.__exit__()

    def state(self, kind):
        with Runtime(self.model, 256, kind) as runtime:
            return saved(runtime, self.tokens, self.folder.name)

    def test_quantised_rows_of_layer_0_are_what_a_live_cache_of_that_type_contains(self):
        """Layer 0's K and V do not depend on the cache's type, so from the f32 cache every byte must come out."""
        exact = self.state("f32")
        row, head = 192, 12 + 4 * COUNT + 8 + 12 * COUNT + 8
        for kind in ("q8_0", "q4_0"):
            live, coded_row = self.state(kind), row // 32 * ggml_recipe.BLOCK_BYTES[kind]
            for name, tensor_index in (("K", 0), ("V", 30)):
                with self.subTest(f"{kind} {name}"):
                    at = head + tensor_index * (12 + 4 * row * COUNT) + 12
                    rows = np.frombuffer(exact, "<f4", row * COUNT, at).reshape(COUNT, row)
                    size = ggml_recipe.rotation_size(64, name == "K")
                    coded = ggml_recipe.quantise(ggml_recipe.rotate(rows, size), kind)
                    at = head + tensor_index * (12 + coded_row * COUNT) + 12
                    theirs = np.frombuffer(live, np.uint8, coded_row * COUNT, at).reshape(COUNT, coded_row)
                    self.assertEqual(np.count_nonzero(coded != theirs), 0)

    def test_file_bytes_of_a_ggml_row_are_those_of_the_live_state_file(self):
        state = SequenceState(self.state("f16"))
        for kind in ("q8_0", "q4_0"):
            coded = state.value_count // 32 * ggml_recipe.BLOCK_BYTES[kind]
            self.assertEqual(state.frame_bytes + coded, len(self.state(kind)))

    def test_state_comes_apart_and_together_again(self):
        data = self.state("f16")
        state = SequenceState(data)
        keys, values = ([state.f16(one).copy() for one in side] for side in (state.keys, state.values))
        self.assertEqual(state.with_values(keys, values), data)
        self.assertEqual(state.value_count, COUNT * 30 * 2 * 192)
        values[29][63, 191] += 1
        changed = state.with_values(keys, values)
        self.assertEqual([i for i, (a, b) in enumerate(zip(data, changed)) if a != b][0] // 2, len(data) // 2 - 1)
        with self.assertRaises(FidelityError):
            SequenceState(self.state("q8_0"))
        for cut in (data[:-1], data + b"\0"):
            with self.assertRaises(FidelityError):
                SequenceState(cut)

    def test_the_exact_cache_put_back_is_exact_and_one_changed_value_is_seen(self):
        path = os.path.join(self.folder.name, "put-back.seq")
        feed = list(range(500, 516))
        with Runtime(self.model, 256, "f16") as runtime:
            state = SequenceState(saved(runtime, self.tokens, self.folder.name))
            reference = Reference(runtime.decode(feed, COUNT, scored=16), feed)
            keys, values = ([state.f16(one).copy() for one in side] for side in (state.keys, state.values))
            for change, expect_same in ((0, True), (0.5, False)):
                for tensors in (keys, values):
                    tensors[10][5, 7] += np.float16(change)
                with open(path, "wb") as file:
                    file.write(state.with_values(keys, values))
                runtime.load(path, COUNT)
                score = reference.score(runtime.decode(feed, COUNT, scored=16))
                self.assertEqual(score.kl == 0, expect_same, f"KL {score.kl} after {change}")

    def test_parts_of_a_feed_are_read_as_one(self):
        """More than a batch: logits of the last positions only, and the same as a feed of its own gives."""
        tokens = (self.tokens * 10)[:600]
        with Runtime(self.model, 1024, "f16") as runtime:
            runtime.decode(tokens, 0)
            runtime.forget_from(20)
            whole = runtime.decode(tokens[20:], 20, scored=100)
            runtime.clear()
            runtime.decode(tokens[:500], 0)
            rest = runtime.decode(tokens[500:], 500, scored=100)
        self.assertEqual(whole.shape, rest.shape)
        self.assertLess(Reference(whole, [0] * 100).score(rest).kl, 1e-5)

    def test_receivers_turn_closes_the_context_and_asks(self):
        turn = self.model.receiver_turn("You check.", "What is wrong?")
        expected = ("<|im_end|>\n<|im_start|>system\nYou check.<|im_end|>\n<|im_start|>user\nWhat is wrong?<|im_end|>\n"
                    "<|im_start|>assistant\n")
        self.assertEqual(turn, self.model.tokenize(expected, start_of_text=False))
        self.assertEqual(turn[0], 2)


if __name__ == "__main__":
    unittest.main()
