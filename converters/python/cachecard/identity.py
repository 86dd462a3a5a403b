"""What must match before a card enters a live cache: facts about the model, by name."""

from __future__ import annotations

import ctypes
import struct
from typing import (Any, Dict, Generic, Iterator, List, Mapping, MutableMapping, Optional, Tuple, Type, TypeVar, Union,
                    cast)

from ._library import IdentityValue, call, lib
from .errors import InvalidArgumentError

Value = Union[str, int, float, bytes]
T = TypeVar("T", str, int, float, bytes)

TEXT, U64, F64, DIGEST = 1, 2, 3, 4
_TYPES: Dict[Type[Any], int] = {str: TEXT, int: U64, float: F64, bytes: DIGEST}


class _Field(Generic[T]):
    """One field as an attribute of Identity: None where it is not known."""

    def __init__(self, field_id: int, kind: Type[T]) -> None:
        self.field_id = field_id
        self.kind: Type[T] = kind

    def __set_name__(self, owner: Type["Identity"], name: str) -> None:
        self.name = name
        owner.FIELDS[name] = self

    def __get__(self, identity: Optional["Identity"], owner: Type["Identity"]) -> Optional[T]:
        if identity is None:
            return None
        return cast(Optional[T], identity.get(self.name))

    def __set__(self, identity: "Identity", value: Optional[T]) -> None:
        if value is None:
            identity.pop(self.name, None)
        else:
            identity[self.name] = value


class Identity(MutableMapping[str, Value]):
    """Facts about a model by their names in FORMAT.md, as a mapping and as attributes.

    A field that is absent is unknown, and unknown is never a match. Digests are 16 bytes. Fields of later
    versions keep their place under "field_<number>".
    """

    FIELDS: Dict[str, Any] = {}

    architecture = _Field(1, str)
    weights_digest = _Field(2, bytes)
    source_id = _Field(3, str)
    weights_quantization = _Field(4, str)
    weights_container = _Field(5, str)
    adapters = _Field(6, str)
    tokenizer_digest = _Field(7, bytes)
    vocab_size = _Field(8, int)
    template_digest = _Field(9, bytes)
    rope_type = _Field(10, str)
    rope_base = _Field(11, float)
    rope_dimension_count = _Field(12, int)
    rope_scaling = _Field(13, str)
    rope_scale_factor = _Field(14, float)
    rope_factors_digest = _Field(15, bytes)
    rope_original_context = _Field(16, int)
    rope_extrapolation_factor = _Field(17, float)
    rope_attention_factor = _Field(18, float)
    rope_beta_fast = _Field(19, float)
    rope_beta_slow = _Field(20, float)
    model_name = _Field(21, str)
    producer = _Field(22, str)

    def __init__(self, values: Optional[Mapping[str, Value]] = None) -> None:
        self._values: Dict[str, Value] = {}
        self.update(values or {})

    def __getitem__(self, name: str) -> Value:
        return self._values[name]

    def __setitem__(self, name: str, value: Value) -> None:
        field = self.FIELDS.get(name)
        if field is None and not name.startswith("field_"):
            raise InvalidArgumentError(f"no identity field {name!r}: FORMAT.md lists them")
        if field is not None:
            if field.kind is float and isinstance(value, int):
                value = float(value)
            if not isinstance(value, field.kind) or isinstance(value, bool):
                raise InvalidArgumentError(f"{name} is {field.kind.__name__}, not {type(value).__name__}")
        if isinstance(value, bytes) and len(value) != 16:
            raise InvalidArgumentError(f"{name} is a digest of 16 bytes, not {len(value)}")
        if isinstance(value, int) and not 0 <= value < 2**64:
            raise InvalidArgumentError(f"{name} must be 0 to 2^64 - 1, not {value}")
        self._values[name] = value

    def __delitem__(self, name: str) -> None:
        del self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"Identity({self.as_text()})"

    def as_text(self) -> Dict[str, str]:
        """The facts as a person reads them: digests in hex."""
        return {name: value.hex() if isinstance(value, bytes) else str(value) for name, value in self.items()}

    def copy(self) -> "Identity":
        return Identity(self._values)


def field_number(name: str) -> int:
    if name in Identity.FIELDS:
        return cast(int, Identity.FIELDS[name].field_id)
    return int(name[len("field_"):])


def field_name(number: int) -> str:
    name = cast(bytes, lib.ccd_identity_name(number)).decode()
    return name if name != "unknown" else f"field_{number}"


def value_bytes(value: Value) -> Tuple[int, bytes]:
    """Type and bytes of a value, as a card holds it."""
    kind = _TYPES[type(value)]
    if isinstance(value, str):
        return kind, value.encode()
    if isinstance(value, bytes):
        return kind, value
    return kind, struct.pack("<Q" if kind == U64 else "<d", value)


def value_of(kind: int, data: bytes) -> Value:
    if kind == TEXT:
        return data.decode()
    if kind == DIGEST:
        return data
    return cast(Value, struct.unpack("<Q" if kind == U64 else "<d", data)[0])


class CValues:
    """An identity as an array of C structs; keeps the bytes that they point to."""

    def __init__(self, identity: Mapping[str, Value]) -> None:
        self._kept: List[ctypes.Array[ctypes.c_char]] = []
        rows: List[IdentityValue] = []
        for name, value in sorted(identity.items(), key=lambda item: field_number(item[0])):
            kind, data = value_bytes(value)
            self._kept.append(ctypes.create_string_buffer(data, max(1, len(data))))
            rows.append(IdentityValue(field_number(name), kind, ctypes.addressof(self._kept[-1]), len(data)))
        self.count = len(rows)
        self.array = (IdentityValue * max(1, self.count))(*rows)


def digest128(data: bytes) -> bytes:
    """XXH3-128 as the format writes it: what template_digest holds of a chat template's UTF-8 text."""
    out = (ctypes.c_uint8 * 16)()
    call("ccd_digest128", data, len(data), out)
    return bytes(out)
