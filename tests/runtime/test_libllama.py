"""State files through a card and back into libllama (layout 10/3): same bytes, same logits.

CACHECARD_CLI, CACHECARD_MODEL as in hand_off.py; the interpreter that runs this has llama-cpp-python.
"""
import ctypes
import filecmp
import os
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from hand_off import MODEL, STORY, cachecard  # noqa: E402
import live_llama  # noqa: E402
from live_llama import Context, api  # noqa: E402

BLOCK_TYPES = ("q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "iq4_nl")
TOKENS = 48


def tokenize(context, text):
    buffer = (ctypes.c_int32 * 512)()
    vocab = api.llama_model_get_vocab(context.model)
    count = api.llama_tokenize(vocab, text.encode(), len(text.encode()), buffer, 512, True, True)
    return list(buffer[:count])


def logits(context):
    """Of the last decoded token, as bytes: equal means equal bit for bit."""
    size = api.llama_vocab_n_tokens(api.llama_model_get_vocab(context.model))
    return ctypes.string_at(api.llama_get_logits_ith(context.context, -1), 4 * size)


class ThroughACard(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        live_llama.start_backend()

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="libllama-")
        self.addCleanup(folder.cleanup)
        self.path = lambda name: os.path.join(folder.name, name)

    def convert(self, source, target, *options):
        model = ["--model", MODEL] if target.endswith(".card") else []  # a card knows its own
        done = cachecard("convert", self.path(source), self.path(target), *model, *options)
        self.assertEqual(done.code, 0, done)

    def next_logits(self, file, tokens, last, **options):
        """What a fresh context says after it loaded the file and decoded one more token."""
        with Context(MODEL, ctx=256, **options) as context:
            self.assertEqual(context.load_sequence(self.path(file)), tokens, file)
            context.decode([last], start=len(tokens))
            return logits(context)

    def hand_off(self, rotated=None, **options):
        flags = ["--rotated", rotated] if rotated else []
        with Context(MODEL, ctx=256, **options) as context:
            ids = tokenize(context, STORY)[:TOKENS + 1]
            tokens, last = ids[:-1], ids[-1]
            context.decode(tokens)
            context.save_sequence(self.path("a.seq"), tokens)
            context.save_session(self.path("a.session"), tokens)
            context.decode([last], start=len(tokens))
            expected = logits(context)
        for name in ("seq", "session"):
            self.convert(f"a.{name}", f"{name}.card", *flags)
            self.convert(f"{name}.card", f"back.{name}")
            self.assertTrue(filecmp.cmp(self.path(f"a.{name}"), self.path(f"back.{name}"), shallow=False), name)
        # Written anew from the values alone, without the recipe of the source layout.
        self.convert("session.card", "made.seq", "--layout", "10/3", "--container", "sequence")
        self.assertEqual(self.next_logits("back.seq", tokens, last, **options), expected)
        self.assertEqual(self.next_logits("made.seq", tokens, last, **options), expected)

    def test_float_types(self):
        for dtype in ("f32", "f16", "bf16"):
            with self.subTest(dtype):
                self.hand_off(type_k=dtype, type_v=dtype)

    def test_block_types(self):
        for dtype in BLOCK_TYPES:
            with self.subTest(dtype):
                self.hand_off(type_k=dtype, type_v=dtype, rotated="yes")

    def test_mixed_types(self):
        self.hand_off(type_k="q8_0", type_v="q4_0", rotated="yes")

    def test_transposed_values(self):
        for dtype in ("f32", "f16"):
            with self.subTest(dtype):
                self.hand_off(type_k=dtype, type_v=dtype, flash=False)

    def test_compressed_card(self):
        with Context(MODEL, ctx=256) as context:
            ids = tokenize(context, STORY)[:TOKENS]
            context.decode(ids)
            context.save_sequence(self.path("a.seq"), ids)
        self.convert("a.seq", "a.card", "--zstd", "--split")
        self.convert("a.card", "back.seq")
        self.assertTrue(filecmp.cmp(self.path("a.seq"), self.path("back.seq"), shallow=False))
        self.assertLess(os.path.getsize(self.path("a.card")), os.path.getsize(self.path("a.seq")))


if __name__ == "__main__":
    unittest.main()
