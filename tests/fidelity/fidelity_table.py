"""One table: every text's exact cache, each row's disturbance of it, and what three ways of going on make of it."""
import hashlib
import json
import os
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
from cache_encoders import Carried, Exact, encode
from fidelity_error import INTERNAL, FidelityError
from kl_metrics import Reference
from llama_runtime import Runtime, runtime_version
from sender_queries import QueryTap, attention_weights
from sequence_state import SequenceState

ROOM_FOR_TURN = 512  # cells after the context: a continuation, or a question and its answer


@dataclass(frozen=True)
class Plan:
    """What a table is made of."""
    title: str
    model: object          # llama_runtime.Model
    digest: str            # of the GGUF that the model comes from
    texts: list
    receivers: list
    rows: list
    native: list
    context: int
    answer: int            # tokens of a receiver's answer
    threads: int
    seed: int
    command: object        # card_command.CardCommand
    answers_folder: str


@dataclass(frozen=True)
class Way:
    """Tokens that follow the context; the last `len(targets)` positions are scored."""
    name: str
    feed: list
    targets: list


@dataclass
class Result:
    """One row over all texts; entries are by text, scores by text and way."""
    row: object
    file_bytes: list = field(default_factory=list)
    value_count: list = field(default_factory=list)
    peak_memory_bytes: list = field(default_factory=list)
    scores: list = field(default_factory=list)


@dataclass
class Table:
    plan: Plan
    way_names: list
    results: list
    native: list


def run_table(plan, say):
    """Measures every row. `say` takes lines of progress."""
    table = Table(plan, ["text", *(one.name for one in plan.receivers)],
                  [Result(row) for row in plan.rows], [Result(row) for row in plan.native])
    turns = [plan.model.receiver_turn(one.system, one.user) for one in plan.receivers]
    size = plan.context + max(ROOM_FOR_TURN, *(len(turn) + plan.answer for turn in turns))
    with ExitStack() as stack:
        tap = QueryTap() if any(row.weights for row in plan.rows) else None
        runtime = stack.enter_context(Runtime(plan.model, size, "f16", plan.threads))
        # A context of its own: it calls back for every node of every graph.
        reader = stack.enter_context(Runtime(plan.model, plan.context, "f16", plan.threads, tap)) if tap else runtime
        natives = [stack.enter_context(Runtime(plan.model, size, row.codec, plan.threads)) for row in plan.native]
        for number, text in enumerate(plan.texts):
            started = time.monotonic()
            with tempfile.TemporaryDirectory(prefix="cachecard-fidelity-") as folder:
                _one_text(table, runtime, (reader, tap), natives, text, turns, folder)
            say(f"  {plan.title}: {text.name}, {number + 1} of {len(plan.texts)}, {time.monotonic() - started:.0f} s")
    return table


def _one_text(table, runtime, reading, natives, text, turns, folder):
    plan = table.plan
    reader, tap = reading
    context = text.tokens[:plan.context]
    path = os.path.join(folder, "exact.seq")
    reader.clear()
    if tap:
        tap.start()
    reader.decode(context, 0)
    if tap:
        tap.stop()
    reader.save(path, context)
    if tap:
        runtime.load(path, len(context))
    with open(path, "rb") as file:
        state = SequenceState(file.read())
    weights = _sender_weights(plan, tap, state)
    ways = ways_of(plan, runtime, text, context, turns)
    references = [Reference(logits_of(runtime, way, len(context)), way.targets) for way in ways]
    if not table.results[0].scores:
        check_injection(runtime, path, ways, references, len(context))
    exact = Exact(path, state, weights, plan.model.kv_heads, plan.model.path, plan.command, folder, plan.seed)
    for result in table.results:
        carried = encode(result.row, exact)
        runtime.load(carried.path, len(context))
        _add(result, state, carried, scores_of(runtime, ways, references, len(context)))
    for result, native in zip(table.native, natives):
        native.clear()
        native.decode(context, 0)
        native.save(os.path.join(folder, "native.seq"), context)
        carried = Carried("", os.path.getsize(os.path.join(folder, "native.seq")))
        _add(result, state, carried, scores_of(native, ways, references, len(context)))


def _sender_weights(plan, tap, state):
    """[layer x KV head][token], or None where no row asks for them."""
    if tap is None:
        return None
    rows = [attention_weights(tap.last(layer, state.cell_count), state.f16(keys), plan.model.kv_heads)
            for layer, keys in enumerate(state.keys)]
    return np.concatenate(rows).astype(np.float32)


def check_injection(runtime, path, ways, references, end):
    """The exact cache, saved, put back and read, must be the exact cache."""
    runtime.load(path, end)
    if any(score.kl != 0 or score.dnll != 0 for score in scores_of(runtime, ways, references, end)):
        raise FidelityError(INTERNAL, "the exact cache put back does not give the exact logits")


def ways_of(plan, runtime, text, context, turns):
    """The text going on, and each receiver's turn with the exact cache's own greedy answer."""
    end = len(context)
    count = text.continuation(end, plan.model.trained_context)
    ways = [Way("text", text.tokens[end:end + count], text.tokens[end + 1:end + count + 1])]
    for receiver, turn in zip(plan.receivers, turns):
        answer = _answer(plan, runtime, context, turn)
        ways.append(Way(receiver.name, turn + answer[:-1], answer))
    return ways


def _answer(plan, runtime, context, turn):
    """Found once per model, context and turn: 128 tokens one by one take as long as many rows."""
    facts = [plan.title, plan.digest, runtime_version(), context, turn, plan.answer]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    path = os.path.join(plan.answers_folder, f"{key}.json")
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    runtime.forget_from(len(context))
    answer = runtime.greedy(turn, len(context), plan.answer)
    os.makedirs(plan.answers_folder, exist_ok=True)
    part = f"{path}.{os.getpid()}.part"
    with open(part, "w", encoding="utf-8") as file:
        json.dump(answer, file)
    os.replace(part, path)
    return answer


def logits_of(runtime, way, end):
    runtime.forget_from(end)
    return runtime.decode(way.feed, end, scored=len(way.targets))


def scores_of(runtime, ways, references, end):
    return [reference.score(logits_of(runtime, way, end)) for way, reference in zip(ways, references)]


def _add(result, state, carried, scores):
    if any(score.kl != score.kl for score in scores):
        raise FidelityError(INTERNAL, f"row {result.row.name}: the logits are not numbers")
    result.file_bytes.append(carried.file_bytes)
    result.value_count.append(state.value_count)
    result.peak_memory_bytes.append(carried.peak_memory_bytes)
    result.scores.append(scores)
