"""Reading: a card that is open, and what it says."""

from __future__ import annotations

import ctypes
from types import TracebackType
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Tuple, Type, Union, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from . import _dtypes
from ._input import Buffer, Input, Path, open_options
from ._library import (ALL_LAYERS, FactsStruct, FieldVerdictStruct, ProvenanceStruct, RopeTableStruct, StreamStruct,
                       TargetStruct, Threads, VerifyReportStruct, call, lib)
from .errors import CardError, DeviceError, IdentityUnknownError, InvalidArgumentError
from .facts import (OPERATIONS, PAIRINGS, RESTORABLE, ROPE_STATES, Facts, FieldVerdict, ProvenanceStep, RopeTable,
                    Stream, VerifyReport)
from .identity import CValues, Identity, Value, field_name, value_of


class Card:
    """A card that is open: a context manager. Values are checked by digest as they are read.

    Any number of threads may read one card at once; close() comes after all of them.
    """

    def __init__(self, source: Union[Path, Buffer], *, threads: int = 1, mmap: bool = False) -> None:
        self._handle = ctypes.c_void_p()
        self._threads = Threads(threads)
        self._input = Input(source)
        name = "ccd_open_file" if self._input.path is not None else "ccd_open_bytes"
        try:
            call(name, *self._input.arguments(), ctypes.byref(open_options(self._threads, mmap)),
                 ctypes.byref(self._handle))
        except CardError:
            self._threads.close()
            raise
        self._facts = self._read_facts()
        self._streams = tuple(self._read_stream(i) for i in range(self._facts.stream_count))
        self._by_name = {(s.layer, s.stream): s for s in self._streams}

    # ---- life ----

    def close(self) -> None:
        """Lets go of the file or the bytes. Reading afterwards is InvalidArgumentError."""
        handle, self._handle = getattr(self, "_handle", None), ctypes.c_void_p()
        if handle:
            lib.ccd_close(handle)
            self._threads.close()

    def __enter__(self) -> "Card":
        return self

    def __exit__(self, kind: Optional[Type[BaseException]], error: Optional[BaseException],
                 trace: Optional[TracebackType]) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "" if self._handle else ", closed"
        return (f"<cachecard.Card: {self._facts.token_count} tokens, {self._facts.layer_count} layers, "
                f"{self._facts.file_size} bytes{state}>")

    @property
    def handle(self) -> ctypes.c_void_p:
        """The library's own ccd_card, good until close()."""
        if not self._handle:
            raise InvalidArgumentError("the card is closed")
        return self._handle

    def _call(self, name: str, *arguments: Any) -> None:
        call(name, self.handle, *arguments)

    # ---- facts ----

    def _read_facts(self) -> Facts:
        c = FactsStruct()
        self._call("ccd_card_get_facts", ctypes.byref(c))
        return Facts(c.format_major, c.format_minor, c.token_count, c.next_position, c.layer_count,
                     bool(c.flags & 1), bool(c.flags & 2), bool(c.flags & 4), RESTORABLE[c.restorable],
                     c.restorable_from, c.stream_count, c.segment_count, c.value_count, c.opaque_size, c.file_size,
                     bytes(c.root))

    def _read_stream(self, index: int) -> Stream:
        c = StreamStruct()
        self._call("ccd_card_get_stream", index, ctypes.byref(c))
        return Stream(c.layer, _dtypes.STREAMS[c.stream], _dtypes.NAMES[c.dtype], ROPE_STATES[c.rope_state],
                      PAIRINGS[c.rope_pairing], c.kv_head_count, c.head_dim, c.hadamard_size, c.window,
                      c.first_token, c.token_count, c.row_size, c.opaque_size)

    @property
    def facts(self) -> Facts:
        return self._facts

    @property
    def streams(self) -> Tuple[Stream, ...]:
        """All streams, ascending by (layer, kind)."""
        return self._streams

    def stream(self, layer: int, stream: str) -> Stream:
        """One stream. Raises InvalidArgumentError where the card has no such."""
        _dtypes.stream_number(stream)
        found = self._by_name.get((layer, stream))
        if found is None:
            raise InvalidArgumentError(f"the card has no {stream} stream of layer {layer}")
        return found

    @property
    def identity(self) -> Identity:
        """What the card says of its model: a copy, yours to change."""
        identity = Identity()
        field, kind, size = ctypes.c_uint32(), ctypes.c_uint32(), ctypes.c_size_t()
        count = FactsStruct()
        self._call("ccd_card_get_facts", ctypes.byref(count))
        for index in range(count.identity_count):
            self._call("ccd_card_get_identity_id", index, ctypes.byref(field))
            data = self._bytes("ccd_card_get_identity", field, ctypes.byref(kind), size=size)
            identity[field_name(field.value)] = value_of(kind.value, data)
        return identity

    def _bytes(self, name: str, *arguments: Any, size: Optional[ctypes.c_size_t] = None) -> bytes:
        """An array of bytes by the header's rule for arrays: ask, then take."""
        count = size if size is not None else ctypes.c_size_t()
        self._call(name, *arguments, None, 0, ctypes.byref(count))
        buffer = ctypes.create_string_buffer(max(1, count.value))
        self._call(name, *arguments, buffer, len(buffer), ctypes.byref(count))
        return buffer.raw[:count.value]

    def _tokens(self, name: str) -> NDArray[np.int32]:
        out = np.empty(self._facts.token_count, np.int32)
        pointer = out.ctypes.data_as(ctypes.POINTER(ctypes.c_int32))
        self._call(name, pointer, out.size, None)
        return out

    @property
    def token_ids(self) -> NDArray[np.int32]:
        """Token ids. Raises TokensUnknownError where the card holds none."""
        return self._tokens("ccd_card_get_token_ids")

    @property
    def positions(self) -> NDArray[np.int32]:
        """The model's position of each token; they need not begin at 0 or be dense."""
        return self._tokens("ccd_card_get_positions")

    @property
    def text(self) -> str:
        """What the tokens were made from; "" where the card does not say."""
        return self._bytes("ccd_card_get_text").decode()

    @property
    def provenance(self) -> Tuple[ProvenanceStep, ...]:
        count = ctypes.c_uint32()
        self._call("ccd_card_get_provenance_count", ctypes.byref(count))
        steps = []
        for index in range(count.value):
            c = ProvenanceStruct()
            text = self._bytes("ccd_card_get_provenance", index, ctypes.byref(c)).decode()
            steps.append(ProvenanceStep(OPERATIONS[c.operation], text, c.hop, c.time, bytes(c.parent_root)))
        return tuple(steps)

    def rope_table(self, layer: int) -> Optional[RopeTable]:
        """How a layer's keys are rotated, None where the card does not say."""
        c, count = RopeTableStruct(), ctypes.c_size_t()
        try:
            self._call("ccd_card_get_rope_table", layer, ctypes.byref(c), None, 0, ctypes.byref(count))
        except IdentityUnknownError:
            return None
        numbers = np.empty(count.value, np.float64)
        self._call("ccd_card_get_rope_table", layer, ctypes.byref(c), numbers.ctypes.data, numbers.size, None)
        only = None if c.layer == ALL_LAYERS else c.layer
        return RopeTable(numbers, PAIRINGS[c.pairing], c.rotated_offset, c.magnitude, only)

    def bit_widths(self, layer: int, stream: str, tokens: Optional[slice] = None) -> NDArray[np.uint16]:
        """How finely each token is kept: [head, token], in half bits a value (32 is f16, 17 is q8_0)."""
        found = self.stream(layer, stream)
        first, count = token_span(found, tokens, self._facts.token_count)
        out = np.empty((found.kv_head_count, count), np.uint16)
        for head in range(found.kv_head_count):
            row = out[head].ctypes.data_as(ctypes.POINTER(ctypes.c_uint16))
            self._call("ccd_card_get_bit_widths", layer, _dtypes.stream_number(stream), head, first, count, row)
        return out

    # ---- values ----

    def read(self, layer: int, stream: str, *, tokens: Optional[slice] = None, dtype: Optional[DTypeLike] = None,
             out: Optional[NDArray[Any]] = None, keep_rotation: bool = False) -> NDArray[Any]:
        """Decodes values of one stream: array[token, head, channel].

        tokens: slice of the card's tokens, step 1; None: all that the stream holds
        dtype:  f32, f16 or bf16; None: as stored, f32 for quantised streams. bf16 comes as ml_dtypes.bfloat16
                where that is installed, else as its bits in uint16
        out:    an array of that shape, with any strides, which is filled in place: nothing is copied twice.
                On failure it holds anything
        keep_rotation: leave Hadamard-rotated values as the source stored them
        Raises: InvalidArgumentError (no such stream or tokens, a wrong out); what reading finds damaged
        """
        found = self.stream(layer, stream)
        first, count = token_span(found, tokens, self._facts.token_count)
        shape = (count, found.kv_head_count, found.head_dim)
        if out is None:
            out = np.empty(shape, self._array_dtype(found, dtype))
        check_out(out, shape)
        number = _dtypes.float_number(out.dtype)
        if dtype is not None and number != _dtypes.float_number(dtype):
            raise InvalidArgumentError(f"out is {out.dtype}, dtype is {dtype}")
        self.decode(layer, stream, first, count, out.ctypes.data, number, out.strides, keep_rotation)
        return out

    @staticmethod
    def _array_dtype(stream: Stream, dtype: Optional[DTypeLike]) -> np.dtype[Any]:
        if dtype is not None:
            number = _dtypes.float_number(dtype)
            return np.dtype(np.uint16) if dtype is np.uint16 else _dtypes.numpy_dtype(number)
        stored = _dtypes.NUMBERS[stream.dtype]
        return _dtypes.numpy_dtype(stored if stored in _dtypes.FLOATS else _dtypes.F32)

    def decode(self, layer: int, stream: str, first_token: int, token_count: int, pointer: int, dtype: int,
               strides: Sequence[int], keep_rotation: bool = False, *, rope_pairing: str = "none",
               finite: bool = False) -> None:
        """read() into any memory: a data_ptr of a CPU tensor, say. The caller answers for pointer and strides.

        dtype: number of f32 (0), f16 (1) or bf16 (30); strides: bytes from token to token, head to head, channel
        to channel
        rope_pairing: which channels of a key shall form pairs: interleaved or half_split; none: as stored
        finite: NaN and infinities in that type are NonFiniteError
        """
        if rope_pairing not in PAIRINGS:
            raise InvalidArgumentError(f"rope_pairing is one of {', '.join(PAIRINGS)}, not {rope_pairing!r}")
        target = TargetStruct(dtype=dtype, flags=(1 if keep_rotation else 0) | (2 if finite else 0), base=pointer or None,
                              token_stride=strides[0], head_stride=strides[1], channel_stride=strides[2],
                              rope_pairing=PAIRINGS.index(rope_pairing))
        self._call("ccd_card_decode", layer, _dtypes.stream_number(stream), first_token, token_count,
                   ctypes.byref(target))

    def check_other_sections(self, token_count: int) -> None:
        """Checks all that decoding the first tokens of every stream does not: whoever does both has checked the card without
        reading it twice. Raises what is wrong with a damaged card"""
        self._call("ccd_card_check_other_sections", token_count)

    def read_rows(self, layer: int, stream: str, *, tokens: Optional[slice] = None) -> NDArray[np.uint8]:
        """Rows as the source stored them, blocks and rotation included: array[token, row_size]."""
        found = self.stream(layer, stream)
        first, count = token_span(found, tokens, self._facts.token_count)
        out = np.empty((count, found.row_size), np.uint8)
        self._call("ccd_card_read_rows", layer, _dtypes.stream_number(stream), first, count,
                   out.ctypes.data if count else None, out.nbytes)
        return out

    def read_opaque(self, layer: int) -> bytes:
        """A layer's opaque state."""
        found = self.stream(layer, "opaque")
        buffer = ctypes.create_string_buffer(found.opaque_size)
        self._call("ccd_card_read_opaque", layer, 0, buffer, found.opaque_size)
        return buffer.raw

    # ---- matching ----

    def match(self, identity: Mapping[str, Value], *, allow: Sequence[str] = ()) -> Tuple[FieldVerdict, ...]:
        """Compares the card's model with another, field by field. Spec: COMPATIBILITY.md#identity

        allow: names of overrides, e.g. "weights-quantization"; each lifts one verdict
        Raises: ModelMismatchError or IdentityUnknownError, the first refusal; error.verdicts holds them all
        """
        values = CValues(identity)
        names = (ctypes.c_char_p * max(1, len(allow)))(*[name.encode() for name in allow])
        verdicts, count = (FieldVerdictStruct * 64)(), ctypes.c_size_t()

        def found() -> Tuple[FieldVerdict, ...]:
            return tuple(
                FieldVerdict(field_name(v.field_id), cast(bytes, lib.ccd_verdict_name(v.verdict)).decode(),
                             bool(v.overridden), v.override_name.decode() if v.override_name else None)
                for v in verdicts[:count.value])

        try:
            self._call("ccd_card_match", values.array, values.count, names, len(allow), verdicts, len(verdicts),
                       ctypes.byref(count))
        except CardError as error:
            error.verdicts = found()  # type: ignore[attr-defined]
            raise
        return found()

    # ---- for people ----

    def inspect(self) -> Dict[str, Any]:
        """What the card says, as plain values that json.dumps takes; names as in `cachecard inspect --json`, but that
        every stream has a row of its own."""
        facts = self._facts
        flags = [name for name in ("not_a_prefix", "partial_layers", "tokens_unknown") if getattr(facts, name)]
        return {
            "format_version": f"{facts.format_major}.{facts.format_minor}", "root": facts.root.hex(),
            "file_bytes": facts.file_size, "token_count": facts.token_count, "next_position": facts.next_position,
            "layer_count": facts.layer_count, "restorable": facts.restorable,
            "restorable_from": facts.restorable_from, "flags": flags, "value_count": facts.value_count,
            "opaque_bytes": facts.opaque_size,
            "identity": {name: value.hex() if isinstance(value, bytes) else value
                         for name, value in self.identity.items()},
            "streams": [dict(vars(stream)) for stream in self._streams],
            "provenance": [{**vars(step), "parent_root": step.parent_root.hex()} for step in self.provenance],
        }


