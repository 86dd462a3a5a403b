"""Caches of transformers taken apart and put together: legacy tuples, key_cache lists (4.x) and layers (4.54 on)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

from ._hf_model import HfModel
from ._tensors import is_tensor
from .errors import (BatchSizeError, CacheLengthError, CacheShapeError, DeviceError, InvalidArgumentError,
                     PrunedCacheError, QuantizedCacheError, UnsupportedCacheError)

# Kinds that show key_cache but do not grow with the tokens. source: transformers 4.46 cache_utils.py
_OTHER_KINDS = ("StaticCache", "SlidingWindowCache", "HybridCache", "OffloadedStaticCache", "MambaCache")


@dataclass
class LayerCache:
    """One layer as transformers keeps it: tensors [batch, head, token, channel].

    token_count: tokens that the layer has seen, where it forgets some; None where it keeps them all
    """

    keys: Any
    values: Any
    token_count: Optional[int] = None


def read_cache(cache: Any) -> List[LayerCache]:
    """The layers of any kind of cache that a card can hold. Errors: QuantizedCacheError, PrunedCacheError,
    UnsupportedCacheError, CacheLengthError (nothing in it), InvalidArgumentError (no cache at all)"""
    name = type(cache).__name__
    if hasattr(cache, "self_attention_cache"):
        raise UnsupportedCacheError(f"{name}: a card holds no encoder-decoder cache")
    if isinstance(cache, (tuple, list)):
        return [_read_pair(layer, index) for index, layer in enumerate(cache)]
    if hasattr(cache, "layers"):
        return [_read_layer(layer, name, index) for index, layer in enumerate(cache.layers)]
    if hasattr(cache, "key_cache") and hasattr(cache, "value_cache"):
        return _read_lists(cache, name)
    if hasattr(cache, "conv_states") or hasattr(cache, "ssm_states"):
        raise UnsupportedCacheError(f"{name} keeps recurrent state, which is not carried from transformers yet")
    raise InvalidArgumentError(f"{name} is no cache of transformers that is known here")


def _read_pair(layer: Any, index: int) -> LayerCache:
    if not isinstance(layer, (tuple, list)) or len(layer) not in (2, 3):
        raise UnsupportedCacheError(f"layer {index} of the tuple is no pair of keys and values: an encoder-decoder "
                                    "cache, or one that is not understood")
    return LayerCache(layer[0], layer[1])


def _read_layer(layer: Any, cache_name: str, index: int) -> LayerCache:
    name = type(layer).__name__
    where = f"{cache_name}, layer {index} ({name})"
    if hasattr(layer, "_quantized_keys") or "Quantized" in name:
        raise QuantizedCacheError(f"{where} keeps its values quantised: build the cache unquantised, or dequantise it "
                                  "into a DynamicCache, before it is saved")
    for sign, what in (("max_cache_len", "is allocated in full: copy its filled part into a DynamicCache"),
                       ("indexer_keys", "has an indexer's keys, which are not carried"),
                       ("recurrent_states", "keeps recurrent state, which is not carried from transformers yet"),
                       ("conv_states", "keeps recurrent state, which is not carried from transformers yet")):
        if hasattr(layer, sign):
            raise UnsupportedCacheError(f"{where} {what}")
    if not is_tensor(getattr(layer, "keys", None)):
        raise CacheLengthError(f"{where} holds nothing")
    seen = getattr(layer, "cumulative_length", None)
    return LayerCache(layer.keys, layer.values, int(seen) if seen is not None else None)


def _read_lists(cache: Any, name: str) -> List[LayerCache]:
    kinds = [kind.__name__ for kind in type(cache).__mro__]
    if hasattr(cache, "_quantized_key_cache") or "QuantizedCache" in kinds:
        raise QuantizedCacheError(f"{name} keeps its values quantised: build the cache unquantised before it is saved")
    if "SinkCache" in kinds:
        raise PrunedCacheError(f"{name} drops tokens and re-rotates the rest: what it holds is no prefix")
    for kind in _OTHER_KINDS:
        if kind in kinds:
            raise UnsupportedCacheError(f"{name} is allocated in full or recurrent: copy its filled part into a "
                                        "DynamicCache")
    layers = []
    for index, (keys, values) in enumerate(zip(cache.key_cache, cache.value_cache)):
        if not is_tensor(keys):
            raise CacheLengthError(f"{name}, layer {index} holds nothing")
        layers.append(LayerCache(keys, values))
    seen = getattr(cache, "_seen_tokens", None)
    if layers and seen and layers[0].keys.shape[-2] < seen:
        raise PrunedCacheError(f"{name} has seen {seen} tokens and holds {layers[0].keys.shape[-2]}: it was pruned, and "
                               "what is left is no prefix")
    return layers


def check_layers(layers: List[LayerCache], model: HfModel, token_count: int) -> List[int]:
    """Holds a cache to its model and its tokens; the first token that each layer holds."""
    if len(layers) != model.cached_layers:
        raise CacheShapeError(f"the cache has {len(layers)} layers, the model caches {model.cached_layers}")
    lengths = []
    for index, layer in enumerate(layers):
        for what, tensor in (("keys", layer.keys), ("values", layer.values)):
            _check_tensor(f"{what} of layer {index}", tensor, model)
        if layer.keys.shape != layer.values.shape:
            raise CacheShapeError(f"layer {index}: keys are {tuple(layer.keys.shape)}, values "
                                  f"{tuple(layer.values.shape)}")
        lengths.append(int(layer.keys.shape[-2]))
    _check_lengths(layers, lengths, model, token_count)
    return [token_count - length for length in lengths]


def _check_tensor(what: str, tensor: Any, model: HfModel) -> None:
    if not is_tensor(tensor):
        raise CacheShapeError(f"{what}: a {type(tensor).__name__}, no tensor")
    shape = tuple(int(n) for n in tensor.shape)
    if len(shape) != 4:
        raise CacheShapeError(f"{what}: shape {shape}, expected [1, head, token, channel]")
    if shape[0] != 1:
        raise BatchSizeError(f"{what}: a batch of {shape[0]}; a card holds one sequence: save cache rows one by one")
    if (shape[1], shape[3]) != (model.kv_head_count, model.head_dim):
        raise CacheShapeError(f"{what}: {shape[1]} heads of {shape[3]} channels; the model caches "
                              f"{model.kv_head_count} of {model.head_dim}")
    if str(getattr(tensor, "device", "cpu")).startswith("meta"):
        raise DeviceError(f"{what}: a tensor on no device (meta) has no values")


def _check_lengths(layers: Sequence[LayerCache], lengths: List[int], model: HfModel, token_count: int) -> None:
    full = [length for length, window in zip(lengths, model.windows) if window == 0]
    if len(set(full)) > 1:
        raise PrunedCacheError(f"layers hold between {min(full)} and {max(full)} tokens: the cache was pruned (kvpress "
                               "and the like), and what is left is no prefix")
    for index, (layer, length) in enumerate(zip(layers, lengths)):
        window = model.windows[index]
        seen = layer.token_count
        if seen is not None and seen != token_count:
            raise CacheLengthError(f"layer {index} has seen {seen} tokens, but {token_count} ids were given")
        needed = token_count if window == 0 else min(token_count, window - 1)
        if not needed <= length <= token_count:
            raise CacheLengthError(f"layer {index} holds {length} tokens, but {token_count} ids were given (with a "
                                   "window it may hold fewer): input_ids are those of exactly the tokens that the "
                                   "model has read; a pruned cache cannot be saved")


class CacheBuilder:
    """A DynamicCache to be filled: nothing of a given one changes before commit()."""

    def __init__(self, into: Optional[Any], config: Any, layer_count: int) -> None:
        self._given, self._count = into, layer_count
        self._cache = into if into is not None else _new_cache(config)
        self.by_layers = hasattr(self._cache, "layers")
        if not self.by_layers and not hasattr(self._cache, "key_cache"):
            raise UnsupportedCacheError(f"{type(self._cache).__name__} is no DynamicCache")
        self._layers = self._empty_layers() if self.by_layers else []
        if self.by_layers and len(self._layers) != layer_count:
            raise CacheShapeError(f"the cache has {len(self._layers)} layers, the card's model caches {layer_count}")

    def _empty_layers(self) -> List[Any]:
        """Layers of the cache's own kinds, apart from it."""
        if self._cache.layers:
            for index, layer in enumerate(self._cache.layers):
                for sign in ("max_cache_len", "_quantized_keys", "recurrent_states", "conv_states", "nbits"):
                    if hasattr(layer, sign):
                        raise UnsupportedCacheError(f"layer {index} is a {type(layer).__name__}: a card is loaded into "
                                                    "a DynamicCache")
            return [copy.copy(layer) for layer in self._cache.layers]
        kind = getattr(self._cache, "layer_class_to_replicate", None)
        if kind is None:
            raise UnsupportedCacheError(f"{type(self._cache).__name__} does not say what its layers are")
        return [kind() for _ in range(self._count)]

    def window_of(self, layer: int) -> int:
        """Tokens of the window that this cache's layer forgets by, 0 where it keeps all."""
        if not self.by_layers or not getattr(self._layers[layer], "is_sliding", False):
            return 0
        return int(self._layers[layer].sliding_window)

    def commit(self, tensors: List[Tuple[Any, Any]], token_count: int) -> Any:
        """Fills the cache: from here on nothing fails."""
        if not self.by_layers:
            self._cache.key_cache, self._cache.value_cache = [k for k, _ in tensors], [v for _, v in tensors]
            self._cache._seen_tokens = token_count
            return self._cache
        for layer, (keys, values) in zip(self._layers, tensors):
            _initialize(layer, keys, values)
            layer.keys, layer.values = keys, values
            if hasattr(layer, "cumulative_length"):  # of a sliding layer: tokens seen, not held
                layer.cumulative_length = token_count
        self._cache.layers = self._layers
        return self._cache


def _initialize(layer: Any, keys: Any, values: Any) -> None:
    if not hasattr(layer, "lazy_initialization"):
        return
    try:
        layer.lazy_initialization(keys, values)
    except TypeError:  # before 5.0 it took the keys alone
        layer.lazy_initialization(keys)


def _new_cache(config: Any) -> Any:
    try:
        from transformers import DynamicCache
    except ImportError as error:
        raise InvalidArgumentError("transformers is not installed: pip install transformers, or give into=") from error
    try:
        return DynamicCache(config=config)
    except TypeError:  # 4.x takes no config
        return DynamicCache()
