"""--probe and topologies with probes against the live runtime: do tokens count as the model's own attention to them says?"""
import json
import os
import pathlib
import re
import subprocess
import tempfile
import unittest

import llama_runtime
import numpy as np
from llama_runtime import Model, Runtime
from sender_queries import SINKS, QueryTap
from sequence_state import SequenceState

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL, CLI = os.environ["CACHECARD_MODEL"], os.environ["CACHECARD_CLI"]
COUNT, KV_HEADS = 500, 3
CODER = "<|im_start|>user\nWrite the code that the text above asks for.<|im_end|>\n"
REVIEWER = "Which rule of the handbook is about leave, and what does it say?"


def seen_weights(queries, keys, count):
    """[kv_head][token of the context]: sqrt of the sum of attention squared; keys of the context and of the text behind it."""
    text, dim = len(queries), keys.shape[1] // KV_HEADS
    visible = np.arange(len(keys))[None] <= count + np.arange(text)[:, None]
    group = queries.shape[1] // keys.shape[1]
    sums = np.zeros((KV_HEADS, count))
    for head in range(KV_HEADS * group):
        kv_head = head // group
        logits = queries[:, head * dim:(head + 1) * dim] @ keys[:, kv_head * dim:(kv_head + 1) * dim].astype(np.float32).T / np.sqrt(dim)
        logits = np.where(visible, logits, -np.inf)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        sums[kv_head] += np.square(shares / shares.sum(axis=1, keepdims=True)).sum(axis=0)[:count]
    sums[:, :SINKS] = sums[:, SINKS:].mean(axis=1, keepdims=True)
    return np.sqrt(sums)


def offsets_of(weights):
    """As lib: the nearest half bit to 1.2 x log2 of a weight over its mean, a twentieth of the mean mixed in."""
    mixed = 0.95 * weights / weights.mean(axis=-1, keepdims=True) + 0.05
    return np.clip(np.round(1.2 * np.log2(mixed)), -6, 6).astype(int)


class Probe(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        llama_runtime.start_backend()
        folder = tempfile.TemporaryDirectory(prefix="cachecard-probe-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        tap = QueryTap()
        cls.weights = {}
        with Model(MODEL) as model:
            tokens = model.tokenize((ROOT / "fixtures" / "texts" / "handbook.txt").read_text(), True)[:COUNT]
            with Runtime(model, COUNT + 64, "f16", os.cpu_count() or 1, tap) as runtime:
                runtime.decode(tokens, 0)
                runtime.save(str(cls.folder / "state.seq"), tokens)
                for name, text in (("coder", CODER), ("reviewer", REVIEWER)):
                    cls.write(f"{name}.txt", text)
                    probe = model.tokenize(text, False)
                    tap.start()
                    runtime.decode(probe, COUNT)
                    tap.stop()
                    runtime.save(str(cls.folder / "both.seq"), tokens + probe)
                    runtime.forget_from(COUNT)
                    keys = SequenceState((cls.folder / "both.seq").read_bytes())
                    cls.weights[name] = [seen_weights(np.concatenate(tap.queries[layer]).reshape(len(probe), -1), keys.f16(keys.keys[layer]), COUNT)
                                         for layer in range(30)]

    @classmethod
    def write(cls, name, text):
        (cls.folder / name).write_text(text)

    def run_command(self, *arguments, code=0):
        done = subprocess.run([CLI, *arguments], capture_output=True, text=True, check=False, cwd=self.folder)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def offsets(self, card):
        """{(layer, head): offset of each token in that head's keys, NaN where it is kept fine or exact}"""
        found = {}
        for row in json.loads(self.run_command("inspect", card, "--map", "--json").stdout)["map"]:
            for head, layer in re.findall(r"key head (\d+) of layers (\d+)", row["streams"]):
                offsets = found.setdefault((int(layer), int(head)), np.full(COUNT, np.nan))
                if isinstance(row["offset"], int):
                    offsets[row["first_token"]:row["first_token"] + row["token_count"]] = row["offset"]
        return found

    def agreement(self, card, weights):
        """Shares of tokens whose offset is what the weights say, and within one of it."""
        found = self.offsets(card)
        self.assertEqual(len(found), 30 * KV_HEADS)
        apart = np.concatenate([abs(offsets - offsets_of(weights[layer][head])) for (layer, head), offsets in found.items()])
        apart = apart[~np.isnan(apart)]
        self.assertGreater(len(apart), 0.95 * len(found) * COUNT)
        return np.mean(apart == 0), np.mean(apart <= 1)

    def test_tokens_count_as_the_model_looks_at_them(self):
        self.run_command("convert", "state.seq", "coder.card", "--model", MODEL, "--codec", "entropy", "--bits", "1.5", "--probe", "coder.txt", "-q")
        same, near = self.agreement("coder.card", self.weights["coder"])
        print(f"  offsets as the tapped queries have them: {same:.3f}, within one: {near:.4f}")
        self.assertGreater(same, 0.95)
        self.assertGreater(near, 0.999)
        provenance = json.loads(self.run_command("inspect", "coder.card", "--provenance", "--json").stdout)["provenance"]
        self.assertIn("token weights from a receiver's probe", provenance[-1]["text"])

    def test_a_link_counts_the_probes_of_all_behind_it(self):
        graph = {"agents": [{"name": "reader"}, {"name": "coder", "probe": "coder.txt"}, {"name": "reviewer", "probe_text": REVIEWER, "share": 2}],
                 "links": [{"from": "reader", "to": "coder", "bandwidth": 1e6}, {"from": "coder", "to": "reviewer", "bandwidth": 1e6}]}
        self.write("graph.json", json.dumps(graph))
        self.run_command("convert", "state.seq", "link.card", "--model", MODEL, "--topology", "graph.json", "--link", "reader:coder", "-q")
        mean = lambda weights: weights / weights.mean(axis=1, keepdims=True)
        both = [mean(coder) + 2 * mean(reviewer) for coder, reviewer in zip(self.weights["coder"], self.weights["reviewer"])]
        same, near = self.agreement("link.card", both)
        self.assertGreater(same, 0.95)
        self.assertGreater(near, 0.999)
        self.assertLessEqual((self.folder / "link.card").stat().st_size, 1e6 * 1.01)
        planned = json.loads(self.run_command("plan", "graph.json", "state.seq", "--model", MODEL, "--json").stdout)
        self.assertEqual([agent["weights"] for agent in planned["agents"]], [None, "by its probe, coder.txt", "by its probe"])
        print("  gain over uniform, over the context's map: "
              + ", ".join(f"{link['gain_db']:.2f}, {link['topology_gain_db']:.2f} dB" for link in planned["links"]))
        self.assertGreater(planned["links"][0]["gain_db"], 1.0)

    def test_what_cannot_be_probed_is_refused(self):
        self.write("empty.txt", "")
        flags = ["convert", "state.seq", "no.card", "--codec", "entropy", "--model", MODEL, "--probe"]
        self.assertIn("--probe none.txt: cannot open: No such file", self.run_command(*flags, "none.txt", code=3).stderr)
        self.assertIn("--probe empty.txt: found 0 tokens", self.run_command(*flags, "empty.txt", code=2).stderr)
        geometry = ["--layers", "30", "--kv-heads", "3", "--head-dim", "64", "--rope", "norm"]
        self.assertIn("--probe: needs --model", self.run_command("convert", "state.seq", "no.card", "--codec", "entropy", *geometry,
                                                                   "--probe", "coder.txt", code=2).stderr)
        self.assertFalse((self.folder / "no.card").exists())


if __name__ == "__main__":
    unittest.main()
