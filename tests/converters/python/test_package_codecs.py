"""The lossy codecs' settings: what they do to a card, and which are refused."""

import re

import cachecard
import numpy as np
import package_test
from cachecard import errors

PROFILE = package_test.FIXTURES / "profiles" / "smollm2-135m.profile"
LAYERS, HEADS, DIM, TOKENS = 30, 3, 64, 96


class Codecs(package_test.PackageTest):
    def small(self, tokens=200):
        return {(layer, kind): self.values(tokens, 2, 64) for layer in (0, 1) for kind in ("key", "value")}

    def like_smollm2(self, tokens=TOKENS, size=1):
        """Values of SmolLM2-135M's shape, and what the profile says of its model."""
        values = {(layer, kind): self.values(tokens, HEADS, DIM, dtype=np.float16) * np.float16(size)
                  for layer in range(LAYERS) for kind in ("key", "value")}
        frequencies = 1e5 ** (-np.arange(0, DIM, 2) / DIM)
        with cachecard.open(PROFILE) as profile:
            return values, {"identity": profile.identity, "rope_state": "post_rope", "rope_pairing": "half_split",
                            "rope_table": cachecard.RopeTable(frequencies, "half_split", 0, 1.0, None)}

    def widths(self, layer, stream):
        with cachecard.open(self.path) as card:
            return card.bit_widths(layer, stream).astype(int)

    def test_entropy_meets_its_bits(self):
        values, sizes = self.small(600), {}
        for bits in (2, 3.5, 5):
            report = cachecard.write(self.path, values, codec="entropy", bits=bits, queries="none")
            sizes[bits] = 8 * report.file_size / report.value_count
            cachecard.verify(self.path, decode=True)
        for bits, found in sizes.items():
            self.assertLess(abs(found / bits - 1), 0.02, sizes)
        with cachecard.open(self.path) as card:
            kept = card.read(0, "key")
        self.assertLess(np.linalg.norm(kept - values[0, "key"]) / np.linalg.norm(values[0, "key"]), 0.055)  # four exact tokens of 600 take a tenth of a bit of the others

    def test_entropy_stays_within_its_bytes(self):
        values = self.small(600)
        for most in (60_000, np.int64(100_000)):
            report = cachecard.write(self.path, values, codec="entropy", file_bytes=most)
            self.assertEqual(report.file_size, self.path.stat().st_size)
            self.assertLessEqual(report.file_size, most)
            self.assertGreater(report.file_size, 0.995 * most)
        before = self.path.read_bytes()
        with self.raises(errors.InvalidArgumentError, "the smallest card takes ") as caught:
            cachecard.write(self.path, values, codec="entropy", file_bytes=500)
        self.assertEqual((caught.error.field, self.path.read_bytes()), ("file_bytes", before))
        least = int(re.search(r"smallest card takes (\d+)", str(caught.error))[1])
        self.assertLessEqual(cachecard.write(self.path, values, codec="entropy", file_bytes=least).file_size, least)

    def test_equal_input_gives_equal_bytes(self):
        values, options = self.like_smollm2()
        one = cachecard.write(self.path, values, codec="entropy", bits=1.5, profile=PROFILE, **options)
        two = cachecard.write(self.path, values, codec="entropy", bits=1.5, profile=PROFILE.read_bytes(), threads=3, **options)
        with cachecard.open(PROFILE) as profile:
            three = cachecard.write(self.path, values, codec="entropy", bits=1.5, profile=profile, **options)
            self.assertEqual(profile.facts.token_count, 0)  # the caller's card stays open
        self.assertEqual(one.root, two.root)
        self.assertEqual(one.root, three.root)

    def test_token_weights(self):
        values = self.small()
        weights = np.ones((2, 2, 200))
        weights[1, 0, 150:160] = 300
        for given in (weights, weights.reshape(4, 200), weights.astype(np.float32).tolist()):
            cachecard.write(self.path, values, codec="entropy", bits=4, token_weights=given)
            for stream in ("key", "value"):
                found = self.widths(1, stream)
                self.assertGreater(found[0, 155], found[0, 149])
                self.assertEqual(found[1, 155], found[1, 149])
                self.assertEqual(set(self.widths(0, stream)[0, 140:170]), {self.widths(0, stream)[0, 150]})
        cachecard.write(self.path, values, codec="entropy", bits=4, token_weights=weights[1, 0])
        self.assertGreater(self.widths(0, "key")[1, 155], self.widths(0, "key")[1, 149])

    def test_queries(self):
        values, options = self.like_smollm2(400, size=4)
        roots = {}
        for queries in (None, "newest", "centroids", "recency", "none", "both"):
            roots[queries] = cachecard.write(self.path, values, codec="entropy", bits=2, profile=PROFILE, queries=queries,
                                             **options).root
        self.assertEqual(roots[None], roots["both"])
        self.assertEqual(len(set(roots.values())), 5)
        recent = cachecard.write(self.path, values, codec="entropy", bits=2, **options).root
        self.assertNotEqual(recent, roots["recency"])  # without a profile heads weigh alike
        with self.raises(errors.InvalidArgumentError, "need a model profile"):
            cachecard.write(self.path, values, codec="entropy", queries="newest")

    def test_a_profile_shares_the_bits_of_planes(self):
        values, options = self.like_smollm2()
        cachecard.write(self.path, values, codec="planes", bits=(4, 3), profile=PROFILE, **options)
        bits = np.array([[self.widths(layer, kind)[0, 50] / 2 for kind in ("key", "value")] for layer in range(LAYERS)])
        self.assertGreater(len(set(bits.ravel())), 1)
        self.assertLessEqual(bits.mean(), 3.5)
        self.assertGreater(bits.mean(), 3.4)

    def test_bits_by_layer(self):
        cachecard.write(self.path, self.small(), codec="planes", layer_bits=[[5, 2], [3, 8]], newest_tokens=2)
        self.assertEqual([self.widths(layer, kind)[0, 100] for layer in (0, 1) for kind in ("key", "value")], [10, 4, 6, 16])
        self.assertEqual(self.widths(0, "key")[0, -1], 12)
        token_bits = np.full((200, 2), (4, 3))
        token_bits[70] += 1
        cachecard.write(self.path, self.small(), codec="planes", layer_bits=np.array([[5, 2], [3, 7]]), token_bits=token_bits)
        self.assertEqual([self.widths(1, "key")[0, 70], self.widths(1, "key")[0, 71]], [8, 6])

    def test_exact_tokens_of_entropy(self):
        values = self.small()
        cachecard.write(self.path, values, codec="entropy", bits=4, exact_tokens=2)
        with cachecard.open(self.path) as card:
            self.assert_same_bits(card.read(0, "key", tokens=slice(0, 2)), values[0, "key"][:2])

    def test_refusals_leave_the_file_as_it_was(self):
        values, options = self.like_smollm2()
        self.path.write_bytes(b"before")
        cases = (({"codec": "entropie"}, "exact, planes, entropy"),
                 ({"codec": "entropy", "bits": (4, 3)}, "one number"),
                 ({"codec": "entropy", "bits": 0.01}, "0.05 to 4096"),
                 ({"codec": "entropy", "bits": float("nan")}, "0.05 to 4096"),
                 ({"codec": "entropy", "bits": 2, "file_bytes": 90_000}, "give one of them"),
                 ({"codec": "entropy", "file_bytes": 0}, "1 or more"),
                 ({"codec": "entropy", "file_bytes": 1.5e6}, "number of bytes"),
                 ({"codec": "planes", "file_bytes": 90_000}, "for codec entropy"),
                 ({"file_bytes": 90_000}, "for codec entropy"),
                 ({"codec": "planes", "bits": 1.2}, "1 to 8"),
                 ({"bits": 4}, "planes or entropy"),
                 ({"codec": "entropy", "queries": "mine"}, "newest, centroids"),
                 ({"codec": "entropy", "token_weights": np.ones(TOKENS - 1)}, f"of {TOKENS} tokens"),
                 ({"codec": "entropy", "token_weights": np.ones((7, TOKENS))}, f"{LAYERS * HEADS} rows"),
                 ({"codec": "entropy", "token_weights": [["a"] * TOKENS]}, "numbers"),
                 ({"codec": "entropy", "token_weights": np.full(TOKENS, np.nan)}, "row 0, token 0"),
                 ({"codec": "entropy", "token_weights": np.ones(TOKENS), "queries": "none"}, "leave queries"),
                 ({"codec": "entropy", "token_bits": np.ones((TOKENS, 2), int)}, "for planes"),
                 ({"codec": "entropy", "newest_tokens": -1}, "number of tokens"),
                 ({"codec": "planes", "token_weights": np.ones(TOKENS)}, "for entropy"),
                 ({"codec": "planes", "layer_bits": np.ones((LAYERS - 1, 2), int)}, f"array[{LAYERS}, 2]"),
                 ({"codec": "planes", "layer_bits": np.zeros((LAYERS, 2), int)}, "1 to 8"),
                 ({"codec": "planes", "layer_bits": np.ones((LAYERS, 2), int), "profile": PROFILE}, "leave layer_bits"),
                 ({"profile": PROFILE}, "for planes and entropy"))
        for wrong, words in cases:
            with self.subTest(**wrong), self.raises(errors.InvalidArgumentError, words):
                cachecard.write(self.path, values, **wrong, **options)
        self.assertEqual((self.path.read_bytes(), self.files()), (b"before", ["a.card"]))

    def test_profiles_that_do_not_fit(self):
        values, options = self.like_smollm2()
        write = dict(codec="entropy", **options)
        with self.raises(errors.CardIOError, "profile: "):
            cachecard.write(self.path, values, profile=self.folder / "none", **write)
        with self.raises(errors.BadMagicError, "profile: "):
            cachecard.write(self.path, values, profile=b"no card" * 100, **write)
        with self.raises(errors.InvalidArgumentError, "profile: "):
            cachecard.write(self.path, values, profile=package_test.FIXTURES / "valid" / "denormal_f16.card", **write)
        write["identity"] = {"architecture": "llama", "model_name": "other"}
        with self.raises(errors.ModelMismatchError, "'other'"):
            cachecard.write(self.path, values, profile=PROFILE, **write)
        with cachecard.open(PROFILE) as profile:
            closed = profile
        with self.raises(errors.InvalidArgumentError, "closed"):
            cachecard.write(self.path, values, profile=closed, **write)
        self.assertEqual(self.files(), [])


if __name__ == "__main__":
    package_test.main()
