"""Writing: a card from arrays."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, replace
from typing import Any, Dict, List, Mapping, Optional, Protocol, Tuple, Union

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import _dtypes
from ._coding import Coding, name_index
from ._input import Path
from ._library import (ALL_LAYERS, READ_OPAQUE, READ_ROWS, WRITE, Callbacks, OutputStruct, RopeTableStruct,
                       StreamStruct, Threads, ValuesStruct, WriteOptions, WriteReportStruct, WriterFacts, call,
                       encode_path, lib)
from .errors import DeviceError, InvalidArgumentError
from .facts import PAIRINGS, RESTORABLE, ROPE_STATES, RopeTable
from .identity import CValues, Identity, Value



@dataclass(frozen=True)
class WriteReport:
    """What was written. root: digest over the whole card."""

    file_size: int
    value_count: int
    root: bytes


class RowSource(Protocol):
    """Values that are fetched while the card is written (from a GPU, say)."""

    @property
    def shape(self) -> Tuple[int, int, int]:
        """token, head, channel"""

    @property
    def dtype(self) -> str:
        """f32, f16 or bf16"""

    def rows(self, first: int, count: int) -> NDArray[Any]:
        """array[token, head, channel] of `count` tokens from the source's own `first` on; bf16 as uint16"""


class _ArraySource:
    """An array as a RowSource."""

    def __init__(self, values: Any, dtype: Optional[str]) -> None:
        if not isinstance(values, np.ndarray):
            device = getattr(values, "__dlpack_device__", None)
            if callable(device) and device()[0] != 1:
                raise DeviceError("the values lie on another device: copy them to the CPU, or use cachecard.hf")
            raise InvalidArgumentError(f"values must be a numpy array, not {type(values).__name__}")
        if values.ndim != 3:
            raise InvalidArgumentError(f"values must be array[token, head, channel], not of shape {values.shape}")
        number = _dtypes.float_number(values.dtype)
        if dtype is not None and _dtypes.float_number(dtype) != number:
            raise InvalidArgumentError(f"values are {values.dtype}, dtype is {dtype}")
        self.values, self.dtype = values, _dtypes.NAMES[number]
        self.shape: Tuple[int, int, int] = (values.shape[0], values.shape[1], values.shape[2])

    def rows(self, first: int, count: int) -> NDArray[Any]:
        return self.values[first:first + count]


