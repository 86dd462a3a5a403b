"""KIVI (arXiv 2402.02750): asymmetric uniform codes, K by channel over tokens, V by token over channels.

Groups of 32 with an f16 scale and an f16 zero; the newest 32 tokens stay as they are. K's last group
may be shorter, so that exactly 32 tokens are exact on both sides.
"""
import numpy as np

GROUP = 32
EXACT_TOKENS = 32
GROUP_BYTES = 4


def encode_keys(rows, bits):
    """f16 rows as they decode, and the bytes that they take."""
    old = rows[:-EXACT_TOKENS].astype(np.float32)
    parts = [_through(old[at:at + GROUP], bits, axis=0) for at in range(0, len(old), GROUP)]
    return _with_window(parts, rows), _bytes(old.size, len(parts) * rows.shape[1], rows, bits)


def encode_values(rows, bits):
    old = rows[:-EXACT_TOKENS].astype(np.float32)
    width = rows.shape[1]
    parts = [_through(old[:, at:at + GROUP], bits, axis=1) for at in range(0, width, GROUP)]
    return _with_window([np.concatenate(parts, axis=1)], rows), _bytes(old.size, len(parts) * len(old), rows, bits)


def _through(group, bits, axis):
    """Encoded and decoded; scale and zero as f16 on both sides."""
    low, high = group.min(axis=axis, keepdims=True), group.max(axis=axis, keepdims=True)
    zero = low.astype(np.float16).astype(np.float32)
    scale = ((high - low) / (2 ** bits - 1)).astype(np.float16).astype(np.float32)
    codes = np.divide(group - zero, scale, out=np.zeros_like(group), where=scale > 0)
    return np.clip(np.rint(codes), 0, 2 ** bits - 1) * scale + zero


def _with_window(parts, rows):
    return np.concatenate([*(part.astype(np.float16) for part in parts), rows[-EXACT_TOKENS:]])


def _bytes(value_count, group_count, rows, bits):
    window = rows[-EXACT_TOKENS:].size * 2
    return (value_count * bits + 7) // 8 + group_count * GROUP_BYTES + window
