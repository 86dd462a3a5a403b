"""The one hand-off at 2,000 tokens and more: quickstart's own program, as a user runs it."""
import os
import subprocess
import sys
import unittest

from hand_off import CLI, MODEL, PYTHON

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")


class HandOff(unittest.TestCase):
    def test_the_receiver_answers_as_the_sender_would(self):
        done = subprocess.run(
            [PYTHON, os.path.join(ROOT, "tools", "handoff", "handoff.py"), "--cli", CLI, "--python", PYTHON,
             "--model", MODEL, "--text", os.path.join(ROOT, "fixtures", "texts", "handoff.txt"), "--answer", "16",
             "--profile", os.path.join(ROOT, "fixtures", "profiles", "smollm2-135m.profile")],
            capture_output=True, text=True, timeout=800, check=False)
        print(done.stdout, file=sys.stderr)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("2,422 of 2,422 tokens", done.stdout)
        self.assertIn("16 of 16 tokens", done.stdout)
        self.assertRegex(done.stdout, r"whole file\) +1\.[45]")  # what capture does by itself: entropy, 1.5 bits with a profile


if __name__ == "__main__":
    unittest.main()
