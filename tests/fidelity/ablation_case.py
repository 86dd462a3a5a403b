"""One text's exact cache, ready to be disturbed and scored in many ways; what its tokens are worth, by whose attention."""
import os
import shlex
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from cache_encoders import Carried, Exact, encode
from card_command import CardCommand
from fidelity_rows import PROFILE, Row
from fidelity_table import ROOM_FOR_TURN, Plan, check_injection, logits_of, scores_of, ways_of
from kl_metrics import Reference
from llama_runtime import BATCH_TOKENS, Model, Runtime, start_backend
from sender_queries import LAST, SINKS, QueryTap, attention_weights
from sequence_state import SequenceState

# What a receiver would be told to look for; the question that it is then scored on is another (receivers.json).
PROBE = "Read the context above for your role. What in it matters for your work, and what do you need from it?"
TITLE = "F32 copy"


@dataclass(frozen=True)
class Setup:
    """What every process of a run shares."""
    model_path: str        # the F32 copy
    digest: str
    cli: str
    work: str
    answer: int            # tokens of a receiver's answer
    threads: int
    seed: int


@dataclass(frozen=True)
class Measured:
    """One row on one text."""
    table: str
    row: str
    note: str
    text: str
    file_bytes: int
    value_count: int
    ways: list             # (name, Score)
    facts: dict            # what else was found, numbers by name


class Bench:
    """A process's model. Makes cases, one at a time; use as a `with` block."""

    def __init__(self, setup):
        self.setup = setup
        self.command = CardCommand(setup.cli, os.path.join(setup.work, "digests"))
        start_backend()
        self.model = Model(setup.model_path)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.model.__exit__()

    def case(self, text, context, receivers, room=0):
        return Case(self, text, context, receivers, room)


