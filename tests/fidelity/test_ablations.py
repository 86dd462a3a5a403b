"""The parts of the ablations that need no model: widths, the controller, attention paid, where a file's bits are."""
import os
import unittest

import ablation_report
import numpy as np
import token_controller
from ablation_breakdown import breakdown
from ablation_case import attention_paid
from ablation_groups import half_bits
from card_command import CardCommand
from fidelity_rows import PROFILE
from sender_queries import SINKS
from token_controller import map_file, shared_widths

SEED = 8
VALID = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "fixtures", "valid")
CODED = ("entropy_f16", "entropy_escapes", "entropy_exact_tokens", "entropy_all_fine", "planes_f16")
print(f"test_ablations: seed {SEED}")


class Widths(unittest.TestCase):
    def test_are_the_best_of_all_within_the_mean(self):
        generator = np.random.default_rng(SEED)
        weights = np.exp(generator.normal(0, 1.5, 6))

        def cost(widths):
            return float((token_controller.worth(weights) * 4.0 ** -np.asarray(widths, dtype=float)).sum())

        grid = np.stack(np.meshgrid(*[(2, 3, 4)] * 6), axis=-1).reshape(-1, 6)
        best = min(cost(widths) for widths in grid if widths.mean() <= 3)
        self.assertAlmostEqual(cost(shared_widths(weights, 3, (2, 3, 4))), best, delta=1e-12)

    def test_use_the_whole_budget_and_no_more(self):
        weights = np.exp(np.random.default_rng(SEED).normal(0, 2, 1000))
        for widths in ((2, 4, 8, 16), tuple(range(1, 9)), (0.5, 1, 2, 4)):
            mean = shared_widths(weights, 3, widths).mean()
            self.assertLessEqual(mean, 3)
            self.assertGreater(mean, 2.98)

    def test_map_and_half_bits(self):
        self.assertEqual(map_file(np.array([2, 2, 2, 2, 2, 4, 4, 16])), "0:4,exact,exact\n4:5,2,2\n5:7,4,4\n7:8,exact,exact\n")
        self.assertEqual(half_bits(np.array([2.0, 4, 8]), 4).tolist(), [-4, 0, 8])


class Fitting(unittest.TestCase):
    def test_the_controller_learns_what_its_features_say(self):
        rows = np.random.default_rng(SEED).normal(3, 2, (800, len(token_controller.FEATURES)))
        targets = np.tanh(rows[:, 0] - 3) + 0.3 * rows[:, 2]
        controller = token_controller.fit(rows[:600], targets[:600])
        self.assertEqual(controller.parameter_count, 512)
        r2, correlation = token_controller.explained(controller, rows[600:], targets[600:])
        self.assertGreater(r2, 0.9)
        self.assertGreater(correlation, 0.95)


class Attention(unittest.TestCase):
    def test_is_what_a_plain_softmax_gives(self):
        generator = np.random.default_rng(SEED)
        keys, queries = generator.normal(0, 1, (20, 2 * 8)), generator.normal(0, 1, (5, 4 * 8)).astype(np.float32)
        found = attention_paid(queries, keys, 2, 12)
        wanted = np.zeros((2, 12))
        for head in range(4):
            for i, query in enumerate(queries):
                of = head // 2
                logits = [query[8 * head:8 * head + 8] @ keys[t, 8 * of:8 * of + 8] / np.sqrt(8) for t in range(15 + i + 1)]
                shares = np.exp(logits) / np.exp(logits).sum()
                wanted[of] += shares[:12] ** 2
        np.testing.assert_allclose(found[:, SINKS:], wanted[:, SINKS:], rtol=1e-4)
        np.testing.assert_allclose(found[:, 0], wanted[:, SINKS:].mean(axis=1), rtol=1e-4)


class Report(unittest.TestCase):
    def test_a_crossing_lies_between_rows_or_is_drawn_on(self):
        bits, logs = np.array([2.0, 1.0, 1.5]), np.array([-8.5, -6.0, -7.0])
        self.assertAlmostEqual(ablation_report._crossing(bits, logs, -6.5), 1.25)
        self.assertAlmostEqual(ablation_report._crossing(bits, logs, -9.0), 2 + 0.5 / 3)
        self.assertAlmostEqual(ablation_report._crossing(bits, logs, -5.0), 0.5)

    def test_every_byte_of_a_card_has_a_kind(self):
        command = CardCommand(os.environ["CACHECARD_CLI"], os.environ["CACHECARD_FIDELITY_WORK"])
        for name in CODED:
            path = os.path.join(VALID, f"{name}.card")
            facts = command.sections(path)
            sizes = breakdown(facts, path, value_count=8)
            self.assertAlmostEqual(sum(sizes.values()), os.path.getsize(path), msg=name)
            self.assertEqual(round(sizes["escapes"]) % 6, 0, name)
            self.assertTrue(all(size >= 0 for size in sizes.values()), (name, sizes))
            self.assertGreater(sizes["symbols"] + sizes["exact tokens"], 0, name)
        self.assertTrue(os.path.exists(PROFILE))


if __name__ == "__main__":
    unittest.main()
