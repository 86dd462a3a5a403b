"""What a card says, as plain records; names are those of FORMAT.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

import numpy as np
from numpy.typing import NDArray

ROPE_STATES = ("none", "pre_rope", "post_rope")
PAIRINGS = ("none", "interleaved", "half_split")
RESTORABLE = ("any_prefix", "whole_only", "from_count")
OPERATIONS = ("", "convert", "capture", "trim", "extend", "requantize", "calibrate")


@dataclass(frozen=True)
class Facts:
    """What a card's header, summary and trailer say. Spec: FORMAT.md#header"""

    format_major: int
    format_minor: int
    token_count: int
    next_position: int
    layer_count: int
    not_a_prefix: bool
    partial_layers: bool
    tokens_unknown: bool
    restorable: str
    restorable_from: int
    stream_count: int
    segment_count: int
    value_count: int
    opaque_size: int
    file_size: int
    root: bytes


@dataclass(frozen=True)
class Stream:
    """One stream of one layer, as the source held it. Spec: FORMAT.md#stream"""

    layer: int
    stream: str
    dtype: str
    rope_state: str
    rope_pairing: str
    kv_head_count: int
    head_dim: int
    hadamard_size: int
    window: int
    first_token: int
    token_count: int
    row_size: int
    opaque_size: int


@dataclass(frozen=True)
class RopeTable:
    """How keys are rotated: pair i of position p turns by p x inverse_frequencies[i].

    layer: the one layer that it holds for, None for all
    """

    inverse_frequencies: NDArray[np.float64]
    pairing: str
    rotated_offset: int = 0
    magnitude: float = 1.0
    layer: Optional[int] = None


@dataclass(frozen=True)
class ProvenanceStep:
    """One step of how the card came about, oldest first. time 0: not recorded; parent_root zero: from no card."""

    operation: str
    text: str
    hop: int
    time: int
    parent_root: bytes


@dataclass(frozen=True)
class FieldVerdict:
    """What comparing one field gave. override: the name that `allow` would have to hold, None for none."""

    field: str
    verdict: str
    overridden: bool
    override: Optional[str]


@dataclass(frozen=True)
class VerifyReport:
    """What verify() walked over. skipped_sections: optional ones that this version does not know."""

    file_size: int
    frame_count: int
    skipped_sections: int
    root: bytes
