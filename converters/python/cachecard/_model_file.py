"""A model's GGUF file: identity and geometry, as the command `cachecard` reads them."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any, List, Optional

from ._library import IdentityValue, ModelLayer, call, encode_path, lib
from .identity import Identity, field_name, value_of


@dataclass(frozen=True)
class LayerShape:
    kv_head_count: int
    key_head_dim: int
    value_head_dim: int
    rotated: bool


@dataclass(frozen=True)
class ModelFile:
    identity: Identity
    layers: List[LayerShape]


def read_model_file(path: Any) -> ModelFile:
    """Errors: ForeignInputError (no GGUF of a model), TruncatedError, CardIOError"""
    handle = ctypes.c_void_p()
    folder = _digest_folder()
    call("ccp_model_open", encode_path(path), encode_path(folder) if folder else None, ctypes.byref(handle))
    try:
        identity = Identity()
        for index in range(lib.ccp_model_identity_count(handle)):
            c = IdentityValue()
            lib.ccp_model_identity(handle, index, ctypes.byref(c))
            identity[field_name(c.field_id)] = value_of(c.value_type, ctypes.string_at(c.bytes, c.size))
        layers = []
        for layer in range(lib.ccp_model_layer_count(handle)):
            shape = ModelLayer()
            lib.ccp_model_layer(handle, layer, ctypes.byref(shape))
            layers.append(LayerShape(shape.kv_head_count, shape.key_head_dim, shape.value_head_dim,
                                     bool(shape.rotated)))
        return ModelFile(identity, layers)
    finally:
        lib.ccp_model_free(handle)


def rope_type(architecture: str) -> Optional[str]:
    """"norm", "neox", ... as llama.cpp has it for an architecture by its GGUF name; None for an unknown one."""
    found = lib.ccp_rope_type(architecture.encode())
    return found.decode() if found else None


def _digest_folder() -> Optional[str]:
    """Where digests of weights are kept, which take seconds for a large model: as the command has it."""
    cache = os.environ.get("XDG_CACHE_HOME", "")
    if cache.startswith("/"):
        return cache + "/cachecard"
    home = os.environ.get("HOME", "")
    return home + "/.cache/cachecard" if home.startswith("/") else None
