"""What the tests of the Python package share: a folder of their own, and values from a printed seed."""

import os
import pathlib
import tempfile
import unittest

import numpy as np

FIXTURES = pathlib.Path(os.environ["CACHECARD_FIXTURES"])
CLI = os.environ["CACHECARD_CLI"]
SEED = 20261124


class PackageTest(unittest.TestCase):
    """A test with a folder and a generator of its own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="cachecard-python-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.path = self.folder / "a.card"
        self.random = np.random.default_rng(SEED)

    def values(self, *shape, dtype=np.float32):
        """Normal values; for uint16 the bits of bf16 numbers."""
        numbers = self.random.standard_normal(shape).astype(np.float32)
        if dtype == np.uint16:
            return (numbers.view(np.uint32) >> 16).astype(np.uint16)
        return numbers.astype(dtype)

    def assert_same_bits(self, left, right):
        self.assertEqual((left.dtype, left.shape), (right.dtype, right.shape))
        self.assertEqual(np.ascontiguousarray(left).tobytes(), np.ascontiguousarray(right).tobytes())

    def raises(self, kind, *words):
        """assertRaises that also holds the message to words, and the class to itself (no subclass)."""
        return _Raises(self, kind, words)

    def files(self):
        return sorted(path.name for path in self.folder.iterdir())


class _Raises:
    def __init__(self, test, kind, words):
        self.test, self.kind, self.words = test, kind, words

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self.test.assertIs(kind, self.kind, f"{kind}: {error}")
        for word in self.words:
            self.test.assertIn(word, str(error))
        self.error = error
        return True


def main():
    print(f"seed {SEED}")
    unittest.main()
