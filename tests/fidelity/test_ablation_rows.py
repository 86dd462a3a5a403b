"""Every group of the ablations once, on one short text: that no row rots, and what must hold of any run."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
# The shortest that rows take; file bits are met within 2 % there.
SHORT = ["--limit", "1", "--context", "256", "--answer", "8", "--calibration-limit", "1"]


class Rows(unittest.TestCase):
    def group(self, name):
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out.json")
            command = [sys.executable, "-B", os.path.join(HERE, "ablations.py"), "--group", name, *SHORT, "--json", out,
                       "--model", os.environ["CACHECARD_MODEL"], "--cli", os.environ["CACHECARD_CLI"],
                       "--work", os.environ["CACHECARD_FIDELITY_WORK"]]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(out, encoding="utf-8") as file:
                return json.load(file)["tables"]

    def rows(self, name):
        """Of the group's first table."""
        return {row["name"]: row for row in self.group(name)[0]["rows"]}

    def test_weights(self):
        rows = self.rows("weights")
        self.assertLess(rows["oracle"]["kl"], rows["shuffled"]["kl"])
        self.assertLess(rows["sender"]["kl"], rows["random"]["kl"])
        for name in ("none", "newest", "both", "sender", "oracle", "probes"):
            self.assertAlmostEqual(rows[name]["bits_per_value"], 1.15, delta=0.02)

    def test_widths_at_equal_bytes(self):
        rows = self.rows("widths")
        wanted = rows["planes, uniform"]["bits_per_value"]
        for name, row in rows.items():
            if name.startswith("planes") or name.endswith("by head"):
                self.assertAlmostEqual(row["bits_per_value"] / wanted, 1, delta=0.02, msg=name)

    def test_hops(self):
        rows = self.rows("hops")
        self.assertLess(rows["one encode, hop 2"]["kl"], rows["coded anew, hop 2"]["kl"])
        self.assertAlmostEqual(rows["copied, hop 2"]["bits_per_value"] / rows["one encode, hop 2"]["bits_per_value"], 1, delta=0.02)

    def test_the_others_run(self):
        for group in ("pieces", "roles", "texts", "breakdown"):
            with self.subTest(group):
                self.assertGreater(len(self.rows(group)), 4)


if __name__ == "__main__":
    unittest.main()
