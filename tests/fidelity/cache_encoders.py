"""Each row's encoding: from the exact f16 state to a state file that decodes to what the row would give back."""
import os
import re
from dataclasses import dataclass

import ggml_recipe
import kivi_recipe
import numpy as np
from fidelity_error import FOREIGN, FidelityError


@dataclass(frozen=True)
class Exact:
    """One text's exact cache and what its encoders need besides."""
    path: str
    state: object      # SequenceState
    weights: object    # [layer x KV head][token], what the sender's last queries look at; None where no row asks
    kv_heads: int
    model_path: str
    command: object    # CardCommand
    folder: str        # for files that do not outlive the text
    seed: int


@dataclass(frozen=True)
class Carried:
    """A disturbed cache, as a state file to put back."""
    path: str
    file_bytes: int            # of the encoded file, everything counted
    peak_memory_bytes: int | None = None  # of the encoding command, where there is one


def encode(row, exact):
    try:
        return ENCODERS[row.encoder](row, exact)
    except FidelityError as error:
        raise FidelityError(error.code, f"row {row.name}: {error}") from error


def one_ulp_noise(rows, generator):
    """Every f16 one step up or down in magnitude; zero becomes the smallest subnormal of either sign."""
    bits = rows.view(np.uint16)
    up = generator.integers(0, 2, rows.shape, dtype=np.uint8).astype(bool)
    magnitude, sign = bits & np.uint16(0x7FFF), bits & np.uint16(0x8000)
    moved = np.where(up, np.minimum(magnitude + np.uint16(1), np.uint16(0x7BFF)), magnitude - np.uint16(1))
    moved = np.where(magnitude == 0, np.uint16(1), moved).astype(np.uint16)
    sign = np.where(magnitude == 0, up.astype(np.uint16) << np.uint16(15), sign)
    return (moved | sign).astype(np.uint16).view(np.float16)


def _written(exact, keys, values, file_bytes):
    path = os.path.join(exact.folder, "carried.seq")
    with open(path, "wb") as file:
        file.write(exact.state.with_values(keys, values))
    return Carried(path, file_bytes)


def _sides(exact):
    state = exact.state
    return [state.f16(tensor) for tensor in state.keys], [state.f16(tensor) for tensor in state.values]


def _noise(_row, exact):
    generator = np.random.default_rng(exact.seed)
    keys, values = ([one_ulp_noise(rows, generator) for rows in side] for side in _sides(exact))
    return _written(exact, keys, values, len(exact.state.data))


def _ggml(row, exact):
    """As a llama.cpp state file of that type would hold it."""
    def through(rows, is_key):
        nonlocal coded_bytes
        head_dim = rows.shape[1] // exact.kv_heads
        size = ggml_recipe.rotation_size(head_dim, is_key) if row.options == "rotated" else 1
        coded = ggml_recipe.quantise(ggml_recipe.rotate(rows.astype(np.float32), size), row.codec)
        coded_bytes += coded.size
        return ggml_recipe.rotate(ggml_recipe.dequantise(coded, row.codec), size).astype(np.float16)

    coded_bytes = exact.state.frame_bytes
    keys, values = _sides(exact)
    keys, values = [through(rows, True) for rows in keys], [through(rows, False) for rows in values]
    return _written(exact, keys, values, coded_bytes)


def _kivi(row, exact):
    """KIVI has no file: its codes, scales, zeros and window in the frame of a llama.cpp state file."""
    bits = int(re.match(r"\d+", row.options)[0])
    keys, values = _sides(exact)
    if len(keys[0]) <= kivi_recipe.EXACT_TOKENS:
        raise FidelityError(FOREIGN, f"a context of {len(keys[0])} tokens is all window")
    keys = [kivi_recipe.encode_keys(rows, bits) for rows in keys]
    values = [kivi_recipe.encode_values(rows, bits) for rows in values]
    size = exact.state.frame_bytes + sum(count for _, count in keys + values)
    return _written(exact, [rows for rows, _ in keys], [rows for rows, _ in values], size)


def _weights_argument(row, exact):
    """A file of token weights for the CLI: the sender's, or the same in another order of tokens."""
    if not row.weights:
        return []
    weights = exact.weights
    if row.weights == "shuffled":
        weights = np.random.default_rng(exact.seed).permuted(weights, axis=1)
    path = os.path.join(exact.folder, "weights.npy")
    np.save(path, weights)
    return ["--weights", path]


def _card(row, exact):
    card, back = (os.path.join(exact.folder, name) for name in ("carried.card", "carried.seq"))
    for path in (card, back):
        if os.path.exists(path):
            os.unlink(path)
    peak = exact.command.encode(exact.path, card, exact.model_path, row.arguments + _weights_argument(row, exact))
    exact.command.decode(card, back)
    return Carried(back, os.path.getsize(card), peak)


ENCODERS = {"noise": _noise, "ggml": _ggml, "kivi": _kivi, "card": _card}
