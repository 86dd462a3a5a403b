"""How a card keeps its values: codec and settings, as the library takes them."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Iterator, List, Optional, Sequence, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._input import Buffer, Path
from ._library import WriteOptions
from .card import Card
from .errors import CardError, InvalidArgumentError

CODECS = ("exact", "planes", "entropy")
CODEC_NUMBERS = (0, 2, 3)
COMPRESSORS = ("none", "zstd", "split_zstd")
CHUNK_ORDERS = ("layer_major", "span_major")
QUERIES = ("newest", "centroids", "recency", "none", "both")  # the library's numbers begin at 1; 0: the best at hand


@dataclass(frozen=True)
class Coding:
    """How a card keeps its values. Spec: CODECS.md

    codec:        exact (raw), planes or entropy, which are lossy
    bits:         planes: bits a value of keys and values, 1 to 8; one number for both; None: (4, 3). entropy: the mean
                  bits a value of the whole file, 0.05 to 4,096; None: 2
    file_bytes:   entropy: the most bytes that the whole card may take, in place of bits; None: by bits. Too few for any card
                  are InvalidArgumentError, which names the smallest card's size
    exact_tokens: first tokens that stay as they are; None: 4, of entropy at few bits kept at 8 bits instead
    newest_tokens: last tokens that get a bit more (planes) or half the steps (entropy)
    profile:      planes, entropy: model profile, made by `cachecard calibrate`: a path, bytes or an open Card. entropy's
                  steps go by head, channel and token by it; planes' layers share bits by it
    token_weights: entropy: how much each token counts, from 0 on: array[token], or one row for each layer's KV head:
                  array[layer x head, token] or array[layer, head, token]
    queries:      entropy, without token_weights: whose look at the tokens counts: newest (the newest tokens' queries,
                  estimated by the profile), centroids (what queries of the model look like), both of them together, recency or none; None: both
                  with a profile, else recency
    layer_bits:   planes: array[layer, 2], bits of each layer's keys and values, 1 to 8; in place of bits
    token_bits:   planes: array[token, 2], bits of each token's key and value, 0 for exact; in place of bits and exact_tokens.
                  Beside layer_bits a token gets its layer's, plus what its own are above bits
    keep_nonfinite: planes, entropy: keep chunks with NaN or infinite values exact; else NonFiniteError
    compressor:   none, zstd or split_zstd, of chunks
    chunk_tokens: tokens in a chunk; 0: 2,048
    chunk_order:  layer_major or span_major
    provenance:   what was done, with which options; no path belongs in it
    """

    codec: str = "exact"
    bits: Union[None, int, float, Tuple[int, int]] = None
    file_bytes: Optional[int] = None
    exact_tokens: Optional[int] = None
    newest_tokens: int = 0
    profile: Union[None, Path, Buffer, Card] = None
    token_weights: Optional[ArrayLike] = None
    queries: Optional[str] = None
    layer_bits: Optional[ArrayLike] = None
    token_bits: Optional[ArrayLike] = None
    keep_nonfinite: bool = False
    compressor: str = "none"
    zstd_level: int = 3
    chunk_tokens: int = 0
    chunk_order: str = "layer_major"
    provenance: str = ""

    @contextmanager
    def c_options(self, token_count: int, layer_count: int) -> Iterator[WriteOptions]:
        """The library's struct, good inside the block: what it points to lives as long."""
        made = WriteOptions(
            flags=8 if self.keep_nonfinite else 0, codec=CODEC_NUMBERS[name_index(CODECS, self.codec, "codec")],
            compressor=name_index(COMPRESSORS, self.compressor, "compressor"), zstd_level=self.zstd_level,
            chunk_order=name_index(CHUNK_ORDERS, self.chunk_order, "chunk_order"), chunk_tokens=self.chunk_tokens,
            provenance=self.provenance.encode(), newest_tokens=_count(self.newest_tokens, "newest_tokens"),
            queries=0 if self.queries is None else 1 + name_index(QUERIES, self.queries, "queries"))
        if self.exact_tokens is not None:
            made.flags |= 4
            made.exact_tokens = _count(self.exact_tokens, "exact_tokens")
        self._set_bits(made)
        if self.file_bytes is not None:
            made.file_bytes = self._checked_bytes(self.file_bytes)
        kept: List[NDArray[Any]] = []
        if self.token_bits is not None:
            kept.append(_bit_pairs(self.token_bits, token_count, "token_bits", least=0))
            made.token_bits = kept[-1].ctypes.data
        if self.layer_bits is not None:
            kept.append(_bit_pairs(self.layer_bits, layer_count, "layer_bits", least=1))
            made.layer_bits = kept[-1].ctypes.data
        if self.token_weights is not None:
            kept.append(_weights(self.token_weights, token_count))
            made.token_weights, made.weight_count = kept[-1].ctypes.data, kept[-1].size
        if self.profile is None or isinstance(self.profile, Card):
            made.profile = None if self.profile is None else self.profile.handle
            yield made
            return
        with _open_profile(self.profile) as profile:
            made.profile = profile.handle
            yield made

    def _checked_bytes(self, size: int) -> int:
        if isinstance(size, bool) or not isinstance(size, (int, np.integer)) or not 1 <= size < 2**63:
            raise InvalidArgumentError(f"file_bytes is a number of bytes, 1 or more, not {size!r}")
        if self.codec != "entropy":
            raise InvalidArgumentError("file_bytes are for codec entropy")
        if self.bits is not None:
            raise InvalidArgumentError("file_bytes are in place of bits: give one of them")
        return int(size)

    def _set_bits(self, made: WriteOptions) -> None:
        if self.codec == "entropy":
            if self.bits is None:
                return
            number = isinstance(self.bits, (int, float)) and not isinstance(self.bits, bool)
            if not (number and 0.05 <= self.bits <= 4096):  # type: ignore[operator]
                raise InvalidArgumentError(f"bits of entropy are one number, 0.05 to 4096, not {self.bits}")
            made.bits = self.bits
            return
        if self.codec == "exact" and self.bits is not None:
            raise InvalidArgumentError("bits are for codec planes or entropy")
        bits = (4, 3) if self.bits is None else self.bits
        pair = (bits, bits) if isinstance(bits, (int, float)) else tuple(bits)
        if len(pair) != 2 or not all(isinstance(b, (int, np.integer)) and 1 <= b <= 8 for b in pair):
            raise InvalidArgumentError(f"bits are 1 to 8, not {self.bits}")
        made.key_bits, made.value_bits = int(pair[0]), int(pair[1])


