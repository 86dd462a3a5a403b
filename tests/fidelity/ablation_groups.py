"""The groups of the ablations: which rows on which texts. Each measure takes a case and yields what it measured."""
from dataclasses import dataclass, field, replace

import numpy as np
from ablation_breakdown import breakdown
from fidelity_rows import Row
from text_set import Text
from token_controller import EXACT_FIRST, map_file, shared_widths, token_weights

RATE = 1.15        # file bits a value, unless a group says otherwise
PIECES = ("means", "head-gains", "channel-gains", "references")  # in the order in which they are added
SCALES = "scales"  # of values, which uniform entropy has; only left out of the whole
FINE_WIDTHS = (1, 2, 3, 4, 5, 6, 7, 8, 16)
HALF_BITS = 2
LONG = 8000


@dataclass(frozen=True)
class Job:
    """One text of one table."""
    group: str
    table: str
    text: Text
    context: int
    facts: dict = field(default_factory=dict)  # what the measure needs besides


def at(bits, rest=""):
    return f"entropy --bits {bits} {rest}".strip()


def weights_rows(case, job):
    """Whose look at the tokens counts, all else alike."""
    yield from case.yardsticks(job.table)
    for queries in ("none", "recency", "centroids", "newest", "both"):
        yield case.measured(job.table, queries, case.card(at(RATE, f"--queries {queries}")), {"newest": "estimated by the profile", "both": "newest and centroids, the default"}.get(queries, ""))
    for source in ("random", "shuffled", "sender", "probes", "oracle"):
        yield case.measured(job.table, source, case.card(at(RATE), case.weights(source)), NOTES.get(source, ""))
    together = np.sqrt(np.square(relative(case.weights("sender"))) + np.square(relative(case.weights("probes"))))
    yield case.measured(job.table, "sender + probes", case.card(at(RATE), together), "squares added")
    for source in ("sender", "oracle"):
        yield case.measured(job.table, f"{source}, one map", case.card(at(RATE), token_weights(case.weights(source)).astype(np.float32)),
                            "one weight a token for all layers and heads")
    if controller := job.facts.get("controller"):
        yield case.measured(job.table, "QKVShare, one map", case.card(at(RATE), controlled(controller, case, job)),
                            "six features, 512 parameters, fine steps")
    yield from more_rows(case, job, RATE)


def more_rows(case, job, bits):
    """The caller's own."""
    for name, options in job.facts["more"]:
        yield case.measured(job.table, name, case.card(at(bits, options)), options)


NOTES = {"random": "log-normal, as spread as the sender's", "shuffled": "the sender's, tokens permuted by head",
         "sender": "its last 64 queries", "probes": "the receivers' roles, another question", "oracle": "the scored queries' own attention"}


def relative(weights):
    return weights / weights.mean(axis=1, keepdims=True)


def controlled(controller, case, job):
    """[token] f32 by QKVShare's controller."""
    from token_controller import features
    return np.exp(controller.logs(features(case, job.facts["counts"]))).astype(np.float32)


def without(parts):
    return f"--without {','.join(parts)}" if parts else ""


def pieces_rows(case, job):
    """What each part is worth: added one by one, then each taken from the whole."""
    yield from case.yardsticks(job.table)
    bits, planes = job.facts["bits"], job.facts["planes"]
    yield case.measured(job.table, "planes, uniform", case.row(Row("planes", "planes", f"--bits {planes}")), f"--bits {planes}, its own file bits")
    for count in range(len(PIECES) + 1):
        name = "entropy, uniform" if count == 0 else f"+ {PIECES[count - 1]}"
        yield case.measured(job.table, name, case.card(at(bits, f"--queries none {without(PIECES[count:])}")))
    yield case.measured(job.table, "+ token weights", case.card(at(bits)), "all: newest and centroids")
    for part in (*PIECES, SCALES):
        yield case.measured(job.table, f"all but {part}", case.card(at(bits, without([part]))))
    yield case.measured(job.table, "all but gains", case.card(at(bits, without(["head-gains", "channel-gains"]))), "no profile but for the weights")
    yield case.measured(job.table, "weights alone", case.card(at(bits, without(PIECES))), "uniform entropy + token weights")
    yield from more_rows(case, job, bits)


def rates_rows(case, job):
    """Four sources at five rates, and planes where they have one."""
    yield from case.yardsticks(job.table)
    for bits in job.facts["rates"]:
        for name, options in (("bare", f"--queries none {without(PIECES)}"), ("none", "--queries none"), ("both", "")):
            yield case.measured(job.table, f"{name} {bits}", case.card(at(bits, options)), bits=bits)
        for source in ("sender", "oracle"):
            yield case.measured(job.table, f"{source} {bits}", case.card(at(bits), case.weights(source)), bits=bits)
    for planes in job.facts["planes"]:
        row = Row("planes", "planes", f"--bits {planes} --newest-tokens 32", shared=True)
        yield case.measured(job.table, f"planes {planes}", case.row(row), "shared by layer")


def contexts_rows(case, job):
    """Rates around q4_0's KL, for the bits that meet it."""
    yield from case.yardsticks(job.table)
    for bits in job.facts["rates"]:
        yield case.measured(job.table, f"both {bits}", case.card(at(bits)), bits=bits)
        yield case.measured(job.table, f"sender {bits}", case.card(at(bits), case.weights("sender")), bits=bits)
    for bits in job.facts["none_rates"]:
        yield case.measured(job.table, f"none {bits}", case.card(at(bits, "--queries none")), bits=bits)