def token_span(stream: Stream, tokens: Optional[slice], token_count: int) -> Tuple[int, int]:
    """First token and count that a slice of the card's tokens means; its open ends are the stream's own."""
    first, end = stream.first_token, stream.first_token + stream.token_count
    if tokens is None:
        return first, stream.token_count
    if tokens.step not in (None, 1):
        raise InvalidArgumentError("tokens must be a slice of step 1")
    start, stop, _ = tokens.indices(token_count)
    start = first if tokens.start is None else start
    stop = end if tokens.stop is None else stop
    return start, max(0, stop - start)


def check_out(out: Any, shape: Tuple[int, ...]) -> None:
    """Refuses what cannot be filled as array[token, head, channel]."""
    device = getattr(out, "__dlpack_device__", None)
    if not isinstance(out, np.ndarray):
        if callable(device) and cast(Callable[[], Tuple[int, int]], device)()[0] != 1:
            raise DeviceError("out lies on another device: read into memory of the CPU, then copy")
        raise InvalidArgumentError(f"out must be a numpy array, not {type(out).__name__}")
    if out.shape != shape:
        raise InvalidArgumentError(f"out has shape {out.shape}, the values have {shape}")
    if not out.flags.writeable:
        raise InvalidArgumentError("out is read-only")


def open_card(source: Union[Path, Buffer], *, threads: int = 1, mmap: bool = False) -> Card:
    """Opens a card: a path, or its bytes, which are used in place.

    threads: how many may decode chunks at once
    mmap:    map the file instead of reading it; faults if another process shortens it
    Raises:  BadMagicError, UnsupportedVersionError, TruncatedError, ...: a class for each code; CardIOError
    """
    return Card(source, threads=threads, mmap=mmap)


def verify(source: Union[Path, Buffer], *, decode: bool = False, threads: int = 1) -> VerifyReport:
    """Checks every byte of a card, in file order, in bounded memory.

    decode: also decode every chunk
    Raises: the first defect, with its offset
    """
    given, pool = Input(source), Threads(threads)
    name = "ccd_verify_file" if given.path is not None else "ccd_verify_bytes"
    report = VerifyReportStruct()
    try:
        call(name, *given.arguments(), 1 if decode else 0, ctypes.byref(open_options(pool, False)),
             ctypes.byref(report))
    finally:
        pool.close()
    return VerifyReport(report.file_size, report.frame_count, report.skipped_sections, bytes(report.root))
