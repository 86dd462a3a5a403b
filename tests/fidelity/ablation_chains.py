"""Hops: a card handed on, with what each agent adds; copied through or coded anew. And roles: a chain of them against a fan-out."""
import os
from dataclasses import replace

import numpy as np
from ablation_case import Measured
from ablation_groups import at
from fidelity_rows import PROFILE
from fidelity_table import logits_of, scores_of, ways_of
from kl_metrics import Reference

BASE, HOP, DEPTH = 2000, 400, 6
PROFILE_OPTIONS = ["--codec", "entropy", "--profile", PROFILE]


class Chain:
    """Caches that grow: what one agent gives to the next, and its card."""

    def __init__(self, case, name):
        self.case, self.path = case, os.path.join(case.folder, f"{name}.card")
        self.threads = ["--threads", str(case.setup.threads)]

    @property
    def file_bytes(self):
        return os.path.getsize(self.path)

    def encode(self, state_path, bits, weights=None):
        options = [*PROFILE_OPTIONS, "--bits", str(bits), *self._weights(weights), *self.threads]
        self.case.bench.command.encode(state_path, self.path, self.case.model.path, options)

    def extend(self, state_path, weights=None):
        """The next card in place of this one. Says what extend says."""
        options = ["--profile", PROFILE, *self._weights(weights), *self.threads]
        return self.case.bench.command.extend(self.path, state_path, self.path, self.case.model.path, options)

    def _weights(self, weights):
        return [] if weights is None else ["--weights", self.case.file("chain.npy", weights)]

    def restore(self, token_count):
        """What the next agent has."""
        state = os.path.join(self.case.folder, "received.seq")
        if os.path.exists(state):
            os.unlink(state)
        self.case.bench.command.decode(self.path, state)
        self.case.runtime.load(state, token_count)

    def read_on(self, tokens, fresh):
        """The agent reads `fresh` after the card's `tokens`; its state's path."""
        self.restore(len(tokens))
        self.case.runtime.decode(fresh, len(tokens))
        return self.save(tokens + fresh)

    def save(self, tokens):
        state = os.path.join(self.case.folder, "grown.seq")
        self.case.runtime.save(state, tokens)
        return state


def hops_rows(case, job):
    """KL of each hop's receiver: chunks copied through, coded anew at every hop, and one encode of the whole, at the same bytes.

    A row's name ends with its hop; all are scored against the exact cache of as many tokens.
    """
    base, hop, depth, bits = (job.facts[name] for name in ("base", "hop", "depth", "bits"))
    tokens = case.text.tokens
    copied, own, again, whole = (Chain(case, name) for name in ("copied", "own", "again", "whole"))
    for chain in (copied, own, again):
        chain.encode(_exact(case, tokens[:base]), bits)
    for number in range(1, depth + 1):
        before, after = tokens[:base + hop * (number - 1)], tokens[:base + hop * number]
        fresh, facts = tokens[len(before):len(after)], {"hop": number}
        exact = _exact(case, after)
        values = case.state.value_count // len(case.context) * len(after)
        ways, references = _scored(case, after)

        def row(name, chain, note="", **more):
            chain.restore(len(after))
            scores = scores_of(case.runtime, ways, references, len(after))
            return Measured(job.table, f"{name}, hop {number}", note, case.text.name, chain.file_bytes, values,
                            [(way.name, score) for way, score in zip(ways, scores)], facts | more)

        said = copied.extend(copied.read_on(before, fresh))
        of_copied = 8 * copied.file_bytes / values
        added = {"added_bits": said["added_bits_per_value"] or 0.0}
        state = again.read_on(before, fresh)
        again.encode(state, of_copied)
        own.extend(exact)
        whole.encode(exact, of_copied)
        yield row("copied", copied, "extend, new tokens read on the card", **added)
        yield row("copied, exact readers", own, "extend, new tokens read on the exact cache")
        yield row("coded anew", again, "whole, at every hop")
        yield row("one encode", whole, "of the exact cache")


def _exact(case, tokens):
    """The exact cache of the first tokens, as a file."""
    path = os.path.join(case.folder, "whole.seq")
    case.runtime.clear()
    case.runtime.decode(tokens, 0)
    case.runtime.save(path, tokens)
    return path


def _scored(case, tokens):
    """Ways and references of the exact cache, which the runtime holds."""
    path = os.path.join(case.folder, "whole.seq")
    case.runtime.load(path, len(tokens))
    turns = [case.model.receiver_turn(one.system, one.user) for one in case.receivers]
    ways = ways_of(case.plan, case.runtime, case.text, tokens, turns)
    return ways, [Reference(logits_of(case.runtime, way, len(tokens)), way.targets) for way in ways]