def texts_rows(case, job):
    """The same rows on texts of other kinds."""
    yield from case.yardsticks(job.table)
    for bits in job.facts["rates"]:
        yield case.measured(job.table, f"both {bits}", case.card(at(bits)), bits=bits)
        yield case.measured(job.table, f"no references {bits}", case.card(at(bits, without(["references"]))), bits=bits)
        yield case.measured(job.table, f"none {bits}", case.card(at(bits, "--queries none")), bits=bits)


def breakdown_rows(case, job):
    """Where the file's bits are. Nothing is scored."""
    rows = [(f"both {bits}", lambda bits=bits: case.card(at(bits))) for bits in job.facts["rates"]]
    rows += [("none 1.15", lambda: case.card(at(RATE, "--queries none"))),
             ("one map 1.15", lambda: case.card(at(RATE), token_weights(case.weights("sender")).astype(np.float32))),
             ("planes 4,3", lambda: case.row(Row("planes", "planes", "--bits 4,3"))),
             ("planes 4,3 shared", lambda: case.row(Row("planes", "planes", "--bits 4,3 --newest-tokens 32", shared=True)))]
    for name, make in rows:
        carried = make()
        yield case.measured(job.table, name, carried, ways=[],
                            **breakdown(case.bench.command.sections(case.card_path), case.card_path, case.state.value_count))


def widths_rows(case, job):
    """A map of widths {2, 4, 8, 16} against finer ones, by planes and by entropy, at the bytes of uniform planes."""
    yield from case.yardsticks(job.table)
    mean = job.facts["mean_width"]
    uniform = case.row(Row("planes", "planes", f"--bits {mean}"))
    target = 8 * uniform.file_bytes / case.state.value_count
    yield case.measured(job.table, "planes, uniform", uniform, f"--bits {mean}")
    weights = {source: token_weights(case.weights(source)) for source in ("random", "sender", "probes", "oracle")}
    if controller := job.facts.get("controller"):
        weights["QKVShare"] = controlled(controller, case, job)
    for source, of_tokens in weights.items():
        for name, widths in (("{2,4,8,16}", (2, 4, 8, 16)), ("{1..8,16}", FINE_WIDTHS)):
            yield case.measured(job.table, f"planes {name}, {source}", mapped(case, of_tokens, mean, target, widths), "one map")
    bits = f"{target:.4f}"
    yield case.measured(job.table, "entropy, uniform", case.card(at(bits, "--queries none")), "no map, the profile's gains")
    for source, of_tokens in weights.items():
        # 16 bits would be 12 above the mean: more than offsets reach, so 8 is the widest.
        coarse = half_bits(shared_widths(of_tokens, mean, (2, 4, 8)), 4)
        yield case.measured(job.table, f"entropy {{2,4,8}}, {source}", case.card(at(bits), coarse), "one map")
        yield case.measured(job.table, f"entropy fine, {source}", case.card(at(bits), of_tokens.astype(np.float32)), "one map")
    for source in ("sender", "oracle"):
        yield case.measured(job.table, f"entropy fine, {source}, by head", case.card(at(bits), case.weights(source)), "a map for each KV head")
    yield from low_rate_widths(case, job, weights)


def low_rate_widths(case, job, weights):
    """The same at the compact card's rate: each width twice the last, as {2, 4, 8, 16} are, against fine steps."""
    table = f"{job.table}, at {RATE}"
    yield from case.yardsticks(table)
    for source, of_tokens in weights.items():
        coarse = half_bits(shared_widths(of_tokens, 1.0, (0.5, 1, 2, 4)), 1)
        yield case.measured(table, f"entropy {{.5,1,2,4}}, {source}", case.card(at(RATE), coarse), "one map")
        yield case.measured(table, f"entropy fine, {source}", case.card(at(RATE), of_tokens.astype(np.float32)), "one map")
    yield case.measured(table, "entropy fine, sender, by head", case.card(at(RATE), case.weights("sender")), "a map for each KV head")


def half_bits(widths, middle):
    return np.round(HALF_BITS * (widths - middle)).astype(np.int8)


def mapped(case, weights, mean, target, widths):
    """planes with a map by token whose file has the target's bits, within a tenth of a percent or as near as three tries come."""
    weights = np.array(weights, dtype=float)
    best, aim = None, float(mean)
    for _ in range(3):
        found = shared_widths(weights, aim, widths)
        found[:EXACT_FIRST] = 16
        carried = case.row(Row("planes", "planes", f"--map {case.file('map.csv', map_file(found))}"))
        carried = replace(carried, path=case.kept(carried, "mapped.seq").path)
        bits = 8 * carried.file_bytes / case.state.value_count
        if best is None or abs(bits - target) < abs(8 * best.file_bytes / case.state.value_count - target):
            best = replace(carried, path=case.kept(carried, "best.seq").path)
        if abs(bits - target) < 1e-3 * target:
            break
        aim += target - bits
    return best


MEASURES = {"weights": weights_rows, "pieces": pieces_rows, "widths": widths_rows, "rates": rates_rows,
            "contexts": contexts_rows, "texts": texts_rows, "breakdown": breakdown_rows}
