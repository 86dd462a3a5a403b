"""libcachecard through ctypes: structs and functions of cachecard.h, and calls that raise.

Nothing here depends on the version of Python, so one wheel serves all of them.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_char, c_char_p, c_double, c_int32, c_int64, c_size_t, c_uint8
from ctypes import c_uint16, c_uint32, c_uint64, c_void_p
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from .errors import InternalError, make_error

NO_OFFSET = 2**64 - 1
ALL_LAYERS = 2**32 - 1


class CardErrorStruct(Structure):
    _fields_ = [("code", c_int32), ("reserved", c_uint32), ("offset", c_uint64), ("field", c_char * 48),
                ("message", c_char * 256)]


class SizedStruct(Structure):
    """A struct that says its own size in its first member."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(struct_size=ctypes.sizeof(type(self)), **fields)


RUN_TASK = ctypes.CFUNCTYPE(None, c_void_p, c_size_t)
RUN = ctypes.CFUNCTYPE(None, c_void_p, c_size_t, c_void_p, c_void_p)
READ_ROWS = ctypes.CFUNCTYPE(c_int32, c_void_p, c_uint32, c_uint32, c_uint64, c_uint64, c_void_p, c_size_t)
READ_OPAQUE = ctypes.CFUNCTYPE(c_int32, c_void_p, c_uint32, c_uint64, c_void_p, c_size_t)
WRITE = ctypes.CFUNCTYPE(c_int32, c_void_p, c_void_p, c_size_t)


class Allocator(Structure):
    _fields_ = [("allocate", c_void_p), ("release", c_void_p), ("user", c_void_p)]


class Parallel(Structure):
    _fields_ = [("run", RUN), ("user", c_void_p), ("width", c_size_t)]


class OpenOptions(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("flags", c_uint32), ("limits", c_void_p), ("allocator", Allocator),
                ("parallel", Parallel)]


class FactsStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("format_major", c_uint16), ("format_minor", c_uint16),
                ("flags", c_uint32), ("layer_count", c_uint32), ("token_count", c_uint64),
                ("next_position", c_int64), ("restorable", c_uint32), ("stream_count", c_uint32),
                ("restorable_from", c_uint64), ("segment_count", c_uint32), ("identity_count", c_uint32),
                ("value_count", c_uint64), ("opaque_size", c_uint64), ("file_size", c_uint64),
                ("root", c_uint8 * 16)]


class StreamStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("layer", c_uint32), ("stream", c_uint32), ("dtype", c_uint32),
                ("rope_state", c_uint32), ("rope_pairing", c_uint32), ("kv_head_count", c_uint32),
                ("head_dim", c_uint32), ("hadamard_size", c_uint32), ("window", c_uint32),
                ("first_token", c_uint64), ("token_count", c_uint64), ("row_size", c_uint64),
                ("opaque_size", c_uint64)]


class IdentityValue(Structure):
    _fields_ = [("field_id", c_uint32), ("value_type", c_uint32), ("bytes", c_void_p), ("size", c_size_t)]


class FieldVerdictStruct(Structure):
    _fields_ = [("field_id", c_uint32), ("verdict", c_uint32), ("overridden", c_uint32), ("reserved", c_uint32),
                ("override_name", c_char_p)]


class TargetStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("dtype", c_uint32), ("flags", c_uint32), ("reserved", c_uint32),
                ("base", c_void_p), ("token_stride", c_int64), ("head_stride", c_int64),
                ("channel_stride", c_int64), ("page_size", c_uint64), ("pages", c_void_p),
                ("page_count", c_uint64), ("rope_pairing", c_uint32), ("reserved2", c_uint32)]


class RopeTableStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("layer", c_uint32), ("pairing", c_uint32),
                ("rotated_offset", c_uint32), ("pair_count", c_uint32), ("reserved", c_uint32),
                ("magnitude", c_double)]


class ProvenanceStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("hop", c_uint32), ("operation", c_uint32), ("reserved", c_uint32),
                ("time", c_int64), ("parent_root", c_uint8 * 16)]


class VerifyReportStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("reserved", c_uint32), ("file_size", c_uint64),
                ("frame_count", c_uint64), ("skipped_sections", c_uint64), ("root", c_uint8 * 16)]


class WriterFacts(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("flags", c_uint32), ("layer_count", c_uint32),
                ("restorable", c_uint32), ("restorable_from", c_uint64), ("next_position", c_int64)]


class ValuesStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("reserved", c_uint32), ("read_rows", READ_ROWS),
                ("read_opaque", READ_OPAQUE), ("user", c_void_p)]


