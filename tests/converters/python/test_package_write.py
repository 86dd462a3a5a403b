"""Writing cards from arrays: what goes in comes out, and what cannot be is refused before the file is touched."""

import os

import numpy as np
import package_test

import cachecard
from cachecard import errors


class WriteCards(package_test.PackageTest):
    def test_whole_description_comes_back(self):
        keys, values = self.values(20, 2, 8, dtype=np.float16), self.values(20, 2, 8, dtype=np.float16)
        table = cachecard.RopeTable(np.array([1.0, 0.1, 0.01, 0.001]), "half_split", 0, 1.5)
        report = cachecard.write(
            self.path, {(0, "key"): keys, (0, "value"): values}, token_ids=range(100, 120),
            positions=np.arange(20) * 2, identity={"architecture": "llama", "vocab_size": 300}, layer_count=4,
            rope_state="post_rope", rope_pairing="half_split", rope_table=table, text="Schön", provenance="a test")
        with cachecard.open(self.path) as card:
            facts = card.facts
            self.assertEqual((facts.token_count, facts.layer_count, facts.next_position), (20, 4, 39))
            self.assertEqual((facts.file_size, facts.root), (os.path.getsize(self.path), report.root))
            self.assertEqual(report.value_count, 2 * 20 * 2 * 8)
            self.assertEqual(card.token_ids.tolist(), list(range(100, 120)))
            self.assertEqual(card.positions.tolist(), list(range(0, 40, 2)))
            self.assertEqual(dict(card.identity), {"architecture": "llama", "vocab_size": 300})
            self.assertEqual((card.text, card.provenance[0].text), ("Schön", "a test"))
            found = card.rope_table(3)
            self.assertEqual((found.pairing, found.magnitude, found.layer), ("half_split", 1.5, None))
            self.assertEqual(found.inverse_frequencies.tolist(), table.inverse_frequencies.tolist())
            key, value = card.streams
            self.assertEqual((key.rope_state, key.rope_pairing, key.dtype), ("post_rope", "half_split", "f16"))
            self.assertEqual((value.rope_state, value.rope_pairing), ("none", "none"))
            self.assert_same_bits(card.read(0, "key"), keys)

    def test_every_way_of_storing_holds_the_same_values(self):
        values = {(layer, kind): self.values(100, 2, 16) for layer in (0, 1) for kind in ("key", "value")}
        for options in ({}, {"compressor": "zstd"}, {"compressor": "split_zstd", "zstd_level": 1},
                        {"chunk_order": "span_major", "chunk_tokens": 32}, {"threads": 3, "chunk_tokens": 16}):
            with self.subTest(**options):
                cachecard.write(self.path, values, sync=False, **options)
                cachecard.verify(self.path, decode=True, threads=2)
                with cachecard.open(self.path) as card:
                    for (layer, kind), array in values.items():
                        self.assert_same_bits(card.read(layer, kind), array)

    def test_strided_arrays_are_taken_as_they_are(self):
        by_head = self.values(1, 3, 30, 8)
        cachecard.write(self.path, {(0, "key"): by_head[0].transpose(1, 0, 2)}, chunk_tokens=8)
        with cachecard.open(self.path) as card:
            self.assert_same_bits(card.read(0, "key"), by_head[0].transpose(1, 0, 2))

    def test_equal_input_gives_equal_bytes(self):
        writer = cachecard.Writer(layer_count=1)
        writer.add_stream(0, "key", self.values(30, 1, 8))
        writer.set_tokens(None, token_count=30)
        writer.write(self.path, chunk_tokens=8, threads=3)
        self.assertEqual(writer.to_bytes(chunk_tokens=8), self.path.read_bytes())

    def test_planes_keep_the_bits_that_were_asked_for(self):
        values = {(0, kind): self.values(90, 2, 64) for kind in ("key", "value")}
        errors_at = {}
        for bits in (2, 4, 8, (8, 2)):
            cachecard.write(self.path, values, codec="planes", bits=bits, exact_tokens=3, chunk_tokens=32)
            cachecard.verify(self.path, decode=True)
            with cachecard.open(self.path) as card:
                found = {kind: card.read(0, kind) for kind in ("key", "value")}
                widths = {kind: card.bit_widths(0, kind) for kind in ("key", "value")}
            key_bits, value_bits = (bits, bits) if isinstance(bits, int) else bits
            for kind, wanted in (("key", key_bits), ("value", value_bits)):
                self.assertTrue((widths[kind][:, 3:] == 2 * wanted).all() and (widths[kind][:, :3] == 64).all())
                self.assert_same_bits(found[kind][:3], values[0, kind][:3])
                difference = np.linalg.norm(found[kind] - values[0, kind]) / np.linalg.norm(values[0, kind])
                errors_at.setdefault(wanted, []).append(difference)
        self.assertLess(max(errors_at[8]), 0.02)
        self.assertLess(max(errors_at[4]), 0.2)
        self.assertLess(max(errors_at[8]) * 5, min(errors_at[4]))
        self.assertLess(max(errors_at[4]) * 2, min(errors_at[2]))

    def test_planes_take_bits_by_token(self):
        bits = np.stack([np.arange(20) % 9, np.full(20, 5)], axis=1)
        writer = cachecard.Writer(layer_count=1)
        writer.add_stream(0, "key", self.values(20, 1, 64))
        writer.add_stream(0, "value", self.values(20, 1, 64))
        writer.set_tokens(None, token_count=20)
        with cachecard.open(writer.to_bytes(coding=cachecard.Coding(codec="planes", token_bits=bits))) as card:
            key = card.bit_widths(0, "key")[0]
            self.assertEqual(key.tolist(), [64 if b == 0 else 2 * b for b in bits[:, 0]])
            self.assertEqual(set(card.bit_widths(0, "value")[0].tolist()), {10})
            self.assertEqual(card.bit_widths(0, "key", tokens=slice(8, 11)).tolist(), [[16, 64, 2]])
        for wrong in (bits[:19], bits + 0.5, bits + 1, bits[:, 0]):
            with self.raises(errors.InvalidArgumentError, "token_bits"):
                writer.to_bytes(codec="planes", token_bits=wrong)
        for wrong in (0, 9, (4, 0)):
            with self.raises(errors.InvalidArgumentError, "1 to 8"):
                writer.to_bytes(codec="planes", bits=wrong)
        with self.assertRaises(TypeError):
            writer.to_bytes(bitts=4)

    def test_planes_refuse_what_is_not_finite(self):
        array = self.values(20, 1, 64)
        array[7, 0, 3] = np.inf
        with self.raises(errors.NonFiniteError, "token 7"):
            cachecard.write(self.path, {(0, "key"): array}, codec="planes")
        self.assertEqual(self.files(), [])
        cachecard.write(self.path, {(0, "key"): array}, codec="planes", keep_nonfinite=True)
        with cachecard.open(self.path) as card:
            self.assert_same_bits(card.read(0, "key"), array)

    def test_windows_and_opaque_state(self):
        writer = cachecard.Writer(layer_count=3, restorable="from_count", restorable_from=40)
        array = self.values(15, 1, 8)
        writer.add_stream(1, "value", array, window=16, first_token=25)
        writer.add_stream(1, "key", array, window=16, first_token=25)
        writer.add_opaque(2, b"state" * 100)
        writer.set_tokens(range(40))
        with cachecard.open(writer.to_bytes()) as card:
            self.assertEqual((card.facts.restorable, card.facts.restorable_from), ("from_count", 40))
            self.assertEqual((card.stream(1, "key").window, card.stream(1, "key").first_token), (16, 25))
            self.assert_same_bits(card.read(1, "key"), array)
            self.assert_same_bits(card.read(1, "key", tokens=slice(30, 32)), array[5:7])
            self.assert_same_bits(card.read(1, "key", tokens=slice(None, 27)), array[:2])
            with self.raises(errors.InvalidArgumentError, "24"):
                card.read(1, "key", tokens=slice(24, 32))
            self.assertEqual(card.read_opaque(2), b"state" * 100)

    def test_values_fetched_while_writing(self):
        array = self.values(50, 2, 8, dtype=np.uint16)
        asked = []

        class Source:
            shape, dtype = (50, 2, 8), "bf16"

            def rows(self, first, count):
                asked.append((first, count))
                return array[first:first + count]

        writer = cachecard.Writer(layer_count=1)
        writer.add_stream(0, "key", Source())
        writer.set_tokens(None, token_count=50)
        writer.write(self.path, chunk_tokens=16)
        self.assertGreater(len(asked), 1)
        with cachecard.open(self.path) as card:
            self.assertEqual(card.stream(0, "key").dtype, "bf16")
            self.assert_same_bits(card.read(0, "key").view(np.uint16), array)

    def test_an_exception_of_the_source_comes_out_and_the_file_stays(self):
        class Source:
            shape, dtype = (4, 1, 8), "f32"

            def rows(self, first, count):
                raise KeyError("mine")

        self.path.write_bytes(b"before")
        writer = cachecard.Writer(layer_count=1)
        writer.add_stream(0, "key", Source())
        writer.set_tokens(range(4))
        with self.assertRaisesRegex(KeyError, "mine"):
            writer.write(self.path)
        Source.rows = lambda self, first, count: np.zeros((count, 2, 8), np.float32)
        with self.raises(errors.InvalidArgumentError, "rows() gave shape"):
            writer.write(self.path)
        self.assertEqual((self.path.read_bytes(), self.files()), (b"before", ["a.card"]))

    def test_an_existing_file_is_kept_when_asked(self):
        self.path.write_bytes(b"before")
        with self.raises(errors.CardIOError):
            cachecard.write(self.path, {(0, "key"): self.values(2, 1, 8)}, overwrite=False)
        self.assertEqual(self.path.read_bytes(), b"before")

    def test_descriptions_that_mean_nothing_are_refused(self):
        array = self.values(4, 1, 8)
        writer = cachecard.Writer(layer_count=1)
        for call, words in ((lambda: writer.add_stream(0, "keys", array), "'keys'"),
                            (lambda: writer.add_stream(0, "key", array[0]), "token, head, channel"),
                            (lambda: writer.add_stream(0, "key", array.astype(np.int32)), "int32"),
                            (lambda: writer.add_stream(0, "key", array, dtype="f16"), "float32"),
                            (lambda: writer.add_stream(0, "key", array, rope_state="rotated"), "post_rope"),
                            (lambda: writer.add_stream(0, "key", [1.0]), "numpy array"),
                            (lambda: writer.set_tokens([0.5]), "whole numbers"),
                            (lambda: writer.set_tokens([2**40]), "32 bits"),
                            (lambda: writer.set_tokens([1, 2], [1]), "differ"),
                            (lambda: cachecard.Writer(layer_count=1, restorable="some"), "any_prefix"),
                            (lambda: writer.write(self.path, compressor="gzip"), "split_zstd"),
                            (lambda: cachecard.write(self.path, {}), "needs values")):
            with self.subTest(words), self.raises(errors.InvalidArgumentError, words):
                call()
        writer.add_stream(0, "key", array)
        writer.set_tokens(range(3))
        with self.raises(errors.CorruptError):
            writer.write(self.path)
        self.assertEqual(self.files(), [])


if __name__ == "__main__":
    package_test.main()