class Writer:
    """The description of a card: streams, identity, tokens; then write() or to_bytes(), as often as wanted.

    layer_count:   layers of the model, also those of which the card holds nothing
    next_position: position of the token that would follow; None: the last position plus one
    restorable:    any_prefix, whole_only or from_count (then restorable_from tokens at least)
    """

    def __init__(self, *, layer_count: int, next_position: Optional[int] = None, restorable: str = "any_prefix",
                 restorable_from: int = 0, not_a_prefix: bool = False, partial_layers: bool = False) -> None:
        self.layer_count, self.next_position = layer_count, next_position
        self.restorable, self.restorable_from = name_index(RESTORABLE, restorable, "restorable"), restorable_from
        self.flags = (1 if not_a_prefix else 0) | (2 if partial_layers else 0)
        self.identity = Identity()
        self.text = ""
        self.rope_table: Optional[RopeTable] = None
        self._streams: List[StreamStruct] = []
        self._sources: Dict[Tuple[int, int], RowSource] = {}
        self._opaque: Dict[int, bytes] = {}
        self._token_count = 0
        self._ids: Optional[NDArray[np.int32]] = None
        self._positions: Optional[NDArray[np.int32]] = None

    def add_stream(self, layer: int, stream: str, values: Union[NDArray[Any], RowSource], *,
                   dtype: Optional[str] = None, rope_state: str = "none", rope_pairing: str = "none",
                   window: int = 0, first_token: int = 0) -> None:
        """Adds values[token, head, channel] of one stream. They are read when the card is written.

        dtype:  f32, f16 or bf16, where the array's own type leaves a doubt (uint16 is the bits of bf16)
        window: tokens of a sliding window, 0 for full attention
        first_token: the card's token that values[0] belongs to
        """
        has_rows = hasattr(values, "rows") and not isinstance(values, np.ndarray)
        source: RowSource = values if has_rows else _ArraySource(values, dtype)  # type: ignore[assignment]
        kind = _dtypes.stream_number(stream)
        if kind == 3:
            raise InvalidArgumentError("opaque state is bytes: add_opaque")
        tokens, heads, channels = source.shape
        self._streams.append(StreamStruct(
            layer=layer, stream=kind, dtype=_dtypes.NUMBERS[source.dtype],
            rope_state=name_index(ROPE_STATES, rope_state, "rope_state"),
            rope_pairing=name_index(PAIRINGS, rope_pairing, "rope_pairing"), kv_head_count=heads, head_dim=channels,
            hadamard_size=1, window=window, first_token=first_token, token_count=tokens))
        self._sources[layer, kind] = source

    def add_opaque(self, layer: int, state: bytes) -> None:
        """Adds a layer's opaque state, which is carried as it is."""
        self._streams.append(StreamStruct(layer=layer, stream=3, dtype=_dtypes.BYTES, hadamard_size=1,
                                          opaque_size=len(state)))
        self._opaque[layer] = bytes(state)

    def set_tokens(self, token_ids: Optional[ArrayLike], positions: Optional[ArrayLike] = None, *,
                   token_count: Optional[int] = None) -> None:
        """The card's tokens, in position order. token_ids None: not known; positions None: 0, 1, 2, ..."""
        self._ids = _numbers(token_ids, "token_ids")
        self._positions = _numbers(positions, "positions")
        counts = {len(a) for a in (self._ids, self._positions) if a is not None}
        counts |= {token_count} if token_count is not None else set()
        if len(counts) > 1:
            raise InvalidArgumentError(f"token_ids, positions and token_count differ: {sorted(counts)}")
        self._token_count = counts.pop() if counts else 0

    def write(self, path: Path, *, overwrite: bool = True, sync: bool = True, threads: int = 1,
              coding: Optional[Coding] = None, **options: Any) -> WriteReport:
        """Writes the card: a temporary file beside path, renamed when all is there.

        overwrite: False: a file that exists is CardIOError
        sync:      False: no fsync, so a power cut may lose the card
        threads:   that read and code chunks
        coding:    how values are kept; or its fields by name: codec="planes", bits=(4, 3), ...
        Raises: CardIOError; CorruptError, BadSizeError, ... for a description that contradicts itself;
                NonFiniteError (planes, entropy); ModelMismatchError, GeometryMismatchError (of a profile)
        """
        with _coding(coding, options).c_options(self._token_count, self.layer_count) as made:
            made.flags |= (0 if overwrite else 1) | (0 if sync else 2)
            return self._write("ccd_writer_write_file", encode_path(path), threads, made)

    def to_bytes(self, *, threads: int = 1, coding: Optional[Coding] = None, **options: Any) -> bytes:
        """The card as bytes. Arguments and errors as in write()."""
        card = bytearray()
        callbacks = Callbacks()
        output = OutputStruct(write=callbacks.guard(
            WRITE, lambda _user, data, size: card.extend(ctypes.string_at(data, size))))
        with _coding(coding, options).c_options(self._token_count, self.layer_count) as made:
            self._write("ccd_writer_write_to", ctypes.byref(output), threads, made, callbacks)
        return bytes(card)

    def _write(self, name: str, where: Any, threads: int, options: WriteOptions,
               callbacks: Optional[Callbacks] = None) -> WriteReport:
        callbacks = callbacks if callbacks is not None else Callbacks()
        values = ValuesStruct(read_rows=callbacks.guard(READ_ROWS, self._read_rows),
                              read_opaque=callbacks.guard(READ_OPAQUE, self._read_opaque))
        report, pool, handle = WriteReportStruct(), Threads(threads), self._describe()
        options.parallel = pool.struct
        try:
            callbacks.call(name, handle, where, ctypes.byref(values), ctypes.byref(options), ctypes.byref(report))
        finally:
            lib.ccd_writer_destroy(handle)
            pool.close()
        return WriteReport(report.file_size, report.value_count, bytes(report.root))

    def _describe(self) -> ctypes.c_void_p:
        """The C writer of this description; the caller destroys it."""
        following = self.next_position
        if following is None:
            following = self._token_count
            if self._positions is not None and len(self._positions):
                following = int(self._positions[-1]) + 1
        facts = WriterFacts(flags=self.flags, layer_count=self.layer_count, restorable=self.restorable,
                            restorable_from=self.restorable_from, next_position=following)
        handle = ctypes.c_void_p()
        call("ccd_writer_create", ctypes.byref(facts), ctypes.byref(handle))
        try:
            for stream in self._streams:
                call("ccd_writer_add_stream", handle, ctypes.byref(stream))
            identity = CValues(self.identity)
            for index in range(identity.count):
                call("ccd_writer_set_identity", handle, ctypes.byref(identity.array[index]))
            call("ccd_writer_set_tokens", handle, _pointer(self._ids), _pointer(self._positions), self._token_count)
            if self.text:
                text = self.text.encode()
                call("ccd_writer_set_text", handle, text, len(text))
            if self.rope_table is not None:
                _set_rope_table(handle, self.rope_table)
        except BaseException:
            lib.ccd_writer_destroy(handle)
            raise
        return handle

    def _read_rows(self, _user: int, layer: int, kind: int, first: int, count: int, out: int, size: int) -> None:
        source = self._sources[layer, kind]
        stream = next(s for s in self._streams if s.layer == layer and s.stream == kind)
        rows = source.rows(first - stream.first_token, count)
        _, heads, channels = source.shape
        if rows.shape != (count, heads, channels):
            raise InvalidArgumentError(f"rows() gave shape {rows.shape}, wanted {(count, heads, channels)}")
        memory = (ctypes.c_uint8 * size).from_address(out)
        target = np.frombuffer(memoryview(memory), rows.dtype).reshape(rows.shape)
        np.copyto(target, rows, casting="no")

    def _read_opaque(self, _user: int, layer: int, offset: int, out: int, size: int) -> None:
        ctypes.memmove(out, self._opaque[layer][offset:offset + size], size)


