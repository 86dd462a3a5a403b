"""Reading cards into numpy: whole, in part, into memory of any strides, and damaged ones."""

import csv
import json
import subprocess
import threading

import numpy as np
import package_test
from package_test import CLI, FIXTURES

import cachecard
from cachecard import errors


class ReadCards(package_test.PackageTest):
    def card_of(self, values, **options):
        cachecard.write(self.path, values, **options)
        return cachecard.open(self.path)

    def test_facts_agree_with_the_command(self):
        for name in ("raw_f16", "raw_f32_zstd"):
            path = FIXTURES / "valid" / f"{name}.card"
            shown = json.loads(subprocess.run([CLI, "inspect", path, "--json"], capture_output=True, check=True).stdout)
            with cachecard.open(path) as card:
                facts = card.inspect()
            self.assertEqual(json.loads(json.dumps(facts)), facts)
            streams = facts.pop("streams")
            for key in set(facts) & set(shown):
                self.assertEqual(facts[key], shown[key], key)
            self.assertGreaterEqual(len(set(facts) & set(shown)), 12)
            rows = [{**row, "layer": layer} for row in shown["streams"] for layer in row["layers"]]
            self.assertEqual(len(rows), len(streams))
            for row in rows:
                mine = next(s for s in streams if (s["layer"], s["stream"]) == (row["layer"], row["stream"]))
                self.assertEqual({k: row[k] for k in mine if k in row}, {k: v for k, v in mine.items() if k in row})

    def test_every_valid_fixture_reads(self):
        cards = sorted((FIXTURES / "valid").glob("*.card"))
        self.assertGreater(len(cards), 80)
        for path in cards:
            with self.subTest(path.name), cachecard.open(path) as card:
                for stream in card.streams:
                    if stream.stream == "opaque":
                        self.assertEqual(len(card.read_opaque(stream.layer)), stream.opaque_size)
                        continue
                    shape = (stream.token_count, stream.kv_head_count, stream.head_dim)
                    self.assertEqual(card.read(stream.layer, stream.stream).shape, shape)
                    self.assertEqual(card.bit_widths(stream.layer, stream.stream).shape, shape[1::-1])
                self.assertEqual(len(card.positions), card.facts.token_count)
                self.assertIsInstance(card.text, str)
                self.assertEqual(cachecard.verify(path, decode=True).root, card.facts.root)

    def test_every_invalid_fixture_raises_the_class_of_its_code(self):
        with open(FIXTURES / "MANIFEST.csv", newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["class"].startswith("invalid")]
        self.assertGreater(len(rows), 300)
        for row in rows:
            with self.subTest(row["file"]):
                data = (FIXTURES / row["file"]).read_bytes()
                with self.assertRaises(cachecard.CardError) as caught:
                    cachecard.verify(data, decode=True)
                self.assertEqual(caught.exception.name, row["expect"])
                self.assertIs(type(caught.exception), errors.BY_CODE[caught.exception.code])
                if row["offset"]:
                    self.assertEqual(caught.exception.offset, int(row["offset"]))

    def test_values_come_back_bit_for_bit(self):
        for dtype in (np.float32, np.float16, np.uint16):
            values = {(layer, kind): self.values(70, 3, 32, dtype=dtype) for layer in (0, 1) for kind in ("key", "value")}
            with self.card_of(values, chunk_tokens=16) as card:
                for (layer, kind), array in values.items():
                    back = card.read(layer, kind)
                    self.assert_same_bits(back.view(dtype), array)

    def test_part_of_the_tokens(self):
        array = self.values(70, 2, 8)
        with self.card_of({(0, "key"): array}, chunk_tokens=16) as card:
            for tokens in (slice(0, 70), slice(15, 17), slice(60, None), slice(None, 3), slice(-5, None), slice(9, 9),
                           slice(40, 12)):
                self.assert_same_bits(card.read(0, "key", tokens=tokens), array[tokens])
            with self.raises(errors.InvalidArgumentError, "step 1"):
                card.read(0, "key", tokens=slice(0, 10, 2))

    def test_decodes_into_given_memory(self):
        array = self.values(50, 2, 8)
        with self.card_of({(0, "key"): array}) as card:
            by_head = np.full((2, 50, 8), 7, np.float32)
            out = by_head.transpose(1, 0, 2)
            self.assertIs(card.read(0, "key", out=out), out)
            self.assert_same_bits(by_head, np.ascontiguousarray(array.transpose(1, 0, 2)))
            backwards = np.empty((50, 2, 8), np.float32)[::-1, :, ::-1]
            card.read(0, "key", out=backwards)
            self.assertTrue(np.array_equal(backwards, array))
            wide = np.zeros((50, 2, 16), np.float32)
            card.read(0, "key", out=wide[:, :, ::2])
            self.assertTrue(np.array_equal(wide[:, :, ::2], array))
            self.assertFalse(wide[:, :, 1::2].any())

    def test_refuses_memory_that_does_not_fit(self):
        with self.card_of({(0, "key"): self.values(5, 2, 8)}) as card:
            with self.raises(errors.InvalidArgumentError, "shape"):
                card.read(0, "key", out=np.empty((5, 8, 2), np.float32))
            with self.raises(errors.InvalidArgumentError, "float64"):
                card.read(0, "key", out=np.empty((5, 2, 8)))
            with self.raises(errors.InvalidArgumentError, "numpy array"):
                card.read(0, "key", out=[])
            fixed = np.zeros((5, 2, 8), np.float32)
            fixed.flags.writeable = False
            with self.raises(errors.InvalidArgumentError, "read-only"):
                card.read(0, "key", out=fixed)
            with self.raises(errors.DeviceError, "another device"):
                card.read(0, "key", out=OnGpu())
            with self.raises(errors.InvalidArgumentError, "float32"):
                card.read(0, "key", out=np.empty((5, 2, 8), np.float32), dtype="f16")

    def test_converts_between_float_types(self):
        array = self.values(40, 2, 8)
        with self.card_of({(0, "key"): array, (0, "value"): array.astype(np.float16)}) as card:
            self.assert_same_bits(card.read(0, "key", dtype=np.float16), array.astype(np.float16))
            self.assert_same_bits(card.read(0, "value", dtype="f32"), array.astype(np.float16).astype(np.float32))
            bits = card.read(0, "key", dtype=np.uint16)
            self.assertLess(np.abs((bits.astype(np.uint32) << 16).view(np.float32) - array).max(), 0.02)
            with self.raises(errors.InvalidArgumentError, "f32, f16 or bf16"):
                card.read(0, "key", dtype=np.int8)

    def test_quantised_blocks_decode_as_ggml_says(self):
        path = FIXTURES / "valid" / "ggml_q8_0.card"
        with cachecard.open(path) as card:
            stream = next(s for s in card.streams if s.dtype == "q8_0" and s.hadamard_size == 1)
            blocks = card.read_rows(stream.layer, stream.stream).reshape(-1, 34)
            scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
            expected = scales * blocks[:, 2:].view(np.int8).astype(np.float32)
            self.assertTrue(np.array_equal(card.read(stream.layer, stream.stream).reshape(-1, 32), expected))
            self.assertTrue((card.bit_widths(stream.layer, stream.stream) == 17).all())

    def test_rotation_is_undone_unless_told(self):
        with cachecard.open(FIXTURES / "valid" / "ggml_q8_0_rotated.card") as card:
            stream = next(s for s in card.streams if s.hadamard_size > 1)
            kept = card.read(stream.layer, stream.stream, keep_rotation=True)
            plain = card.read(stream.layer, stream.stream)
            blocks = card.read_rows(stream.layer, stream.stream).reshape(-1, 34)
        scales = blocks[:, :2].copy().view(np.float16).astype(np.float32)
        self.assertTrue(np.array_equal(kept.reshape(-1, 32), scales * blocks[:, 2:].view(np.int8).astype(np.float32)))
        hadamard = np.ones((1, 1), np.float32)
        while len(hadamard) < stream.hadamard_size:
            hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
        turned = kept.reshape(-1, stream.hadamard_size) @ hadamard / np.sqrt(stream.hadamard_size)
        self.assertTrue(np.allclose(plain.reshape(turned.shape), turned, rtol=1e-4, atol=1e-4))
        self.assertFalse(np.allclose(plain, kept, rtol=0.1))

    def test_a_stream_that_ends_early_says_where(self):
        writer = cachecard.Writer(layer_count=1)
        array = self.values(10, 1, 8)
        writer.add_stream(0, "key", array)
        writer.set_tokens(None, token_count=12)
        with cachecard.open(writer.to_bytes()) as card:
            self.assert_same_bits(card.read(0, "key", tokens=slice(4, None)), array[4:])

    def test_opens_bytes_in_place_and_maps_files(self):
        array = self.values(9, 1, 4)
        self.card_of({(0, "key"): array}).close()
        data = self.path.read_bytes()
        for source in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
            with cachecard.open(source) as card:
                self.assert_same_bits(card.read(0, "key"), array)
        with cachecard.open(str(self.path), mmap=True) as card:
            self.assert_same_bits(card.read(0, "key"), array)
        for nothing in (b"", bytearray()):
            with self.raises(errors.TruncatedError):
                cachecard.open(nothing)

    def test_threads_decode_the_same(self):
        array = self.values(300, 2, 16)
        self.card_of({(0, "key"): array}, chunk_tokens=32).close()
        with cachecard.open(self.path, threads=4) as card:
            wrong = []
            readers = [threading.Thread(target=lambda: np.array_equal(card.read(0, "key"), array) or wrong.append(1))
                       for _ in range(4)]
            for reader in readers:
                reader.start()
            for reader in readers:
                reader.join()
            self.assertEqual(wrong, [])

    def test_a_closed_card_says_so(self):
        card = self.card_of({(0, "key"): self.values(2, 1, 4)})
        card.close()
        card.close()
        self.assertIn("closed", repr(card))
        with self.raises(errors.InvalidArgumentError, "closed"):
            card.read(0, "key")

    def test_missing_things_are_named(self):
        with self.card_of({(0, "key"): self.values(2, 1, 4)}) as card:
            with self.raises(errors.InvalidArgumentError, "value stream of layer 0"):
                card.read(0, "value")
            with self.raises(errors.InvalidArgumentError, "'keys'"):
                card.read(0, "keys")
            with self.raises(errors.TokensUnknownError):
                card.token_ids
            self.assertIsNone(card.rope_table(0))
        with self.raises(errors.CardIOError, "No such file"):
            cachecard.open(self.folder / "none.card")
        with self.assertRaises(OSError):
            cachecard.verify(self.folder / "none.card")
        with self.assertRaises(ValueError):
            cachecard.open("a\0b")

    def test_a_flipped_byte_is_found_where_it_matters(self):
        self.card_of({(0, "key"): self.values(64, 2, 8), (0, "value"): self.values(64, 2, 8)}).close()
        data = bytearray(self.path.read_bytes())
        with cachecard.open(bytes(data)) as card:
            at = data.find(card.read_rows(0, "value")[10].tobytes())
        data[at] ^= 1
        with cachecard.open(data) as card:
            card.read(0, "key")
            with self.raises(errors.ChecksumMismatchError, "chunk") as raised:
                card.read(0, "value")
        self.assertIsInstance(raised.error, errors.DamagedError)
        self.assertEqual((raised.error.code, raised.error.field), (22, "frame_header.stored_digest"))
        self.assertLess(raised.error.offset, at)


class OnGpu:
    """Memory elsewhere, as DLPack says it (2: CUDA)."""

    def __dlpack_device__(self):
        return 2, 0


if __name__ == "__main__":
    package_test.main()