class WriteOptions(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("flags", c_uint32), ("compressor", c_uint32),
                ("zstd_level", c_int32), ("chunk_order", c_uint32), ("reserved", c_uint32),
                ("chunk_tokens", c_uint64), ("provenance", c_char_p), ("parallel", Parallel), ("codec", c_uint32),
                ("key_bits", c_uint32), ("value_bits", c_uint32), ("reserved2", c_uint32),
                ("exact_tokens", c_uint64), ("token_bits", c_void_p), ("layer_bits", c_void_p),
                ("newest_tokens", c_uint64), ("bits", c_double), ("profile", c_void_p), ("token_weights", c_void_p),
                ("weight_count", c_uint64), ("queries", c_uint32), ("reserved3", c_uint32), ("file_bytes", c_uint64)]


class WriteReportStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("reserved", c_uint32), ("file_size", c_uint64),
                ("value_count", c_uint64), ("root", c_uint8 * 16)]


class OutputStruct(SizedStruct):
    _fields_ = [("struct_size", c_uint32), ("reserved", c_uint32), ("write", WRITE), ("user", c_void_p)]


class ModelLayer(Structure):
    _fields_ = [("kv_head_count", c_uint32), ("key_head_dim", c_uint32), ("value_head_dim", c_uint32),
                ("rotated", c_uint32)]


_ERROR = POINTER(CardErrorStruct)
_HANDLE = c_void_p
_OUT_HANDLE = POINTER(c_void_p)
_SIZE = POINTER(c_size_t)
_TOKENS = POINTER(c_int32)

# Functions that return a status and end with the error: their arguments before it.
_CALLS: Dict[str, List[Any]] = {
    "ccd_open_file": [c_char_p, POINTER(OpenOptions), _OUT_HANDLE],
    "ccd_open_bytes": [c_void_p, c_size_t, POINTER(OpenOptions), _OUT_HANDLE],
    "ccd_verify_file": [c_char_p, c_uint32, POINTER(OpenOptions), POINTER(VerifyReportStruct)],
    "ccd_verify_bytes": [c_void_p, c_size_t, c_uint32, POINTER(OpenOptions), POINTER(VerifyReportStruct)],
    "ccd_card_get_facts": [_HANDLE, POINTER(FactsStruct)],
    "ccd_card_get_stream": [_HANDLE, c_uint32, POINTER(StreamStruct)],
    "ccd_card_get_identity_id": [_HANDLE, c_uint32, POINTER(c_uint32)],
    "ccd_card_get_identity": [_HANDLE, c_uint32, POINTER(c_uint32), c_void_p, c_size_t, _SIZE],
    "ccd_card_match": [_HANDLE, POINTER(IdentityValue), c_size_t, POINTER(c_char_p), c_size_t,
                       POINTER(FieldVerdictStruct), c_size_t, _SIZE],
    "ccd_card_get_token_ids": [_HANDLE, _TOKENS, c_size_t, _SIZE],
    "ccd_card_get_positions": [_HANDLE, _TOKENS, c_size_t, _SIZE],
    "ccd_card_get_bit_widths": [_HANDLE, c_uint32, c_uint32, c_uint32, c_uint64, c_uint64, POINTER(c_uint16)],
    "ccd_card_get_text": [_HANDLE, c_void_p, c_size_t, _SIZE],
    "ccd_card_get_rope_table": [_HANDLE, c_uint32, POINTER(RopeTableStruct), c_void_p, c_size_t, _SIZE],
    "ccd_card_get_provenance_count": [_HANDLE, POINTER(c_uint32)],
    "ccd_card_get_provenance": [_HANDLE, c_uint32, POINTER(ProvenanceStruct), c_void_p, c_size_t, _SIZE],
    "ccd_card_decode": [_HANDLE, c_uint32, c_uint32, c_uint64, c_uint64, POINTER(TargetStruct)],
    "ccd_card_check_other_sections": [_HANDLE, c_uint64],
    "ccd_card_read_rows": [_HANDLE, c_uint32, c_uint32, c_uint64, c_uint64, c_void_p, c_size_t],
    "ccd_card_read_opaque": [_HANDLE, c_uint32, c_uint64, c_void_p, c_size_t],
    "ccd_digest128": [c_void_p, c_size_t, c_uint8 * 16],
    "ccd_writer_create": [POINTER(WriterFacts), _OUT_HANDLE],
    "ccd_writer_add_stream": [_HANDLE, POINTER(StreamStruct)],
    "ccd_writer_set_identity": [_HANDLE, POINTER(IdentityValue)],
    "ccd_writer_set_tokens": [_HANDLE, _TOKENS, _TOKENS, c_size_t],
    "ccd_writer_set_text": [_HANDLE, c_char_p, c_size_t],
    "ccd_writer_set_rope_table": [_HANDLE, POINTER(RopeTableStruct), POINTER(c_double)],
    "ccd_writer_write_file": [_HANDLE, c_char_p, POINTER(ValuesStruct), POINTER(WriteOptions),
                              POINTER(WriteReportStruct)],
    "ccd_writer_write_to": [_HANDLE, POINTER(OutputStruct), POINTER(ValuesStruct), POINTER(WriteOptions),
                            POINTER(WriteReportStruct)],
    "ccp_model_open": [c_char_p, c_char_p, _OUT_HANDLE],
}

