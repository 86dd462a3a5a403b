"""The peers' recipes: ggml's blocks byte for byte as libggml makes them, KIVI's and the noise's bounds."""
import ctypes
import unittest

import cache_encoders
import ggml_recipe
import kivi_recipe
import llama_runtime
import numpy as np
from llama_runtime import api

SEED = 11
print(f"test_cache_recipes: seed {SEED}")
GGML_TYPES = {"q8_0": 8, "q4_0": 2}


def libggml_quantise(rows, kind):
    """ggml_quantize_chunk of the library that runs the model."""
    quantise = llama_runtime.api._lib.ggml_quantize_chunk
    quantise.restype = ctypes.c_size_t
    quantise.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64,
                         ctypes.c_int64, ctypes.c_void_p]
    rows = np.ascontiguousarray(rows, dtype=np.float32)
    out = np.zeros((rows.shape[0], rows.shape[1] // 32 * ggml_recipe.BLOCK_BYTES[kind]), dtype=np.uint8)
    size = quantise(GGML_TYPES[kind], rows.ctypes.data, out.ctypes.data, 0, *rows.shape, None)
    assert size == out.size
    return out


def hard_rows():
    """Ordinary values, and what goes wrong at the edges of a recipe."""
    generator = np.random.default_rng(SEED)
    rows = generator.normal(0, 1, (4000, 192)) * np.exp(generator.normal(0, 3, (4000, 1)))
    rows[:20] = 0
    rows[20:40] = 0.25                                     # constant, ties of the extreme
    rows[40:80] = generator.integers(-8, 8, (40, 192))     # exact halves and ties of either sign
    rows[80:120] = generator.integers(-126, 127, (40, 192)) + 0.5
    rows[80:120, ::32] = 127                               # q8_0: a scale of 1, so every code is a tie
    rows[120:140] *= 1e-7                                  # scales that are subnormal in f16
    rows[140:160, ::32] = 1e4                              # one outlier a block
    rows[160:180] = -0.0
    return rows.astype(np.float32)


class Ggml(unittest.TestCase):
    def test_blocks_are_libggmls_byte_for_byte(self):
        rows = hard_rows()
        for kind in GGML_TYPES:
            with self.subTest(kind):
                differing = np.count_nonzero(ggml_recipe.quantise(rows, kind) != libggml_quantise(rows, kind))
                self.assertEqual(differing, 0)

    def test_decoded_values_are_libggmls(self):
        rows = hard_rows()[200:]
        for kind, function in (("q8_0", "dequantize_row_q8_0"), ("q4_0", "dequantize_row_q4_0")):
            with self.subTest(kind):
                coded = libggml_quantise(rows, kind)
                out = np.empty(rows.shape, dtype=np.float32)
                decode = getattr(api._lib, function)
                decode.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64]
                decode.restype = None
                decode(coded.ctypes.data, out.ctypes.data, out.size)
                np.testing.assert_array_equal(ggml_recipe.dequantise(coded, kind), out)

    def test_rotation_is_its_own_inverse_and_keeps_lengths(self):
        rows = hard_rows()[200:, :128]
        for size in (1, 64, 128):
            with self.subTest(size):
                turned = ggml_recipe.rotate(rows, size)
                np.testing.assert_allclose(ggml_recipe.rotate(turned, size), rows, rtol=0, atol=np.abs(rows).max() * 1e-5)
                np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(rows, axis=1), rtol=1e-5)

    def test_rotation_is_sylvesters_matrix_by_blocks(self):
        matrix = np.ones((1, 1))
        while len(matrix) < 64:
            matrix = np.block([[matrix, matrix], [matrix, -matrix]])
        rows = np.random.default_rng(SEED).normal(0, 1, (50, 192)).astype(np.float32)
        expected = (rows.reshape(50, 3, 64).astype(np.float64) @ (matrix / 8)).reshape(50, 192)
        np.testing.assert_allclose(ggml_recipe.rotate(rows, 64), expected, atol=1e-5)

    def test_which_heads_llama_cpp_rotates(self):
        sizes = [(dim, ggml_recipe.rotation_size(dim, True), ggml_recipe.rotation_size(dim, False))
                 for dim in (64, 80, 96, 128, 192, 256)]
        self.assertEqual(sizes, [(64, 64, 64), (80, 1, 1), (96, 1, 1), (128, 128, 64), (192, 64, 64), (256, 256, 64)])


class Kivi(unittest.TestCase):
    def setUp(self):
        self.rows = np.random.default_rng(SEED).normal(0, 2, (1000, 192)).astype(np.float16)

    def test_newest_32_tokens_are_exact_and_counted(self):
        for encode in (kivi_recipe.encode_keys, kivi_recipe.encode_values):
            rows, size = encode(self.rows, 2)
            np.testing.assert_array_equal(rows[-32:], self.rows[-32:])
            self.assertTrue((rows[:-32] != self.rows[:-32]).any(axis=1).all())
            self.assertAlmostEqual(8 * size / self.rows.size, (968 * 3 + 32 * 16) / 1000, 1)

    def test_bytes_are_codes_scales_zeros_and_window(self):
        codes, window = 968 * 192 * 2 // 8, 32 * 192 * 2
        self.assertEqual(kivi_recipe.encode_values(self.rows, 2)[1], codes + 968 * 6 * 4 + window)
        self.assertEqual(kivi_recipe.encode_keys(self.rows, 2)[1], codes + 31 * 192 * 4 + window)  # the last group: 8 tokens

    def test_error_is_at_most_half_a_step_of_its_group(self):
        for bits in (2, 4):
            for encode, rows in ((kivi_recipe.encode_keys, self.rows), (kivi_recipe.encode_values, self.rows)):
                error = np.abs(encode(rows, bits)[0][:-32].astype(np.float32) - rows[:-32].astype(np.float32))
                groups = rows[:960].astype(np.float32)
                groups = groups.reshape(30, 32, 192) if encode is kivi_recipe.encode_keys else groups.reshape(960, 6, 32)
                axis = 1 if encode is kivi_recipe.encode_keys else 2
                step = (groups.max(axis=axis, keepdims=True) - groups.min(axis=axis, keepdims=True)) / (2 ** bits - 1)
                bound = step * (0.5 + 2 ** bits * 2.0 ** -10) + 1e-3  # f16 scale, zero and result
                self.assertTrue((error[:960].reshape(groups.shape) <= bound).all())
                self.assertGreater(error.max(), 0.4 * step.max())

    def test_constant_groups_stay_constant(self):
        rows = np.full((100, 64), 1.5, dtype=np.float16)
        np.testing.assert_array_equal(kivi_recipe.encode_keys(rows, 2)[0], rows)


class Noise(unittest.TestCase):
    def test_every_value_moves_by_one_step(self):
        rows = np.random.default_rng(SEED).normal(0, 1, (200, 64)).astype(np.float16)
        rows[0] = [0, -0.0] * 16 + [65504, -65504] * 16
        moved = cache_encoders.one_ulp_noise(rows, np.random.default_rng(SEED))
        steps = (moved.view(np.int16) & 0x7FFF).astype(int) - (rows.view(np.int16) & 0x7FFF)
        self.assertLessEqual(set(steps[0, 32:]), {-1, 0})  # the largest finite value has no step up
        steps[0, 32:] = -1
        self.assertEqual(set(np.unique(steps)), {-1, 1})
        self.assertTrue(np.isfinite(moved).all())
        self.assertGreater((steps == 1).mean(), 0.45)
        self.assertGreater((steps == -1).mean(), 0.45)


if __name__ == "__main__":
    unittest.main()
