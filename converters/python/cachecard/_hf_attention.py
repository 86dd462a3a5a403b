"""The attention of the last queries, seen by hooks: which tokens a context's end looks at."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional

import numpy as np
from numpy.typing import NDArray

from ._hf_cache import check_layers, read_cache
from ._hf_model import HfModel, attention_modules, describe_model, text_config
from ._hf_rope import rotate
from ._tensors import to_numpy
from .errors import BatchSizeError, InvalidArgumentError, UnsupportedCacheError


class AttentionRecord:
    """The last queries of every layer, before rotary embedding. weights() makes attention of them."""

    def __init__(self, model: Any, last: int) -> None:
        if last < 1:
            raise InvalidArgumentError(f"last is {last}: at least one query")
        self._model, self._last = model, last
        self._modules = attention_modules(model)
        if not self._modules:
            raise UnsupportedCacheError("the model shows no attention modules with a layer_idx")
        for module in self._modules:
            if hasattr(module, "query_key_value") or hasattr(module, "sinks"):
                raise UnsupportedCacheError(f"the attention of {type(module).__name__} is not understood")
        self._queries: Dict[int, Any] = {}
        self._handles: List[Any] = []

    def start(self) -> None:
        for module in self._modules:
            source = module.q_proj if hasattr(module, "q_proj") else module.qkv_proj
            self._handles.append(source.register_forward_hook(self._hook(module.layer_idx)))

    def stop(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _hook(self, layer: int) -> Any:
        def keep(_module: Any, _inputs: Any, output: Any) -> None:
            if output.shape[0] != 1:
                raise BatchSizeError(f"a batch of {output.shape[0]}: attention is recorded of one sequence")
            rows = output.detach()[0, -self._last:]
            before = self._queries.get(layer)
            if before is not None and len(rows) < self._last:
                self._queries[layer] = _join(before, rows)[-self._last:]
            else:
                self._queries[layer] = rows.clone()  # of the pass's own tensor only these rows stay

        return keep

    def weights(self, cache: Any) -> List[NDArray[np.float32]]:
        """Per layer array[kv_head, token]: sqrt of the sum, over the last queries and the query heads that share a KV
        head, of the attention's squares.

        cache: the cache as it is after the last recorded pass: its last tokens are the queries'
        A sliding layer that forgets holds one key less than its last query saw: attention is that over the keys held.
        """
        config = text_config(self._model)
        described = describe_model(self._model)
        layers = read_cache(cache)
        token_count = max(layer.token_count or int(layer.keys.shape[-2]) for layer in layers)
        firsts = check_layers(layers, described, token_count)
        weights = []
        for layer, module in enumerate(self._modules[:len(layers)]):
            rows = self._queries.get(layer)
            if rows is None:
                raise InvalidArgumentError(f"no pass of layer {layer} was recorded")
            queries = self._heads(module, rows, described, config)
            keys = to_numpy(layers[layer].keys[0].float().cpu())
            weights.append(_weigh(queries, keys, described, module, config, layer, firsts[layer], token_count))
        return weights

    def _heads(self, module: Any, rows: Any, model: HfModel, config: Any) -> NDArray[np.float32]:
        """queries[token, head, channel], through the norm that some models put on them."""
        heads = int(config.num_attention_heads)
        rows = rows[:, :heads * model.head_dim]
        norm = getattr(module, "q_norm", None)
        if norm is not None:
            whole = norm.weight.numel() == rows.shape[-1] and norm.weight.dim() == 1
            rows = norm(rows if whole else rows.view(len(rows), heads, model.head_dim)).detach()
        return to_numpy(rows.reshape(len(rows), heads, model.head_dim).float().cpu())


def _join(before: Any, rows: Any) -> Any:
    import torch

    return torch.cat([before, rows])


def _weigh(queries: NDArray[np.float32], keys: NDArray[np.float32], model: HfModel, module: Any, config: Any,
           layer: int, first_token: int, token_count: int) -> NDArray[np.float32]:
    positions = np.arange(token_count - len(queries), token_count)
    if model.rotated[layer]:
        queries = rotate(queries, positions, model.rope_of(layer), model.pairing)
    held = np.arange(first_token, token_count)
    allowed = held[None] <= positions[:, None]
    if model.windows[layer]:
        allowed &= held[None] > positions[:, None] - model.windows[layer]
    scale = float(getattr(module, "scaling", model.head_dim ** -0.5))
    cap: Optional[float] = getattr(config, "attn_logit_softcapping", None)
    group = queries.shape[1] // model.kv_head_count
    out = np.zeros((model.kv_head_count, token_count), np.float32)
    for head in range(queries.shape[1]):
        scores = queries[:, head] @ keys[head // group].T * scale
        if cap:
            scores = np.tanh(scores / cap) * cap
        scores = np.where(allowed, scores, -np.inf)
        scores = np.exp(scores - scores.max(axis=1, keepdims=True))
        attention = scores / scores.sum(axis=1, keepdims=True)
        out[head // group, first_token:] += (attention ** 2).sum(axis=0)
    return np.sqrt(out)


@contextmanager
def record_attention(model: Any, last: int = 64) -> Iterator[AttentionRecord]:
    """Records the last queries of every pass inside the block, under any attention implementation.

        with cachecard.hf.record_attention(model, last=64) as attention:
            outputs = model(input_ids, use_cache=True)
        weights = attention.weights(outputs.past_key_values)

    Raises: UnsupportedCacheError (a model whose queries are not understood), BatchSizeError, UnknownRopeError
    """
    record = AttentionRecord(model, last)
    record.start()
    try:
        yield record
    finally:
        record.stop()