# The rest: result, arguments.
_PLAIN: Dict[str, Tuple[Any, List[Any]]] = {
    "ccd_version": (c_uint32, []),
    "ccd_status_name": (c_char_p, [c_int32]),
    "ccd_identity_name": (c_char_p, [c_uint32]),
    "ccd_verdict_name": (c_char_p, [c_uint32]),
    "ccd_close": (None, [_HANDLE]),
    "ccd_writer_destroy": (None, [_HANDLE]),
    "ccp_model_free": (None, [_HANDLE]),
    "ccp_model_layer_count": (c_uint32, [_HANDLE]),
    "ccp_model_identity_count": (c_uint32, [_HANDLE]),
    "ccp_model_layer": (None, [_HANDLE, c_uint32, POINTER(ModelLayer)]),
    "ccp_model_identity": (None, [_HANDLE, c_uint32, POINTER(IdentityValue)]),
    "ccp_rope_type": (c_char_p, [c_char_p]),
}


def _load() -> ctypes.CDLL:
    path = Path(__file__).with_name("_libcachecard.so")
    loaded = ctypes.CDLL(str(path))
    for name, arguments in _CALLS.items():
        function = getattr(loaded, name)
        function.restype = c_int32
        function.argtypes = [*arguments, _ERROR]
    for name, (result, arguments) in _PLAIN.items():
        function = getattr(loaded, name)
        function.restype = result
        function.argtypes = arguments
    return loaded


lib = _load()

if lib.ccd_version() // 100 != 1:
    raise ImportError(f"_libcachecard.so is of version {lib.ccd_version()}, not of this package's 0.1")


def call(name: str, *arguments: Any) -> None:
    """Calls a function that returns a status; raises its error as the exception of its code."""
    error = CardErrorStruct()
    if getattr(lib, name)(*arguments, ctypes.byref(error)) == 0:
        return
    message = error.message.decode("utf-8", "replace")
    offset = None if error.offset == NO_OFFSET else error.offset
    raise make_error(error.code, message, offset, error.field.decode("utf-8", "replace"))


def encode_path(path: Any) -> bytes:
    """A path as the library takes it. Raises ValueError for one that a zero would cut."""
    import os

    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError("a path cannot hold a zero byte")
    return encoded


class Threads:
    """`width` threads for work that falls into chunks, for as long as the object lives."""

    def __init__(self, width: int) -> None:
        self.struct = Parallel()
        self._pool: Optional[Any] = None
        if width <= 1:
            return
        from concurrent.futures import ThreadPoolExecutor

        self._pool = ThreadPoolExecutor(width, thread_name_prefix="cachecard")
        self._callback = RUN(self._run)  # must outlive the calls
        self.struct = Parallel(self._callback, None, width)

    def _run(self, _user: int, count: int, task: int, context: int) -> None:
        assert self._pool is not None
        function = RUN_TASK(task)
        for done in [self._pool.submit(function, context, index) for index in range(count)]:
            done.result()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()


class Callbacks:
    """Python functions as callbacks: an exception stops the call and comes out of run() instead of its error."""

    def __init__(self) -> None:
        self._raised: List[BaseException] = []

    def guard(self, kind: Any, function: Callable[..., None]) -> Any:
        def guarded(*arguments: Any) -> int:
            try:
                function(*arguments)
                return 0
            except BaseException as error:  # nothing may pass through C
                self._raised.append(error)
                return 80

        return kind(guarded)

    def call(self, name: str, *arguments: Any) -> None:
        try:
            call(name, *arguments)
        except Exception:
            if self._raised:
                raise self._raised[0] from None
            raise
        if self._raised:
            raise InternalError("a callback failed, yet the call did not")
