"""The metrics against numbers worked out by hand and against a plain f64 computation of their definitions."""
import math
import unittest

import kl_metrics
import numpy as np
from kl_metrics import Reference

SEED = 7
print(f"test_kl_metrics: seed {SEED}")


def logits(probabilities, shift=0.0):
    """Rows of logits with these probabilities; logits are only known up to a constant."""
    return (np.log(np.asarray(probabilities)) + shift).astype(np.float32)


class Scores(unittest.TestCase):
    def test_kl_of_two_coins(self):
        exact, other = logits([[0.5, 0.5]]), logits([[0.25, 0.75]], shift=3)
        score = Reference(exact, [0]).score(other)
        self.assertAlmostEqual(score.kl, 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75), 6)

    def test_kl_is_from_the_exact_distribution_to_the_other(self):
        score = Reference(logits([[0.9, 0.1]]), [0]).score(logits([[0.5, 0.5]]))
        self.assertAlmostEqual(score.kl, 0.9 * math.log(1.8) + 0.1 * math.log(0.2), 6)

    def test_kl_is_the_mean_over_positions_also_beyond_one_block(self):
        positions = 2 * kl_metrics.ROWS_AT_ONCE + 5
        exact = logits([[0.5, 0.5]] * positions)
        other = logits([[0.5, 0.5]] * (positions - 1) + [[0.25, 0.75]])
        one = Reference(exact[:1], [0]).score(other[-1:]).kl
        score = Reference(exact, [0] * positions).score(other)
        self.assertAlmostEqual(score.kl, one / positions, 9)
        self.assertEqual(score.positions, positions)

    def test_against_the_definition_on_random_logits(self):
        generator = np.random.default_rng(SEED)
        a, b = (generator.normal(0, 4, (40, 300)).astype(np.float32) for _ in range(2))
        targets = generator.integers(0, 300, 40)
        p, q = (np.exp(x.astype(np.float64)) / np.exp(x.astype(np.float64)).sum(axis=1, keepdims=True) for x in (a, b))
        score = Reference(a, targets).score(b)
        self.assertAlmostEqual(score.kl, float((p * np.log(p / q)).sum(axis=1).mean()), 10)
        at = np.arange(40), targets
        self.assertAlmostEqual(score.dnll, float(np.mean(np.log(p[at]) - np.log(q[at]))), 10)
        self.assertEqual(score.top1, np.mean(p.argmax(axis=1) == q.argmax(axis=1)))

    def test_the_same_logits_give_exactly_nothing(self):
        a = np.random.default_rng(SEED).normal(0, 9, (70, 500)).astype(np.float32)
        score = Reference(a, [3] * 70).score(a.copy())
        self.assertEqual((score.kl, score.dnll, score.top1), (0.0, 0.0, 1.0))

    def test_a_change_of_one_millionth_is_seen(self):
        """In f32 the sums would drown it: that is why they are in f64."""
        a = np.zeros((1, 50_000), dtype=np.float32)
        b = a.copy()
        b[0, :25_000] = 2e-3
        self.assertAlmostEqual(Reference(a, [0]).score(b).kl / (2e-3 ** 2 / 8), 1, 3)

    def test_huge_logits_do_not_overflow(self):
        score = Reference(np.array([[1e4, 0.0]], dtype=np.float32), [1]).score(np.array([[9e3, 0.0]], dtype=np.float32))
        self.assertEqual(score.dnll, -1000.0)

    def test_dnll_is_positive_where_the_target_became_less_likely(self):
        score = Reference(logits([[0.5, 0.5]]), [1]).score(logits([[0.75, 0.25]]))
        self.assertAlmostEqual(score.dnll, math.log(2), 6)

    def test_top1_counts_positions(self):
        exact = logits([[0.6, 0.4], [0.6, 0.4], [0.4, 0.6], [0.4, 0.6]])
        other = logits([[0.6, 0.4], [0.4, 0.6], [0.4, 0.6], [0.4, 0.6]])
        self.assertEqual(Reference(exact, [0] * 4).score(other).top1, 0.75)

    def test_one_target_for_each_position(self):
        with self.assertRaises(ValueError):
            Reference(logits([[0.5, 0.5]]), [0, 1])


class Yardstick(unittest.TestCase):
    def test_is_the_geometric_mean_over_texts_and_ways(self):
        self.assertAlmostEqual(kl_metrics.yardstick([[1e-2, 1e-4], [1e-3, 1e-3]]), 1e-3, 12)

    def test_nothing_different_is_zero_and_one_zero_among_others_is_the_floor(self):
        self.assertEqual(kl_metrics.yardstick([[0.0, 0.0]]), 0.0)
        self.assertAlmostEqual(kl_metrics.yardstick([[0.0, 1e-2]]), math.sqrt(kl_metrics.SMALLEST_KL * 1e-2), 12)

    def test_ratio_of_a_constant_factor_has_no_width(self):
        base = np.array([[1e-2, 2e-2], [5e-3, 1e-3], [1e-4, 3e-2]])
        ratio, low, high = kl_metrics.bootstrap_ratio(0.5 * base, base, SEED, 1000)
        for value in (ratio, low, high):
            self.assertAlmostEqual(value, 0.5, 12)

    def test_interval_is_that_of_a_mean_of_independent_texts(self):
        """100 texts whose ln ratio has deviation 0.3: about +-1.96 x 0.3 / 10, and the same for the same seed."""
        generator = np.random.default_rng(SEED)
        base = np.exp(generator.normal(-5, 2, (100, 3)))
        difference = generator.normal(-0.2, 0.3, (100, 1))
        difference += -0.2 - difference.mean()
        difference = (difference + 0.2) * 0.3 / difference.std() - 0.2
        ratio, low, high = kl_metrics.bootstrap_ratio(base * np.exp(difference), base, SEED, 20_000)
        self.assertAlmostEqual(math.log(ratio), -0.2, 9)
        self.assertAlmostEqual(math.log(low), -0.2 - 0.0588, 2)
        self.assertAlmostEqual(math.log(high), -0.2 + 0.0588, 2)
        again = kl_metrics.bootstrap_ratio(base * np.exp(difference), base, SEED, 20_000)
        self.assertEqual(again, (ratio, low, high))

    def test_texts_are_drawn_whole_not_ways(self):
        """Ways of a text that cancel out leave no width, however far they are apart."""
        base = np.full((4, 2), 1e-2)
        _, low, high = kl_metrics.bootstrap_ratio(base * np.exp([[1, -1]] * 4), base, SEED, 1000)
        self.assertAlmostEqual(low, 1, 12)
        self.assertAlmostEqual(high, 1, 12)

    def test_one_text_has_no_interval(self):
        self.assertEqual(kl_metrics.bootstrap_ratio([[2e-2]], [[1e-2]], SEED, 100)[1:], (None, None))


if __name__ == "__main__":
    unittest.main()
