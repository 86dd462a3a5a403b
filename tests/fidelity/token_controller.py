"""QKVShare's controller (arXiv 2605.03884), as far as it is told: six features of a token, an MLP of 512 parameters, widths.

No code of it is public, so what it leaves open is chosen here: rarity over the calibration texts and this one; segments are
paragraphs; anchors are the tokens that a head looks at most. The MLP has 6 inputs, 64 hidden units (tanh) and one output without
bias: 6 x 64 + 64 + 64 = 512 parameters, fitted to ln of the oracle's token weights.
"""
from collections import Counter
from dataclasses import dataclass

import numpy as np
from kl_metrics import log_sum_exp
from llama_runtime import BATCH_TOKENS

FEATURES = ("rarity", "confidence", "attention variance", "entropy", "segment", "anchor overlap")
HIDDEN, STEPS, RATE, DECAY, SEED = 64, 3000, 3e-3, 1e-4, 20261124
WIDTHS = (2, 4, 8, 16)
ANCHORS = 0.05  # of the tokens, by head
EXPONENT, MIXED = 1.2, 0.05
EXACT_FIRST = 4  # tokens that planes keep exact by default


def token_weights(weights):
    """[token] from [layer x KV head][token]: each row over its mean, then the mean of rows: what one map for all layers can know."""
    return (weights / weights.mean(axis=1, keepdims=True)).mean(axis=0)


def features(case, counts):
    """[token][6] of a case's context. counts: tokens of the calibration texts, a Counter."""
    weights = case.weights("sender")
    shares = weights / weights.mean(axis=1, keepdims=True)
    confidence, entropy = _predictions(case)
    anchors = shares >= np.quantile(shares, 1 - ANCHORS, axis=1, keepdims=True)
    own = Counter(case.context)
    seen = np.array([counts[token] + own[token] for token in case.context])
    rarity = -np.log(seen / (sum(counts.values()) + len(case.context)))
    columns = (rarity, confidence, np.log(shares.var(axis=0) + 1e-6), entropy, _segments(case), anchors.mean(axis=0))
    return np.stack(columns, axis=1)


def _predictions(case):
    """How sure the model was of each token's successor: the largest probability, and the entropy in nats."""
    confidence, entropy = [], []
    case.runtime.clear()
    for begin in range(0, len(case.context), BATCH_TOKENS):
        part = case.context[begin:begin + BATCH_TOKENS]
        logits = case.runtime.decode(part, begin, scored=len(part))
        logs = logits - log_sum_exp(logits)[:, None]
        shares = np.exp(logs)
        confidence.append(shares.max(axis=1))
        entropy.append(-(shares * logs).sum(axis=1))
    return np.concatenate(confidence), np.concatenate(entropy)


def _segments(case):
    """Where a token's paragraph stands, 0 to 1."""
    ends = {token: case.model.piece(token).count("\n") for token in set(case.context)}
    numbers, number, before = [], 0, 0
    for token in case.context:
        numbers.append(number)
        number += ends[token] > 1 or (ends[token] == 1 and before == 1)  # a blank line
        before = ends[token]
    return np.array(numbers) / max(1, number)


@dataclass(frozen=True)
class Controller:
    mean: np.ndarray
    spread: np.ndarray
    first: np.ndarray   # [6][hidden]
    bias: np.ndarray    # [hidden]
    second: np.ndarray  # [hidden]

    def logs(self, rows):
        """ln of what each token is worth, over the text's mean of it; rows: [token][6]."""
        return np.tanh((rows - self.mean) / self.spread @ self.first + self.bias) @ self.second

    @property
    def parameter_count(self):
        return self.first.size + self.bias.size + self.second.size


def fit(rows, targets, seed=SEED):
    """A controller of [token][6] and [token], ln of weights; Adam on the mean square, all tokens at once."""
    generator = np.random.default_rng(seed)
    mean, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    x = (rows - mean) / spread
    weights = [generator.standard_normal((len(FEATURES), HIDDEN)) / np.sqrt(len(FEATURES)), np.zeros(HIDDEN),
               generator.standard_normal(HIDDEN) / np.sqrt(HIDDEN)]
    moments = [[np.zeros_like(w), np.zeros_like(w)] for w in weights]
    for step in range(1, STEPS + 1):
        hidden = np.tanh(x @ weights[0] + weights[1])
        error = (hidden @ weights[2] - targets) * (2 / len(targets))
        back = np.outer(error, weights[2]) * (1 - hidden ** 2)
        rate = RATE * (1 - step / (STEPS + 1))
        for w, (first, second), slope in zip(weights, moments, (x.T @ back, back.sum(axis=0), hidden.T @ error)):
            slope = slope + DECAY * w
            first += 0.1 * (slope - first)
            second += 0.001 * (slope ** 2 - second)
            w -= rate * (first / (1 - 0.9 ** step)) / (np.sqrt(second / (1 - 0.999 ** step)) + 1e-8)
    return Controller(mean, spread, *weights)


def target(weights):
    """What the controller is fitted to: ln of the token weights, less their mean over the text."""
    logs = np.log(token_weights(weights))
    return logs - logs.mean()


def explained(controller, rows, targets):
    """R2 and correlation."""
    found = controller.logs(rows)
    return (1 - np.square(targets - found).sum() / np.square(targets - targets.mean()).sum(),
            correlation(found, targets))


def correlation(one, other):
    """0 where one of them does not vary."""
    return float(np.corrcoef(one, other)[0, 1]) if one.std() > 0 and other.std() > 0 else 0.0


def worth(weights):
    """How much less error counts by token, as entropy's offsets have it (CODECS.md#entropy-encode): weight^1.2, a twentieth of the
    mean mixed in. Why not theory's square: ABLATIONS.md."""
    weights = np.asarray(weights, dtype=float)
    return ((1 - MIXED) * weights / weights.mean() + MIXED) ** EXPONENT


def shared_widths(weights, mean_width, widths=WIDTHS):
    """[token] of `widths` with the least sum of worth x 4^-width under a mean of at most mean_width: bits go where they are worth most."""
    widths = np.array(sorted(widths), dtype=float)
    steps = np.diff(widths)
    gains = (4.0 ** -widths[:-1] - 4.0 ** -widths[1:]) / steps  # for each bit of an upgrade; falls level by level
    order = np.argsort(-(worth(weights)[:, None] * gains[None]), axis=None, kind="stable")
    levels = np.zeros(len(weights), dtype=int)
    left = (mean_width - widths[0]) * len(weights)
    for index in order:
        token, level = divmod(int(index), len(steps))
        if steps[level] <= left and levels[token] == level:
            levels[token] += 1
            left -= steps[level]
    return widths[levels]


def map_file(widths):
    """Lines for --map: the first tokens exact, equal neighbours in one."""
    words = ["exact" if width == 16 or t < EXACT_FIRST else str(int(width)) for t, width in enumerate(widths)]
    lines, start = [], 0
    for t in range(1, len(words) + 1):
        if t == len(words) or words[t] != words[start]:
            lines.append(f"{start}:{t},{words[start]},{words[start]}\n")
            start = t
    return "".join(lines)
