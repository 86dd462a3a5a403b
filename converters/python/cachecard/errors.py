"""Errors by name: one class for each code of FORMAT.md, all of them `CardError`."""

from __future__ import annotations

from typing import ClassVar, Dict, Optional, Type


class CardError(Exception):
    """Why a call failed.

    code:   number of the cause, as FORMAT.md lists them; it never changes its meaning
    name:   the same as a word, "checksum_mismatch"
    offset: byte in the card where it was seen, or None
    field:  record.field as FORMAT.md spells it, or ""
    """

    code: int = 90
    name: ClassVar[str] = "internal"

    def __init__(self, message: str = "", *, offset: Optional[int] = None, field: str = "") -> None:
        super().__init__(message or self.name)
        self.offset = offset
        self.field = field


# 10s: not a card that this library reads.
class BadMagicError(CardError):
    """Not a card."""

    code, name = 10, "bad_magic"


class UnsupportedVersionError(CardError):
    """A format version that this library does not read."""

    code, name = 11, "unsupported_version"


class UnsupportedFeatureError(CardError):
    """A required feature or section that this library does not know."""

    code, name = 12, "unsupported_feature"


class UnsupportedCodecError(CardError):
    """A codec, element type or compressor that this build does not have."""

    code, name = 13, "unsupported_codec"


class ForeignInputError(CardError):
    """A foreign file or cache whose layout is not understood."""

    code, name = 14, "foreign_input"


# 20s: damaged.
class DamagedError(CardError):
    """The card is damaged; the classes below say how."""


class TruncatedError(DamagedError):
    """The input ends too early."""

    code, name = 20, "truncated"


class CorruptError(DamagedError):
    """Parts of the input contradict each other."""

    code, name = 21, "corrupt"


class ChecksumMismatchError(DamagedError):
    """A digest does not match."""

    code, name = 22, "checksum_mismatch"


class ReservedNotZeroError(DamagedError):
    """A reserved field or padding is not zero."""

    code, name = 23, "reserved_not_zero"


class BadOffsetError(DamagedError):
    """An offset points to the wrong place."""

    code, name = 24, "bad_offset"


class BadSizeError(DamagedError):
    """A size does not fit what it describes."""

    code, name = 25, "bad_size"


class BadEnumError(DamagedError):
    """A number that names nothing."""

    code, name = 26, "bad_enum"


class NonFiniteError(DamagedError):
    """A NaN or an infinity where none is allowed."""

    code, name = 27, "non_finite"


# 30s: refused.
class LimitExceededError(CardError):
    """Larger than a stated limit."""

    code, name = 30, "limit_exceeded"


class OutOfMemoryError(CardError, MemoryError):
    """Memory could not be had."""

    code, name = 31, "out_of_memory"


# 40s: the caller.
class InvalidArgumentError(CardError, ValueError):
    """The caller asked for what cannot be."""

    code, name = 40, "invalid_argument"


class BufferTooSmallError(CardError, ValueError):
    """The caller's buffer is too small."""

    code, name = 41, "buffer_too_small"


# 50s: the wrong destination.
class ModelMismatchError(CardError):
    """Made by another model."""

    code, name = 50, "model_mismatch"


class GeometryMismatchError(CardError):
    """The target's cache has another shape, type or rotation."""

    code, name = 51, "geometry_mismatch"


class PositionMismatchError(CardError):
    """Positions do not fit."""

    code, name = 52, "position_mismatch"


class IdentityUnknownError(CardError):
    """What must match is not known on one side."""

    code, name = 53, "identity_unknown"


class TokensUnknownError(CardError):
    """The card holds no token ids."""

    code, name = 54, "tokens_unknown"


class NotRestorableError(CardError):
    """Such a prefix cannot be restored."""

    code, name = 55, "not_restorable"


class PartialCardError(CardError):
    """The card is not a prefix, or lacks layers."""

    code, name = 56, "partial_card"


# 60s: outside.
class CardIOError(CardError, OSError):
    """Reading or writing failed."""

    code, name = 60, "io"


class TargetUnavailableError(CardError):
    """The target does not answer."""

    code, name = 61, "target_unavailable"


class TargetBusyError(CardError):
    """The target is at work."""

    code, name = 62, "target_busy"


class TargetTooSmallError(CardError):
    """The target holds fewer tokens."""

    code, name = 63, "target_too_small"


class InterruptedCardError(CardError):
    """Stopped before the end."""

    code, name = 80, "interrupted"


class InternalError(CardError):
    """A defect of this library: please report it."""

    code, name = 90, "internal"


# What is special to caches of a Python runtime. Each is also the class of its code above.
class BatchSizeError(InvalidArgumentError):
    """A cache of more than one sequence: a card holds one."""


class DeviceError(InvalidArgumentError):
    """Memory on a device where it is not wanted (or on none, as of "meta" tensors)."""


class CacheShapeError(GeometryMismatchError):
    """Tensors of another shape or type than the model's cache has."""


class CacheLengthError(GeometryMismatchError):
    """The cache holds another number of tokens than was said."""


class PrunedCacheError(CacheLengthError):
    """Tokens were dropped from the cache (kvpress, SinkCache, H2O and the like): what is left is no prefix."""


class QuantizedCacheError(ForeignInputError):
    """The cache keeps its values quantised (quanto, HQQ), which a card of exact values cannot hold."""


class UnsupportedCacheError(ForeignInputError):
    """A kind of cache that no card can hold yet; the message names it."""


class UnknownRopeError(IdentityUnknownError):
    """How the model rotates its keys is not known here."""


class ContextTooSmallError(TargetTooSmallError):
    """The model's context is shorter than the card."""


def _by_code() -> Dict[int, Type[CardError]]:
    direct = list(CardError.__subclasses__()) + list(DamagedError.__subclasses__())
    return {kind.code: kind for kind in direct if kind is not DamagedError}


BY_CODE: Dict[int, Type[CardError]] = _by_code()


def make_error(code: int, message: str, offset: Optional[int] = None, field: str = "") -> CardError:
    """The exception of a code; InternalError, with that number, for one that is not known."""
    kind = BY_CODE.get(code)
    if kind is not None:
        return kind(message, offset=offset, field=field)
    error = InternalError(message, offset=offset, field=field)
    error.code = code
    return error