def roles_rows(case, job):
    """Three roles: each gets the card from one sender (fan-out), or one after another with what the earlier ones said (chain)."""
    yield from _fan_out(case, job)
    yield from _chain(case, job)


def _fan_out(case, job):
    table, bits = f"{job.table}, fan-out", job.facts["bits"]
    roles = [one.name for one in case.receivers]
    yield from case.yardsticks(table, roles)
    for queries in ("none", "newest", "both"):
        yield case.measured(table, queries, case.card(at(bits, f"--queries {queries}")), "one card for all", ways=roles)
    for source in ("sender", "probes"):
        yield case.measured(table, source, case.card(at(bits), case.weights(source)), "one card for all", ways=roles)
    together = mixed(case, ["sender", "probes"])
    yield case.measured(table, "sender + probes", case.card(at(bits), together), "one card for all", ways=roles)
    for name, note, of_role in (("own probe", "a card for each", lambda i: mixed(case, [f"probe:{roles[i]}"])),
                                ("own probe + sender", "a card for each", lambda i: mixed(case, [f"probe:{roles[i]}", "sender"])),
                                ("another's probe", "a card for each", lambda i: mixed(case, [f"probe:{roles[i - 1]}"])),
                                ("own oracle", "a card for each", lambda i: mixed(case, [f"oracle:{roles[i]}"])),
                                ("another's oracle", "a card for each", lambda i: mixed(case, [f"oracle:{roles[i - 1]}"]))):
        parts = [case.measured(table, name, case.card(at(bits), of_role(i)), note, ways=[role]) for i, role in enumerate(roles)]
        yield replace(parts[0], ways=[way for part in parts for way in part.ways],
                      file_bytes=sum(part.file_bytes for part in parts) // len(parts))


def mixed(case, sources):
    """Weights of several, each over its mean, squares added."""
    rows = [case.weights(source) for source in sources]
    return np.sqrt(sum(np.square(one / one.mean(axis=1, keepdims=True)) for one in rows)).astype(np.float32)


def _chain(case, job):
    """Planner, coder, reviewer: each reads the card, its turn and its answer (the exact chain's own), and hands on."""
    table, bits = f"{job.table}, chain", job.facts["bits"]
    roles = [one.name for one in case.receivers]
    feeds, references = _exact_chain(case)
    policies = (("both", None), ("sender", ["sender"]), ("next role's probe", [f"probe:{roles[0]}"]),
                ("all roles' probes", ["probes"]), ("sender + probes", ["sender", "probes"]),
                ("last role's probe", [f"probe:{roles[-1]}"]))
    for name, sources in policies:
        chain = Chain(case, "chain")
        chain.encode(case.path, bits, None if sources is None else mixed(case, sources))
        ways, tokens, first_bytes = [], list(case.context), chain.file_bytes
        for number, (role, (feed, count), reference) in enumerate(zip(roles, feeds, references)):
            chain.restore(len(tokens))
            logits = case.runtime.decode(feed, len(tokens), scored=count)[:-1]
            ways.append((role, reference.score(logits)))
            tokens = tokens + feed
            if number + 1 < len(roles):
                chain.extend(chain.save(tokens))
        yield Measured(table, name, "base card's weights", case.text.name, first_bytes, case.state.value_count, ways,
                       {"last_bytes": chain.file_bytes})


def _exact_chain(case):
    """(tokens, scored) of each role on the caches before it, exact, and their references."""
    case.runtime.load(case.path, len(case.context))
    end, feeds, references = len(case.context), [], []
    for one in case.receivers:
        turn = case.model.receiver_turn(one.system, one.user)
        answer = case.runtime.greedy(turn, end, case.setup.answer)
        feed = turn + answer
        case.runtime.forget_from(end)
        logits = case.runtime.decode(feed, end, scored=len(answer) + 1)[:-1]  # of the answer's tokens
        references.append(Reference(logits, answer))
        feeds.append((feed, len(answer) + 1))
        end += len(feed)
    return feeds, references


def room(job):
    """Cells beyond the context that a job's chains take."""
    if job.group == "hops":
        return job.facts["hop"] * job.facts["depth"]
    return job.facts.get("room", 0)


MEASURES = {"hops": hops_rows, "roles": roles_rows}
