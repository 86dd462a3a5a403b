"""Caches of transformers 5.17 with numpy arrays in place of tensors: the layout, without torch.

source: transformers 5.17 cache_utils.py, DynamicLayer, DynamicSlidingWindowLayer, DynamicCache
"""

from types import SimpleNamespace

import numpy as np


class DynamicLayer:
    is_sliding = False

    def __init__(self):
        self.keys = self.values = None
        self.is_initialized = False

    def lazy_initialization(self, key_states, value_states):
        self.dtype = key_states.dtype
        self.keys = self.values = np.zeros((1, key_states.shape[1], 0, key_states.shape[3]), key_states.dtype)
        self.is_initialized = True

    def update(self, key_states, value_states):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.keys = np.concatenate([self.keys, key_states], axis=-2)
        self.values = np.concatenate([self.values, value_states], axis=-2)
        return self.keys, self.values

    def get_seq_length(self):
        return 0 if not self.is_initialized else self.keys.shape[-2]


class DynamicSlidingWindowLayer(DynamicLayer):
    is_sliding = True

    def __init__(self, sliding_window):
        super().__init__()
        self.sliding_window = sliding_window
        self.cumulative_length = 0

    def update(self, key_states, value_states):
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        self.cumulative_length += key_states.shape[-2]
        full_keys = np.concatenate([self.keys, key_states], axis=-2)
        full_values = np.concatenate([self.values, value_states], axis=-2)
        self.keys = full_keys[:, :, -self.sliding_window + 1:, :]
        self.values = full_values[:, :, -self.sliding_window + 1:, :]
        return full_keys, full_values

    def get_seq_length(self):
        return self.cumulative_length


class DynamicCache:
    def __init__(self, config):
        types = getattr(config, "layer_types", None) or ["full_attention"] * config.num_hidden_layers
        self.layers = [DynamicSlidingWindowLayer(config.sliding_window) if kind == "sliding_attention"
                       else DynamicLayer() for kind in types]

    def update(self, key_states, value_states, layer_idx):
        return self.layers[layer_idx].update(key_states, value_states)


def config(**changes):
    """What AutoConfig gives of a small Llama."""
    return SimpleNamespace(**{
        "model_type": "llama", "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "hidden_size": 64, "head_dim": 16, "vocab_size": 100, "max_position_embeddings": 512,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, "dtype": "float32", **changes})


def sliding_config(window=16, **changes):
    """A small Gemma 3: five layers of six slide, with frequencies of their own."""
    return config(model_type="gemma3_text", layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                  sliding_window=window, rope_parameters={
                      "full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
                      "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}, **changes)


def model(of_config):
    return SimpleNamespace(config=of_config)


def filled(of_config, random, tokens, step=None, dtype=np.float32):
    """A cache that has seen `tokens`, `step` at a time, and all that went in: [layer][keys or values]."""
    cache = DynamicCache(of_config)
    shape = (1, of_config.num_key_value_heads, tokens, of_config.head_dim)
    given = [tuple(random.standard_normal(shape).astype(dtype) for _ in range(2)) for _ in cache.layers]
    for first in range(0, tokens, step or tokens):
        for layer, (keys, values) in enumerate(given):
            part = slice(first, first + (step or tokens))
            cache.update(keys[:, :, part], values[:, :, part], layer)
    return cache, given
