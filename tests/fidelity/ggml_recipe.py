"""What llama.cpp does to a quantised cache: Hadamard rotation by head, then ggml's blocks of 32.

source: ggml quantize_row_q8_0_ref and quantize_row_q4_0_ref; test_ggml_recipe.py holds this file to
libggml byte for byte, and to what a live q8_0 or q4_0 cache contains.
"""
import numpy as np

BLOCK = 32
BLOCK_BYTES = {"q8_0": 34, "q4_0": 18}
ROTATION_UNIT = 64  # llama.cpp rotates only heads that are a multiple of this wide


def rotation_size(head_dim, is_key):
    """Width of the Hadamard blocks; 1 where llama.cpp does not rotate."""
    if head_dim % ROTATION_UNIT:
        return 1
    return head_dim & -head_dim if is_key else ROTATION_UNIT


def rotate(rows, size):
    """Walsh-Hadamard over consecutive blocks of `size` channels, in f32; its own inverse."""
    if size == 1:
        return rows
    x = rows.reshape(-1, size) * np.float32(1 / np.sqrt(size))
    stride = 1
    while stride < size:
        pairs = x.reshape(-1, size // (2 * stride), 2, stride)
        x = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2)
        stride *= 2
    return x.reshape(rows.shape)


def quantise(rows, kind):
    """f32 rows, a multiple of 32 wide -> u8 [rows][bytes of a row]."""
    blocks = np.ascontiguousarray(rows, dtype=np.float32).reshape(-1, BLOCK)
    coded = {"q8_0": _to_q8_0, "q4_0": _to_q4_0}[kind](blocks)
    return coded.reshape(rows.shape[0], -1)


def dequantise(coded, kind):
    """The inverse of quantise, in f32."""
    blocks = coded.reshape(-1, BLOCK_BYTES[kind])
    scale = blocks[:, :2].copy().view("<f2").astype(np.float32)
    codes = blocks[:, 2:]
    if kind == "q8_0":
        values = codes.view(np.int8).astype(np.float32)
    else:
        values = np.concatenate([codes & 15, codes >> 4], axis=1).astype(np.float32) - 8
    return (values * scale).reshape(coded.shape[0], -1)


def _inverse(scale):
    with np.errstate(divide="ignore"):
        return np.where(scale != 0, np.float32(1) / scale, np.float32(0))


def _round_half_away(x):
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0).astype(np.float32)


def _to_q8_0(blocks):
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    codes = _round_half_away(blocks * _inverse(scale)).astype(np.int8)
    return np.concatenate([scale.astype("<f2").view(np.uint8), codes.view(np.uint8)], axis=1)


def _to_q4_0(blocks):
    extreme = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    scale = (extreme + np.float32(0)) / np.float32(-8)  # ggml starts at +0, so a block of -0 has scale -0
    codes = np.minimum(15, (blocks * _inverse(scale) + np.float32(8.5)).astype(np.int8)).astype(np.uint8)
    return np.concatenate([scale.astype("<f2").view(np.uint8), codes[:, :16] | codes[:, 16:] << 4], axis=1)
