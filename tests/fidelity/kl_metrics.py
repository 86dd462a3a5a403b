"""KL divergence, top-1 agreement and delta NLL against the exact cache, and the yardstick over texts.

All sums are in f64: the floor of the instrument is near 1e-6 nats.
"""
from dataclasses import dataclass

import numpy as np

SMALLEST_KL = 1e-10  # the logarithm's floor: an exact cache has KL 0
ROWS_AT_ONCE = 32


@dataclass(frozen=True)
class Score:
    """Means over the positions of one way."""
    positions: int
    kl: float
    top1: float
    dnll: float


class Reference:
    """The exact cache's distributions at the scored positions of one way."""

    def __init__(self, logits, targets):
        if len(logits) != len(targets):
            raise ValueError(f"{len(logits)} positions, {len(targets)} targets")
        self.logits = logits
        self.targets = np.asarray(targets)
        self.log_sum = log_sum_exp(logits)

    def score(self, logits):
        """Compares logits [position][vocabulary] of another cache at the same positions."""
        log_sum = log_sum_exp(logits)
        kl = 0.0
        for at in range(0, len(logits), ROWS_AT_ONCE):
            span = slice(at, at + ROWS_AT_ONCE)
            exact = self.logits[span].astype(np.float64) - self.log_sum[span, None]
            other = logits[span].astype(np.float64) - log_sum[span, None]
            kl += float(np.einsum("ij,ij->", np.exp(exact), exact - other))
        places = np.arange(len(logits)), self.targets
        nll = log_sum - logits[places] - (self.log_sum - self.logits[places])
        same = logits.argmax(axis=1) == self.logits.argmax(axis=1)
        return Score(len(logits), max(0.0, kl / len(logits)), float(same.mean()), float(nll.mean()))


def log_sum_exp(logits):
    """ln of the sum of e^x by row, in f64."""
    out = np.empty(len(logits))
    for at in range(0, len(logits), ROWS_AT_ONCE):
        part = logits[at:at + ROWS_AT_ONCE].astype(np.float64)
        highest = part.max(axis=1)
        out[at:at + ROWS_AT_ONCE] = highest + np.log(np.exp(part - highest[:, None]).sum(axis=1))
    return out


def log_kl(kls):
    """ln of each KL, floored; [text][way] in, the same out."""
    return np.log(np.maximum(np.asarray(kls, dtype=np.float64), SMALLEST_KL))


def yardstick(kls):
    """e to the mean over texts and ways of ln KL; 0 where nothing differs at all."""
    return float(np.exp(log_kl(kls).mean())) if np.any(np.asarray(kls) > 0) else 0.0


def bootstrap_ratio(kls, base_kls, seed, samples):
    """Yardstick over the base's yardstick, with the 95 % interval of a paired bootstrap over texts.

    Both [text][way]. One text alone has no interval: None, None.
    """
    by_text = (log_kl(kls) - log_kl(base_kls)).mean(axis=1)
    ratio = float(np.exp(by_text.mean()))
    if len(by_text) < 2:
        return ratio, None, None
    picks = np.random.default_rng(seed).integers(0, len(by_text), (samples, len(by_text)))
    low, high = np.quantile(by_text[picks].mean(axis=1), [0.025, 0.975])
    return ratio, float(np.exp(low)), float(np.exp(high))