def name_index(names: Sequence[str], name: str, what: str) -> int:
    if name not in names:
        raise InvalidArgumentError(f"{what} is one of {', '.join(names)}, not {name!r}")
    return names.index(name)


def _count(value: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= value < 2**63:
        raise InvalidArgumentError(f"{what} is a number of tokens, not {value!r}")
    return int(value)


def _bit_pairs(values: ArrayLike, count: int, what: str, least: int) -> NDArray[np.uint8]:
    bits = np.asarray(values)
    if bits.shape != (count, 2) or bits.dtype.kind not in "iu" or (bits < least).any() or (bits > 8).any():
        raise InvalidArgumentError(f"{what} must be array[{count}, 2] of whole numbers, {least} to 8")
    return np.ascontiguousarray(bits, np.uint8)


def _weights(values: ArrayLike, token_count: int) -> NDArray[np.float32]:
    """array[row, token]; how many rows there must be the library knows."""
    weights = np.asarray(values)
    if weights.ndim not in (1, 2, 3) or weights.dtype.kind not in "fiu" or weights.shape[-1] != token_count:
        raise InvalidArgumentError(f"token_weights must be numbers [token] or [layer x head, token] of {token_count} tokens, "
                                   f"not {weights.dtype} of shape {weights.shape}")
    return np.ascontiguousarray(weights, np.float32)


def _open_profile(profile: Any) -> Card:
    try:
        return Card(profile)
    except CardError as error:
        raise type(error)(f"profile: {error}", offset=error.offset, field=error.field) from None