def write(path: Path, values: Mapping[Tuple[int, str], NDArray[Any]], *, token_ids: Optional[ArrayLike] = None,
          positions: Optional[ArrayLike] = None, identity: Optional[Mapping[str, Value]] = None,
          layer_count: Optional[int] = None, rope_state: str = "none", rope_pairing: str = "none",
          rope_table: Optional[RopeTable] = None, text: str = "", **options: Any) -> WriteReport:
    """Writes a card of plain attention layers: values[layer, "key" | "value"] is array[token, head, channel].

    rope_state, rope_pairing: of the keys
    layer_count: layers of the model; None: one more than the highest layer of values
    options:     those of Writer.write()
    """
    if not values:
        raise InvalidArgumentError("a card needs values")
    count = layer_count if layer_count is not None else 1 + max(layer for layer, _ in values)
    writer = Writer(layer_count=count)
    for (layer, stream), array in values.items():
        rotated = stream == "key"
        writer.add_stream(layer, stream, array, rope_state=rope_state if rotated else "none",
                          rope_pairing=rope_pairing if rotated else "none")
    writer.set_tokens(token_ids, positions, token_count=max(len(array) for array in values.values()))
    writer.identity.update(identity or {})
    writer.rope_table, writer.text = rope_table, text
    return writer.write(path, **options)


def _coding(coding: Optional[Coding], options: Mapping[str, Any]) -> Coding:
    """Coding as a whole or by its fields."""
    if coding is None:
        return Coding(**options)
    return replace(coding, **options)


def _numbers(values: Optional[ArrayLike], what: str) -> Optional[NDArray[np.int32]]:
    if values is None:
        return None
    array = np.asarray(values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InvalidArgumentError(f"{what} must be a list of whole numbers, not {array.dtype} of shape {array.shape}")
    if array.size and not (-2**31 <= array.min() and array.max() < 2**31):
        raise InvalidArgumentError(f"{what} must fit 32 bits")
    return np.ascontiguousarray(array, np.int32)


def _pointer(array: Optional[NDArray[np.int32]]) -> Any:
    return None if array is None else array.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))


def _set_rope_table(handle: ctypes.c_void_p, table: RopeTable) -> None:
    if table.layer is not None:
        raise InvalidArgumentError("a written RoPE table holds for all layers")
    numbers = np.ascontiguousarray(table.inverse_frequencies, np.float64)
    facts = RopeTableStruct(layer=ALL_LAYERS, pairing=name_index(PAIRINGS, table.pairing, "pairing"),
                            rotated_offset=table.rotated_offset, pair_count=numbers.size, magnitude=table.magnitude)
    call("ccd_writer_set_rope_table", handle, ctypes.byref(facts),
         numbers.ctypes.data_as(ctypes.POINTER(ctypes.c_double)))
