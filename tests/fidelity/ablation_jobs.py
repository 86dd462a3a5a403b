"""Which texts, contexts and settings each group takes."""
import random

import ablation_chains
import text_set
from ablation_groups import Job
from fidelity_error import USAGE, FidelityError
from text_set import LEAST_CONTINUATION, Receiver, Text

CONTEXT, SMALL, SEED = 1300, 640, 20261124
CONTEXTS = {300: ((1.2, 1.6, 2.0), (2.0, 3.0)), 1000: ((0.85, 1.15, 1.5), (1.5, 2.5)), 2000: ((0.75, 0.95, 1.2), (1.5, 2.2)),
            4000: ((0.65, 0.85, 1.15), (1.15, 2.0)), 8000: ((0.5, 0.65, 0.9), (1.0, 1.8))}
# Long enough for all contexts: the handbook, and what makes two of the others' length put together.
JOINED = {"joined 1": ("reasoning.txt", "chat1.txt", "tables.txt", "code.txt"),
          "joined 2": ("logs.txt", "agent.txt", "german.txt", "dialogue.txt")}
LONG_TEXT = "handbook.txt"
CODER = Receiver("coder", "You are the coder agent. You write and change what has to be written, and nothing else.",
                 "Write out the first change that the text above asks for, as exactly as you can. Keep every name as it is.")
PIECE = 130  # tokens of a text before the other goes on, in spliced texts


class Texts:
    """The texts of a run, tokenised once."""

    def __init__(self, model, texts_folder, calibration_folder, receivers, limit):
        self.all = text_set.tokenised(text_set.read_texts(texts_folder), model)
        self.calibration = text_set.tokenised(text_set.read_texts(calibration_folder), model)
        self.receivers = receivers
        self.limit = limit

    def main(self, context):
        able = [text for text in self.all if len(text.tokens) > context + LEAST_CONTINUATION]
        if not able:
            raise FidelityError(USAGE, f"no text has {context + LEAST_CONTINUATION + 1} tokens: --context is too long for them")
        return text_set.long_enough(able, context)[0][:self.limit]

    def long(self, context):
        """At least one text of so many tokens; those of fixtures/texts put together where they are there."""
        by_name = {text.name: text for text in self.all}
        found = [by_name[LONG_TEXT]] if LONG_TEXT in by_name else []
        for name, parts in JOINED.items():
            if all(part in by_name for part in parts):
                found.append(joined(name, [by_name[part] for part in parts]))
        return text_set.longest(found + ([] if found else self.all), context)[:self.limit]

    def kinds(self, context):
        """The texts as they are, repeated, spliced, and those that the profile was made of."""
        plain = self.main(context)
        yield "as they are", plain
        yield "repeated", [repeated(text, context) for text in plain]
        if len(plain) > 1:
            yield "spliced", [spliced(one, other) for one, other in zip(plain, plain[1:] + plain[:1])]
        yield "words at random", [shuffled(text) for text in plain]
        able = [text for text in self.calibration if len(text.tokens) > context + LEAST_CONTINUATION]
        if able:
            yield "of the profile", able[:self.limit]


def joined(name, texts):
    return Text(name, sum(text.size_bytes for text in texts), [token for text in texts for token in text.tokens])


