"""How a Hugging Face model rotates its keys: from its config, and the numbers from its own buffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional

import numpy as np
from numpy.typing import NDArray

from ._tensors import is_torch
from .errors import UnknownRopeError

# Types of rope_scaling whose angles depend on a token's position alone.
_FIXED = {"default": "none", "linear": "linear", "llama3": "none", "yarn": "yarn"}


@dataclass(frozen=True)
class Rope:
    """One set of frequencies. scaling is GGUF's word; parameters are the config's."""

    parameters: Dict[str, Any]
    inverse_frequencies: NDArray[np.float64]
    magnitude: float

    @property
    def base(self) -> float:
        return float(np.float32(self.parameters["rope_theta"]))

    @property
    def scaling(self) -> str:
        return _FIXED[self.parameters["rope_type"]]


def rope_parameters(config: Any) -> Dict[str, Dict[str, Any]]:
    """By layer type, "" for all layers: {"rope_type": ..., "rope_theta": ..., ...}, of either generation's config."""
    found = getattr(config, "rope_parameters", None)
    if found is None:
        scaling = dict(getattr(config, "rope_scaling", None) or {})
        theta = getattr(config, "rope_theta", None)
        if theta is None:
            raise UnknownRopeError(f"a {config.model_type} model's config says no rope_theta")
        found = {"rope_theta": theta, "partial_rotary_factor": getattr(config, "partial_rotary_factor", None),
                 **scaling, "rope_type": scaling.get("rope_type", scaling.get("type", "default"))}
        local = getattr(config, "rope_local_base_freq", None)
        if local is not None:
            found = {"full_attention": found, "sliding_attention": {"rope_type": "default", "rope_theta": local}}
    nested = {name: dict(value) for name, value in found.items() if isinstance(value, dict)}
    sets = nested if nested else {"": dict(found)}
    for parameters in sets.values():
        parameters.setdefault("rope_type", "default")
        _check(config, parameters)
    return sets


def _check(config: Any, parameters: Dict[str, Any]) -> None:
    kind = parameters["rope_type"]
    if "mrope_section" in parameters or kind == "mrope":
        raise UnknownRopeError(f"{config.model_type}: M-RoPE has positions of several components, which are not "
                               "carried from transformers yet")
    if kind not in _FIXED:
        raise UnknownRopeError(f"{config.model_type}: rope_type {kind!r} is not known here: its angles depend on more "
                               "than the position (dynamic, longrope), or are not understood")


def head_dim(config: Any) -> int:
    found = getattr(config, "head_dim", None)
    return int(found) if found else int(config.hidden_size) // int(config.num_attention_heads)


def rope_sets(model: Any, config: Any) -> Dict[str, Rope]:
    """Frequencies by layer type, "" for all layers."""
    sets = {}
    for name, parameters in rope_parameters(config).items():
        from_model = _buffers(model, name)
        factor = parameters.get("partial_rotary_factor") or 1.0
        width = int(head_dim(config) * factor)
        if from_model is not None:
            sets[name] = Rope(parameters, *from_model)
        else:
            sets[name] = Rope(parameters, _from_config(config, parameters, width), 1.0)
    return sets


def _buffers(model: Any, name: str) -> Optional[Any]:
    """The numbers that the model itself multiplies positions with; None where it shows none."""
    modules = getattr(model, "named_modules", None)
    if modules is None:
        return None
    prefix = name + "_" if name else ""
    found: List[Any] = [(path.count("."), module) for path, module in modules()
                        if is_torch(_held(module, prefix + "inv_freq"))]
    if not found:
        return None
    module = min(found, key=lambda item: item[0])[1]
    numbers = getattr(module, prefix + "inv_freq").detach().double().cpu().numpy()
    return numbers, float(getattr(module, prefix + "attention_scaling", 1.0))


def _held(module: Any, name: str) -> Any:
    """An attribute or buffer of its own. getattr of one that a torch module lacks is slow, and there are hundreds of modules."""
    own = vars(module)
    return own[name] if name in own else own.get("_buffers", {}).get(name)


def _from_config(config: Any, parameters: Dict[str, Any], width: int) -> NDArray[np.float64]:
    if parameters["rope_type"] not in ("default", "linear"):
        raise UnknownRopeError(f"{config.model_type}: the frequencies of rope_type {parameters['rope_type']!r} are read "
                               "from the model, and this one has no inv_freq")
    exponents = np.arange(0, width, 2, dtype=np.float32) / np.float32(width)
    numbers = np.float32(1.0) / np.float32(parameters["rope_theta"]) ** exponents
    if parameters["rope_type"] == "linear":
        numbers = numbers / np.float32(parameters["factor"])
    return numbers.astype(np.float64)


def rotate(queries: NDArray[np.float32], positions: NDArray[np.int64], rope: Rope, pairing: str) -> NDArray[np.float32]:
    """queries[token, head, channel] turned as the model turns them. Spec: FORMAT.md#rope-tables"""
    pairs = len(rope.inverse_frequencies)
    angles = (positions[:, None].astype(np.float32) * rope.inverse_frequencies.astype(np.float32)[None])[:, None]
    cosine, sine = np.cos(angles) * np.float32(rope.magnitude), np.sin(angles) * np.float32(rope.magnitude)
    step = slice(0, 2 * pairs, 2) if pairing == "interleaved" else slice(0, pairs)
    other = slice(1, 2 * pairs, 2) if pairing == "interleaved" else slice(pairs, 2 * pairs)
    x, y = queries[..., step], queries[..., other]
    turned = queries.copy()
    turned[..., step], turned[..., other] = x * cosine - y * sine, y * cosine + x * sine
    return turned
