"""The rows of the fidelity tables: one line each. What a row does is in cache_encoders.py."""
import os
import shlex
from dataclasses import dataclass

from fidelity_error import USAGE, FidelityError


@dataclass(frozen=True)
class Row:
    """How the exact cache is disturbed before it is put back."""
    name: str
    codec: str
    options: str = ""
    encoder: str = "card"  # a key of cache_encoders.ENCODERS
    short: bool = False    # also in the long tables and in the one of the model as deployed
    shared: bool = False   # bits go by COSTS (planes) or PROFILE (entropy), which are of one model
    weights: str = ""      # of tokens: "sender" or "shuffled"; empty: what the CLI makes of them

    @property
    def arguments(self):
        """What the CLI gets."""
        return ["--codec", self.codec, *shlex.split(self.options), *(self._of_the_model() if self.shared else [])]

    def _of_the_model(self):
        return ["--sensitivity", COSTS] if self.codec == "planes" else ["--profile", PROFILE]

    def fits(self, model_digest):
        """Whether its profile, if it has one, is of the model with that SHA-256."""
        if not self.shared:
            return True
        with open(COSTS, encoding="utf-8") as file:
            return f"sha256 {model_digest}" in file.read()


PROFILES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "fixtures", "profiles")
COSTS = os.path.join(PROFILES, "smollm2-135m.csv")        # by layer, made by tests/fidelity/sensitivity
PROFILE = os.path.join(PROFILES, "smollm2-135m.profile")  # made by cachecard calibrate

FLOOR, YARDSTICK = "floor", "q4_0"
FLOOR_FACTOR = 10  # nothing is claimed of a KL below this many times the floor's

ROWS = (
    Row(FLOOR, "f16", "1-ulp noise on every value", "noise", short=True),
    Row("raw", "raw", short=True),
    Row("q8_0", "q8_0", "rotated", "ggml", short=True),
    Row(YARDSTICK, "q4_0", "rotated", "ggml", short=True),
    Row("q4_0 unrotated", "q4_0", "unrotated", "ggml"),
    Row("KIVI 4 bit", "kivi", "4 bits, groups of 32, newest 32 exact", "kivi"),
    Row("KIVI 2 bit", "kivi", "2 bits, groups of 32, newest 32 exact", "kivi", short=True),
    Row("planes K8 V8", "planes", "--bits 8,8"),
    Row("planes K4 V4", "planes", "--bits 4,4 --newest-tokens 32", short=True, shared=True),
    Row("planes K4 V3", "planes", "--bits 4,3 --newest-tokens 32", short=True, shared=True),
    Row("planes K3 V2", "planes", "--bits 3,2 --newest-tokens 32", short=True, shared=True),
    Row("planes K4 V4 flat", "planes", "--bits 4,4"),
    Row("planes K4 V3 flat", "planes", "--bits 4,3", short=True),
    Row("planes K3 V3 flat", "planes", "--bits 3,3"),
    Row("planes K3 V2 flat", "planes", "--bits 3,2"),
    Row("planes K2 V2 flat", "planes", "--bits 2,2"),
    # Token weights from the newest tokens' queries, as estimated by the profile's map, and from its centroids: what a slot without attention gets.
    Row("entropy 3.0", "entropy", "--bits 3.0", shared=True),
    Row("entropy 2.05", "entropy", "--bits 2.05", short=True, shared=True),
    Row("entropy 1.5", "entropy", "--bits 1.5", short=True, shared=True),
    Row("entropy 1.0", "entropy", "--bits 1.0", short=True, shared=True),
    Row("entropy 0.85", "entropy", "--bits 0.85", shared=True),
    # Whose look at the tokens counts.
    Row("entropy 1.15", "entropy", "--bits 1.15", shared=True),
    Row("entropy 1.15 sender", "entropy", "--bits 1.15", shared=True, weights="sender"),
    Row("entropy 1.15 centroids", "entropy", "--bits 1.15 --queries centroids", shared=True),
    Row("entropy 1.15 recency", "entropy", "--bits 1.15 --queries recency", shared=True),
    Row("entropy 1.15 none", "entropy", "--bits 1.15 --queries none", shared=True),
    Row("entropy 1.15 shuffled", "entropy", "--bits 1.15", shared=True, weights="shuffled"),
    # No profile at all.
    Row("entropy 1.5 flat", "entropy", "--bits 1.5 --queries none"),
    Row("entropy 1.5 recency", "entropy", "--bits 1.5"),
)

# The prefill itself ran on a cache of this type, and so does everything after it. Never the yardstick.
NATIVE = (
    Row("native q8_0", "q8_0", "prefill on a q8_0 cache", "native"),
    Row("native q4_0", "q4_0", "prefill on a q4_0 cache", "native"),
)

SMOKE = (FLOOR, "raw", YARDSTICK, "planes K4 V3")

def chosen(names, own):
    """The rows called `names` (all where None), the floor and the yardstick, and the caller's own."""
    known = {row.name: row for row in ROWS}
    for name in names or ():
        if name not in known:
            raise FidelityError(USAGE, f"no row is called '{name}': there are {', '.join(known)}")
    rows = [row for row in ROWS if names is None or row.name in {*names, FLOOR, YARDSTICK}]
    return rows + [own_row(text, {row.name for row in rows}) for text in own]


def own_row(text, taken):
    """NAME=CODEC [OPTION...], as --row takes it: a card through the CLI. --weights may be sender or shuffled, see Row."""
    name, separator, rest = text.partition("=")
    codec, _, options = rest.strip().partition(" ")
    if not (separator and name.strip() and codec):
        raise FidelityError(USAGE, f"--row '{text}': NAME=CODEC [OPTION...] is wanted, e.g. 'mine=planes --bits 5,4'")
    if name.strip() in taken:
        raise FidelityError(USAGE, f"--row '{text}': a row of that name is in the table already")
    weights = next((kind for kind in ("sender", "shuffled") if f"--weights {kind}" in options), "")
    return Row(name.strip(), codec, options.replace(f"--weights {weights}", "").strip() if weights else options.strip(), weights=weights)