def repeated(text, context):
    """The first third of the context again and again, and on."""
    part = text.tokens[:context // 3]
    return Text(text.name, text.size_bytes, (part * 6)[:max(2 * context, context + 300)])


def spliced(one, other):
    """Two texts in turn, piece by piece."""
    tokens = []
    for begin in range(0, min(len(one.tokens), len(other.tokens)), PIECE):
        tokens += one.tokens[begin:begin + PIECE] + other.tokens[begin:begin + PIECE]
    return Text(f"{one.name} + {other.name}", one.size_bytes + other.size_bytes, tokens)


def shuffled(text):
    """The text's tokens in any order: nothing follows from what was before, but for which words there are."""
    tokens = text.tokens[1:]
    random.Random(SEED).shuffle(tokens)
    return Text(text.name, text.size_bytes, text.tokens[:1] + tokens)


def jobs_of(group, texts, context, controller):
    """The jobs of a group. controller: facts of a fitted one, for those that use it, and the caller's own rows as more."""
    context = context or CONTEXT
    return MAKERS[group](texts, context, controller)


def _weights(texts, context, controller):
    return [Job("weights", f"weights, {context} tokens", text, context, controller) for text in texts.main(context)]


def _widths(texts, context, controller):
    return [Job("widths", f"widths, {context} tokens", text, context, {"mean_width": 3, **controller}) for text in texts.main(context)]


def _pieces(texts, context, facts):
    return [Job("pieces", f"pieces, {context} tokens, {bits} file bits", text, context, {"bits": bits, "planes": planes, "more": facts["more"]})
            for bits, planes in ((1.15, "1,1"), (2.71, "3,2")) for text in texts.main(context)]


def _rates(texts, context, _controller):
    facts = {"rates": (0.75, 1.0, 1.5, 2.0, 3.0), "planes": ("2,2", "3,2", "4,3")}
    return [Job("rates", f"rates, {context} tokens", text, context, facts) for text in texts.main(context)]


def _contexts(texts, context, _controller):
    """Longest first. A context given is the longest."""
    wanted = [count for count in sorted(CONTEXTS, reverse=True) if context == CONTEXT or count <= context]
    return [Job("contexts", f"contexts, {count} tokens", text, count, {"rates": CONTEXTS[count][0], "none_rates": CONTEXTS[count][1]})
            for count in wanted for text in texts.long(count)] + \
           [Job("contexts", f"contexts, {count} tokens, all texts", text, count, {"rates": CONTEXTS[count][0], "none_rates": CONTEXTS[count][1]})
            for count in wanted if count <= 1000 for text in texts.main(count)]


def _texts(texts, context, _controller):
    context = SMALL if context == CONTEXT else context
    return [Job("texts", f"texts {kind}, {context} tokens", text, context, {"rates": (1.15, 1.5, 2.0)})
            for kind, of_kind in texts.kinds(context) for text in of_kind]


def _breakdown(texts, context, _controller):
    jobs = [Job("breakdown", f"breakdown, {context} tokens", text, context, {"rates": (0.85, 1.15, 1.5, 2.05)}) for text in texts.main(context)]
    if context == CONTEXT:
        jobs += [Job("breakdown", f"breakdown, {count} tokens", text, count, {"rates": (0.85, 1.15, 1.5, 2.05)})
                 for count in (4000,) for text in texts.long(count)]
        jobs += [Job("breakdown", "breakdown, 300 tokens", text, 300, {"rates": (1.5, 2.0)}) for text in texts.main(300)]
    return jobs


def _hops(texts, context, _controller):
    whole = context == CONTEXT
    base, hop, depth = (ablation_chains.BASE, ablation_chains.HOP, ablation_chains.DEPTH) if whole else (context, context // 5, 2)
    facts = {"base": base, "hop": hop, "depth": depth, "bits": 1.15}
    return [Job("hops", f"hops of {hop} on {base} tokens", text, base, facts) for text in texts.long(base + hop * depth)]


def _roles(texts, context, _controller):
    facts = {"bits": 1.0, "room": 3 * 256}
    return [Job("roles", f"roles, {context} tokens", text, context, facts) for text in texts.main(context)]


MAKERS = {"weights": _weights, "pieces": _pieces, "widths": _widths, "hops": _hops, "rates": _rates, "contexts": _contexts,
          "breakdown": _breakdown, "texts": _texts, "roles": _roles}
WITH_CONTROLLER = ("weights", "widths")


def receivers_of(group, receivers):
    """Roles are planner, coder, reviewer, in the order of their chain."""
    if group != "roles":
        return receivers
    by_name = {one.name: one for one in receivers}
    return [by_name[name] for name in ("planner",) if name in by_name] + [CODER] + [one for one in receivers if one.name != "planner"]