class Case:
    """Use as a `with` block. room: cells beyond the context and a turn."""

    def __init__(self, bench, text, context, receivers, room=0):
        self.bench, self.setup, self.model = bench, bench.setup, bench.model
        self.text, self.receivers, self.context = text, receivers, text.tokens[:context]
        self.stack = ExitStack()
        self.folder = self.stack.enter_context(tempfile.TemporaryDirectory(prefix="cachecard-ablations-"))
        turns = [self.model.receiver_turn(one.system, one.user) for one in receivers]
        probes = [self.model.receiver_turn(one.system, PROBE) for one in receivers]
        self.size = context + room + max(ROOM_FOR_TURN, *(len(turn) + self.setup.answer for turn in turns + probes))
        threads = self.setup.threads
        self.tap = QueryTap()
        self.runtime = self.stack.enter_context(Runtime(self.model, self.size, "f16", threads))
        self.reader = self.stack.enter_context(Runtime(self.model, self.size, "f16", threads, self.tap))
        self.path = os.path.join(self.folder, "exact.seq")
        try:
            self._prepare(turns, probes)
        except BaseException:
            self.stack.close()
            raise

    def _prepare(self, turns, probes):
        bench, text, context, receivers, threads = self.bench, self.text, len(self.context), self.receivers, self.setup.threads
        self._read()
        self.plan = Plan(title=TITLE, model=self.model, digest=self.setup.digest, texts=[text], receivers=receivers, rows=[],
                         native=[], context=context, answer=self.setup.answer, threads=threads, seed=self.setup.seed,
                         command=bench.command, answers_folder=os.path.join(self.setup.work, "answers"))
        self.runtime.load(self.path, context)
        self.ways = ways_of(self.plan, self.runtime, text, self.context, turns)
        self.references = [Reference(logits_of(self.runtime, way, context), way.targets) for way in self.ways]
        self.probes = dict(zip((one.name for one in receivers), probes))
        self.exact = Exact(self.path, self.state, None, self.model.kv_heads, self.model.path, bench.command, self.folder,
                           self.setup.seed)
        self._weights = {}
        check_injection(self.runtime, self.path, self.ways, self.references, context)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stack.close()

    def _read(self):
        """The exact cache, and the queries of its last batch."""
        end = len(self.context)
        cut = max(0, end - LAST) // BATCH_TOKENS * BATCH_TOKENS
        if cut:
            self.reader.decode(self.context[:cut], 0)
        self.tap.start()
        self.reader.decode(self.context[cut:], cut)
        self.tap.stop()
        self.sender_queries = [self.tap.last(layer, end - cut) for layer in sorted(self.tap.queries)]
        self.reader.save(self.path, self.context)
        with open(self.path, "rb") as file:
            self.state = SequenceState(file.read())

    # What tokens are worth: [layer x KV head][token], f32.

    def weights(self, source):
        """By name: sender, shuffled, random, oracle, probes, or probe:ROLE and oracle:WAY."""
        if source not in self._weights:
            self._weights[source] = self._made(source).astype(np.float32)
        return self._weights[source]

    def _made(self, source):
        generator = np.random.default_rng(self.setup.seed)
        kind, _, which = source.partition(":")
        if kind == "sender":
            return np.concatenate([attention_weights(queries, self.state.f16(keys), self.model.kv_heads)
                                   for queries, keys in zip(self.sender_queries, self.state.keys)])
        if kind == "shuffled":
            return generator.permuted(self.weights("sender"), axis=1)
        if kind == "random":  # as spread as the sender's, of nothing
            spread = np.log(self.weights("sender")).std(axis=1, keepdims=True)
            return np.exp(spread * generator.standard_normal(self.weights("sender").shape))
        if kind == "oracle":
            feeds = [(way.feed, len(way.targets)) for way in self.ways if which in ("", way.name)]
        else:
            feeds = [(turn, len(turn)) for name, turn in self.probes.items() if which in ("", name)]
        return np.sqrt(sum(np.square(self._looked_at(feed, count)) for feed, count in feeds))

    def _looked_at(self, feed, count):
        """sqrt of the mean over the feed's last `count` queries of the squared attention that they pay to the context."""
        end = len(self.context)
        self.reader.forget_from(end)
        self.tap.start()
        self.reader.decode(feed, end)
        self.tap.stop()
        path = os.path.join(self.folder, "fed.seq")
        self.reader.save(path, self.context + feed)
        with open(path, "rb") as file:
            state = SequenceState(file.read())
        rows = []
        for layer, keys in enumerate(state.keys):
            queries = np.concatenate(self.tap.queries[layer]).reshape(len(feed), -1)[-count:]
            rows.append(attention_paid(queries, state.f16(keys), self.model.kv_heads, end) / count)
        self.reader.forget_from(end)
        return np.sqrt(np.concatenate(rows))

    # Rows.

    def file(self, name, content):
        """A file for the CLI: an array as .npy, text as it is."""
        path = os.path.join(self.folder, name)
        if isinstance(content, str):
            with open(path, "w", encoding="utf-8") as file:
                file.write(content)
        else:
            np.save(path, content)
        return path

    def card(self, options, weights=None, profile=True):
        """A card by the CLI, put back. weights: how much each token counts, or half bits where they are i8."""
        if profile:
            options += f" --profile {shlex.quote(PROFILE)}"
        if weights is not None:
            options += f" --weights {shlex.quote(self.file('weights.npy', weights))}"
        return self.row(Row("card", options.split()[0], " ".join(options.split()[1:] + [f"--threads {self.setup.threads}"])))

    def row(self, row):
        return encode(row, self.exact)

    @property
    def card_path(self):
        """Of the last card."""
        return os.path.join(self.folder, "carried.card")

    def score(self, carried, ways=None):
        """[(way, Score)] of a cache put back; ways: names, or all."""
        end = len(self.context)
        self.runtime.load(carried.path, end)
        chosen = [(way, reference) for way, reference in zip(self.ways, self.references) if ways is None or way.name in ways]
        scores = scores_of(self.runtime, [way for way, _ in chosen], [reference for _, reference in chosen], end)
        return [(way.name, score) for (way, _), score in zip(chosen, scores)]

    def measured(self, table, row, carried, note="", ways=None, **facts):
        return Measured(table, row, note, self.text.name, carried.file_bytes, self.state.value_count, self.score(carried, ways),
                        facts)

    def yardsticks(self, table, ways=None):
        """The floor and q4_0, which every table has."""
        for row in (Row("floor", "f16", "1-ulp noise", "noise"), Row("q4_0", "q4_0", "rotated", "ggml")):
            yield self.measured(table, row.name, self.row(row), row.options, ways)

    def kept(self, carried, name):
        """A copy of what was put back that outlives the next card."""
        path = os.path.join(self.folder, name)
        os.replace(carried.path, path)
        return Carried(path, carried.file_bytes, carried.peak_memory_bytes)

    def cut(self, count):
        """The text as it is after other tokens: for chains."""
        return replace(self.text, tokens=self.text.tokens[:count])


def attention_paid(queries, keys, kv_heads, context):
    """[kv_head][context]: attention squared, summed over queries and the query heads of a group; sinks count the mean.

    queries: [query][head x channel] of the last tokens, keys: [token][kv_head x channel], all tokens, after rotary embedding.
    """
    count, queried = len(keys), len(queries)
    head_dim = keys.shape[1] // kv_heads
    group = queries.shape[1] // keys.shape[1]
    seen = np.arange(count)[None] <= np.arange(count - queried, count)[:, None]
    sums = np.zeros((kv_heads, context))
    for head in range(kv_heads * group):
        kv_head = head // group
        part = keys[:, kv_head * head_dim:(kv_head + 1) * head_dim].astype(np.float32)
        logits = queries[:, head * head_dim:(head + 1) * head_dim] @ part.T / np.sqrt(head_dim)
        logits = np.where(seen, logits, -np.inf)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        sums[kv_head] += np.square(shares / shares.sum(axis=1, keepdims=True))[:, :context].sum(axis=0)
    sums[:, :SINKS] = sums[:, SINKS:].mean(axis=1, keepdims=True)
    return sums
