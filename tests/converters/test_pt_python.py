"""The command against Python's own torch.save and torch.load. CACHECARD_TORCH_PYTHON runs it."""

import os
import pathlib
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "cli"))

import torch  # noqa: E402
from cli_runner import CACHES, CLI, MODEL, CommandTest, main  # noqa: E402

import cli_runner  # noqa: E402

SEED = 20261124
ROPE = ("--rope", "neox")


def noise(*sizes, dtype):
    return torch.randn(*sizes).to(dtype)


def cache_of(dtype, layers=2, heads=2, tokens=9, key=8, value=8):
    torch.manual_seed(SEED)
    return tuple((noise(1, heads, tokens, key, dtype=dtype), noise(1, heads, tokens, value, dtype=dtype))
                 for _ in range(layers))


def bits(tensor):
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


class Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Sets:
    """__setstate__ is called by BUILD."""

    def __setstate__(self, state):
        raise AssertionError("code was run")

    def __init__(self):
        self.key_cache = []


class TorchFiles(CommandTest):
    def save(self, value, name="in.pt", **options):
        torch.save(value, self.folder / name, **options)
        return name

    def back(self, name="in.pt", *flags):
        """The cache of a .pt by way of a card, as torch.load gives it; only weights are allowed in it."""
        self.expect(0, "convert", name, "a.card", "-q", *ROPE, *flags)
        self.expect(0, "verify", "--decode", "-q", "a.card")
        self.expect(0, "convert", "a.card", "out.pt", "-q")
        return torch.load(self.folder / "out.pt", weights_only=True)

    def check(self, pairs, loaded):
        self.assertEqual(len(pairs), len(loaded["key_cache"]))
        for (key, value), k, v in zip(pairs, loaded["key_cache"], loaded["value_cache"]):
            self.assertEqual(key.dtype, k.dtype)
            self.assertTrue(torch.equal(bits(key), bits(k)))
            self.assertTrue(torch.equal(bits(value), bits(v)))

    def test_every_form_and_container_comes_back_bit_for_bit(self):
        ids = torch.arange(7, 16)
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            pairs = cache_of(dtype)
            keys, values = map(list, zip(*pairs))
            forms = {"tuple": pairs, "list": [list(p) for p in pairs],
                     "dict": {"key_cache": keys, "value_cache": values, "token_ids": ids, "positions": torch.arange(9)},
                     "past": {"past_key_values": pairs, "input_ids": ids[None]}}
            for name, form in forms.items():
                for zipped in (True, False):
                    for protocol in (2, 4, 5):
                        with self.subTest(dtype=dtype, form=name, zip=zipped, protocol=protocol):
                            self.save(form, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
                            if not zipped and protocol != 2:
                                continue  # the magic of the legacy container is a pickle of protocol 2
                            loaded = self.back()
                            self.check(pairs, loaded)
                            self.assertEqual(loaded["positions"].tolist(), list(range(9)))
                            if name in ("dict", "past"):
                                self.assertEqual(loaded["token_ids"].tolist(), ids.tolist())
                            else:
                                self.assertNotIn("token_ids", loaded)

    def test_a_lossy_card_gives_the_values_within_its_step(self):
        pairs = cache_of(torch.float32, tokens=40, key=16, value=16)
        self.save(pairs)
        loaded = self.back("in.pt", "--codec", "planes", "--bits", "8")
        for (key, value), k, v in zip(pairs, loaded["key_cache"], loaded["value_cache"]):
            for before, after in ((key, k), (value, v)):
                self.assertFalse(torch.equal(before, after))
                self.assertLess((before - after).abs().max(), 0.03 * before.abs().max())
                self.assertTrue(torch.equal(bits(before[:, :, :4]), bits(after[:, :, :4])))  # first tokens stay exact

    def test_views_of_larger_storages_give_their_own_values(self):
        torch.manual_seed(SEED)
        whole = noise(2, 4, 20, 16, dtype=torch.float16)
        pairs = ((whole[1:, :2, 3:12, ::2], whole[:1, 2:, 3:12, 1::2]),
                 (whole[:1, :2, 11:, :8].transpose(2, 3).contiguous().transpose(2, 3), whole[1:, 2:, 11:, 8:]))
        for zipped in (True, False):
            self.save(pairs, _use_new_zipfile_serialization=zipped)
            self.check(pairs, self.back())

    def test_a_sliding_window_keeps_its_absolute_tokens(self):
        pairs = (cache_of(torch.float16)[0], cache_of(torch.float16, tokens=4)[1])
        self.save(pairs)
        done = self.expect(4, "convert", "in.pt", "a.card", *ROPE)
        self.assertIn("layer 1: holds 4 tokens, the cache has 9: a pruned cache", done.stderr.decode())
        loaded = self.back("in.pt", "--sliding-window", "5")
        self.check(pairs, loaded)
        self.assertEqual(loaded["first_token"], [0, 5])
        self.assertEqual(loaded["window"], [0, 5])
        # The file says now what the flag said.
        self.expect(0, "convert", "out.pt", "b.card", "-q")
        self.assertEqual(self.json("diff", "a.card", "b.card", exit_code=9)["different_chunks"], 0)

    def test_code_in_a_pickle_is_never_run(self):
        trap = self.folder / "code_was_run"
        pair = cache_of(torch.float16)[0]
        for value in (Runs(trap), (pair, (Runs(trap), pair[1])), {"key_cache": [pair[0]], "value_cache": [pair[1]],
                                                                 "token_ids": Runs(trap)}):
            for zipped in (True, False):
                for protocol in (2, 4):
                    self.save(value, _use_new_zipfile_serialization=zipped, pickle_protocol=protocol)
                    if not zipped and protocol != 2:
                        continue
                    for flags in ((), ("--libtorch",)):
                        done = self.expect(4, "convert", "in.pt", "a.card", *ROPE, *flags)
                        self.assertIn("names posix.system", done.stderr.decode())
        self.save(Sets())
        self.assertIn("Sets", self.expect(4, "convert", "in.pt", "a.card", *ROPE).stderr.decode())
        self.assertEqual(self.files(), ["in.pt"])

    def test_bad_input_is_one_clear_line_and_leaves_the_target(self):
        f16 = torch.float16
        good = cache_of(f16)
        cases = {
            "found a batch of 2": ((torch.zeros(2, 2, 9, 8, dtype=f16),) * 2,),
            "found f64": tuple((k.double(), v) for k, v in good),
            "found sizes [2, 9, 8]": tuple((k[0], v) for k, v in good),
            "an empty tensor": ((torch.zeros(1, 2, 0, 8, dtype=f16), torch.ones(1, 2, 0, 8, dtype=f16)),),
            "a sparse tensor": ((good[0][0].float().to_sparse(), good[0][1]),),
            "a quantised tensor": ((torch.quantize_per_tensor(good[0][0].float(), 0.1, 0, torch.qint8), good[0][1]),),
            "values of 2 and 8": ((good[0][0], good[0][1][:, :, :8].clone()),),
            "an expanded tensor": ((torch.zeros(1, 2, 1, 8).expand(1, 2, 9, 8), torch.zeros(1, 2, 9, 8)),),
            "found 10 for a cache of 9 tokens": {"past_key_values": good, "input_ids": torch.arange(10)},
            "found no layer": [],
            "found a tensor; allowed": torch.zeros(3),
            "encoder-decoder": ((*good[0], *good[1]),),
        }
        (self.folder / "a.card").write_bytes(b"as it was")
        for says, value in cases.items():
            with self.subTest(says=says):
                self.save(value)
                self.assertIn(says, self.expect(4, "convert", "in.pt", "a.card", *ROPE).stderr.decode())
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), str(self.folder / "in.pt"))
        self.assertIn("TorchScript", self.expect(4, "convert", "in.pt", "a.card", *ROPE).stderr.decode())
        whole = (self.folder / self.save(good)).read_bytes()
        (self.folder / "in.pt").write_bytes(whole[:-5])
        self.expect(5, "convert", "in.pt", "a.card", *ROPE)
        storage = whole.index(bytes(bits(good[0][0]).numpy().tobytes()))
        (self.folder / "in.pt").write_bytes(whole[:storage] + b"\x55" + whole[storage + 1:])
        self.assertIn("checksum_mismatch", self.expect(5, "convert", "in.pt", "a.card", *ROPE).stderr.decode())
        self.assertEqual((self.folder / "a.card").read_bytes(), b"as it was")
        self.assertEqual(self.files(), ["a.card", "in.pt"])

    def test_what_a_pt_does_not_say_must_be_said(self):
        self.save(cache_of(torch.float16))
        self.assertIn("--rope", self.expect(2, "convert", "in.pt", "a.card").stderr.decode())
        self.assertIn("tokens are unknown", self.expect(0, "convert", "in.pt", "a.card", *ROPE).stderr.decode())
        (self.folder / "ids").write_text("[5, 6, 7,\n8 9 10 11 12 13]")
        self.expect(0, "convert", "in.pt", "a.card", "-q", *ROPE, "--tokens", "ids")
        self.assertEqual(self.json("inspect", "a.card", "--tokens")["token_ids"][0], 5)
        for text, says in (("5 6", "found 2 for a cache of 9"), ("5 x", "line 1"), ("", "no token id"), ("-5", "line 1")):
            (self.folder / "ids").write_text(text)
            done = self.run_command("convert", "in.pt", "b.card", *ROPE, "--tokens", "ids")
            self.assertIn(done.returncode, (2, 4))
            self.assertIn(says, done.stderr.decode())
        for flag, value in (("--layers", 3), ("--kv-heads", 1), ("--head-dim", 64)):
            self.expect(4, "convert", "in.pt", "b.card", *ROPE, flag, value)
        self.assertEqual(self.files(), ["a.card", "ids", "in.pt"])

    def test_a_model_gives_identity_and_the_order_of_pairs(self):
        pairs = cache_of(torch.float16, heads=2, key=64, value=64)
        self.save({"past_key_values": pairs, "input_ids": torch.arange(9)})
        self.expect(0, "convert", "in.pt", "a.card", "-q", "--model", MODEL)
        facts = self.json("inspect", "a.card", "--streams")
        # llama.cpp pairs neighbours in this architecture; transformers, which wrote the .pt, halves.
        self.assertEqual({s["rope_pairing"] for s in facts["streams"] if s["stream"] == "key"}, {"half_split"})
        self.expect(0, "convert", "a.card", "out.pt", "-q")
        self.check(pairs, torch.load(self.folder / "out.pt"))
        self.expect(0, "convert", "a.card", "a.seq", "--layout", "10/3", "--container", "sequence", "-q")
        self.expect(0, "convert", "a.seq", "b.card", "-q", "--model", MODEL)
        facts = self.json("inspect", "b.card", "--streams")
        self.assertEqual({s["rope_pairing"] for s in facts["streams"] if s["stream"] == "key"}, {"interleaved"})
        self.expect(0, "convert", "b.card", "out.pt", "-q")
        self.check(pairs, torch.load(self.folder / "out.pt"))
        self.expect(0, "convert", "a.card", "out.pt", "-q", "--pairing", "interleaved")
        moved = torch.load(self.folder / "out.pt")["key_cache"][0]
        self.assertTrue(torch.equal(moved[..., 0::2], pairs[0][0][..., :32]))
        self.assertTrue(torch.equal(moved[..., 1::2], pairs[0][0][..., 32:]))
        self.save(cache_of(torch.float16, heads=1, key=64, value=64))
        self.assertIn("layer 0: found 1 heads", self.expect(4, "convert", "in.pt", "b.card", "--model", MODEL).stderr.decode())
        self.save(cache_of(torch.float16, layers=3, key=64, value=64))
        self.assertIn("layers: found 3", self.expect(4, "convert", "in.pt", "b.card", "--model", MODEL).stderr.decode())

    def test_a_llama_cpp_card_becomes_a_pt_in_the_order_of_transformers(self):
        self.card("llama_f16.seq")
        self.expect(0, "convert", "made.card", "out.pt", "-q")
        self.expect(0, "convert", "made.card", "as_is.pt", "-q", "--pairing", "interleaved", "--dtype", "f32")
        halves, neighbours = (torch.load(self.folder / name) for name in ("out.pt", "as_is.pt"))
        self.assertEqual(halves["rope_pairing"], "half_split")
        for k, n in zip(halves["key_cache"], neighbours["key_cache"]):
            self.assertEqual(n.dtype, torch.float32)
            self.assertTrue(torch.equal(k.float(), torch.cat([n[..., 0::2], n[..., 1::2]], -1)))
        state = (CACHES / "llama_f16.seq").read_bytes()
        values = halves["value_cache"][0].transpose(1, 2).reshape(5, 128)
        self.assertIn(values.numpy().tobytes(), state)
        self.assertEqual(halves["token_ids"].tolist(), [11, 48, 85, 122, 159])

    def test_libtorch_and_our_own_code_agree(self):
        pairs = cache_of(torch.bfloat16)
        pairs = (pairs[0], (pairs[1][0].transpose(1, 2).contiguous().transpose(1, 2), pairs[1][1]))
        self.save({"past_key_values": pairs, "input_ids": torch.arange(9)})
        self.expect(0, "convert", "in.pt", "a.card", "-q", *ROPE)
        self.expect(0, "convert", "in.pt", "b.card", "-q", *ROPE, "--libtorch")
        self.assertEqual((self.folder / "a.card").read_bytes(), (self.folder / "b.card").read_bytes())
        self.expect(0, "convert", "a.card", "out.pt", "-q", "--libtorch")
        self.check(pairs, torch.load(self.folder / "out.pt"))
        self.expect(0, "convert", "out.pt", "c.card", "-q")
        self.assertEqual(self.json("diff", "a.card", "c.card", exit_code=9)["different_chunks"], 0)
        self.save(pairs, _use_new_zipfile_serialization=False)
        self.assertIn("leave --libtorch out", self.expect(2, "convert", "in.pt", "a.card", *ROPE, "--libtorch").stderr.decode())

    def test_without_the_module_only_libtorch_is_refused(self):
        shutil.copy(CLI, self.folder / "cachecard")
        before = cli_runner.CLI
        cli_runner.CLI = str(self.folder / "cachecard")
        self.addCleanup(setattr, cli_runner, "CLI", before)
        self.save(cache_of(torch.float16))
        done = self.expect(4, "convert", "in.pt", "a.card", *ROPE, "--libtorch")
        self.assertIn("apt-get install libtorch-dev", done.stderr.decode())
        self.assertEqual(self.files(), ["cachecard", "in.pt"])
        self.check(cache_of(torch.float16), self.back())
        done = self.expect(4, "convert", "a.card", "b.pt", "--libtorch")
        self.assertIn("cachecard_torch.so is not installed", done.stderr.decode())
        self.assertNotIn("b.pt", self.files())


if __name__ == "__main__":
    main()
