"""Element types: their numbers in a card and what they are in numpy."""

from __future__ import annotations

from typing import Any, Dict, Optional

import numpy as np

from .errors import InvalidArgumentError

F32, F16, BF16, BYTES = 0, 1, 30, 255

NAMES: Dict[int, str] = {0: "f32", 1: "f16", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 8: "q8_0", 20: "iq4_nl",
                         30: "bf16", 255: "bytes"}
NUMBERS: Dict[str, int] = {name: number for number, name in NAMES.items()}
STREAMS = ("key", "value", "latent", "opaque")
FLOATS = (F32, F16, BF16)


def _bfloat16() -> Optional[np.dtype[Any]]:
    """ml_dtypes' bfloat16, where that package is installed."""
    try:
        import ml_dtypes
    except ImportError:
        return None
    found: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return found


BFLOAT16 = _bfloat16()


def stream_number(stream: str) -> int:
    if stream not in STREAMS:
        raise InvalidArgumentError(f"no stream {stream!r}: it is one of {', '.join(STREAMS)}")
    return STREAMS.index(stream)


def numpy_dtype(number: int) -> np.dtype[Any]:
    """What a decoded array is made of. bf16 is ml_dtypes' where that is installed, else its bits as uint16."""
    if number == F32:
        return np.dtype(np.float32)
    if number == F16:
        return np.dtype(np.float16)
    return BFLOAT16 if BFLOAT16 is not None else np.dtype(np.uint16)


def float_number(dtype: Any) -> int:
    """f32, f16 or bf16 by its name or numpy type; uint16 means the bits of bf16."""
    if isinstance(dtype, str) and dtype in ("f32", "f16", "bf16"):
        return NUMBERS[dtype]
    if isinstance(dtype, str) and dtype == "bfloat16":
        return BF16
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found == np.dtype(np.float32):
        return F32
    if found == np.dtype(np.float16):
        return F16
    if found == np.dtype(np.uint16) or (BFLOAT16 is not None and found == BFLOAT16):
        return BF16
    raise InvalidArgumentError(f"no card value is of type {dtype!r}: use f32, f16 or bf16 (uint16 holds its bits)")
