"""Hugging Face caches as cards: save() what a model has read, load() it into another process.

    outputs = model(input_ids, use_cache=True)
    cachecard.hf.save(outputs.past_key_values, "context.card", model=model, input_ids=input_ids, weights="model.gguf")

    cache = cachecard.hf.load("context.card", model, weights="model.gguf")
    outputs = model(next_ids, past_key_values=cache, use_cache=True)

transformers 4.46 (legacy tuples and DynamicCache) and 5.x (layers), on CPU and CUDA. A card made here opens in
llama.cpp and back: rope_pairing says which channels transformers turns together, and load() turns a card of another
pairing round. Nothing of torch is linked: tensors are reached by their data_ptr.
"""

from __future__ import annotations

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, List, Optional, Sequence, Tuple

import numpy as np
from numpy.typing import NDArray

from . import _dtypes
from ._hf_attention import AttentionRecord, record_attention
from ._hf_cache import CacheBuilder, check_layers, read_cache
from ._hf_model import HfModel, describe_model, model_dtype, text_config
from ._input import Path
from ._tensors import Stage, TensorRows, model_devices, whole_numbers
from .card import Card
from .card_writer import Writer, WriteReport
from .errors import (CacheShapeError, ContextTooSmallError, GeometryMismatchError, InvalidArgumentError,
                     ModelMismatchError, NotRestorableError, PartialCardError, PositionMismatchError)
from .facts import Stream
from .identity import Identity

__all__ = ["AttentionRecord", "load", "model_identity", "record_attention", "save"]


def model_identity(model: Any, *, weights: Optional[Path] = None, source_id: Optional[str] = None,
                   adapters: Optional[str] = None, tokenizer: Optional[Any] = None) -> Identity:
    """What a card would say of this model. Arguments and errors as in save()."""
    return describe_model(model, weights=weights, source_id=source_id, adapters=adapters,
                          tokenizer=tokenizer).identity


def save(cache: Any, path: Path, *, model: Any, input_ids: Any, weights: Optional[Path] = None,
         source_id: Optional[str] = None, adapters: Optional[str] = None, tokenizer: Optional[Any] = None,
         text: str = "", positions: Optional[Any] = None, attention: Optional[AttentionRecord] = None,
         **options: Any) -> WriteReport:
    """Writes a model's cache as a card, of exact values unless options say otherwise.

    cache:     past_key_values: a DynamicCache, or pairs of tensors [1, head, token, channel]; f32, f16 or bf16
    model:     the model that built it: geometry, RoPE and identity come from it
    input_ids: ids of exactly the tokens that are in the cache: a list, array or tensor [token] or [1, token]
    weights:   the file that the model was loaded from. A GGUF gives its digest and its tokenizer's, by which the card
               matches in every runtime; of other files, and without it, only source_id says whose weights they are
    source_id: where the weights come from, "org/name" or "org/name@revision"; None: the model's hub name, if it has one
    adapters:  "none", or "name@scale" of each; None: "none" unless the model carries PEFT adapters
    tokenizer: for the digest of its chat template
    text:      what the tokens were made from
    positions: position of each token; None: 0, 1, 2, ...
    attention: of record_attention(): which tokens the context's end looked at, for codec="entropy"; it is the token_weights
    options:   those of Writer.write(): codec="entropy", bits=1.2 (or file_bytes=10_000_000), profile="model.profile", compressor,
               provenance, overwrite, threads, ...
    Raises:    BatchSizeError, CacheShapeError, CacheLengthError, PrunedCacheError, QuantizedCacheError,
               UnsupportedCacheError, UnknownRopeError, DeviceError; ModelMismatchError (weights or profile of another
               model); GeometryMismatchError (of a profile); CardIOError. A file that exists is left as it was
    """
    if attention is not None and options.get("token_weights") is not None:
        raise InvalidArgumentError("attention says how much each token counts: leave token_weights out")
    described = describe_model(model, weights=weights, source_id=source_id, adapters=adapters, tokenizer=tokenizer)
    ids = whole_numbers(input_ids)
    if ids.ndim != 1:
        raise InvalidArgumentError(f"input_ids has shape {ids.shape}: one sequence is [token] or [1, token]")
    layers = read_cache(cache)
    firsts = check_layers(layers, described, len(ids))
    restorable_from = _restorable_from(described, firsts, len(ids))
    writer = Writer(layer_count=described.layer_count, restorable="from_count" if restorable_from else "any_prefix",
                    restorable_from=restorable_from)
    for index, layer in enumerate(layers):
        rotated, window = described.rotated[index], described.windows[index]
        writer.add_stream(index, "key", TensorRows(layer.keys), rope_state="post_rope" if rotated else "none",
                          rope_pairing=described.pairing if rotated else "none", window=window,
                          first_token=firsts[index])
        writer.add_stream(index, "value", TensorRows(layer.values), window=window, first_token=firsts[index])
    writer.set_tokens(ids, None if positions is None else whole_numbers(positions))
    writer.identity, writer.rope_table, writer.text = described.identity, described.rope_table(), text
    if attention is not None:
        options["token_weights"] = np.concatenate(attention.weights(cache))
    if options.get("coding") is None:
        options.setdefault("provenance", "transformers cache")
    return writer.write(path, **options)


def _restorable_from(model: HfModel, firsts: List[int], token_count: int) -> int:
    """Spec: FORMAT.md#restorable-prefixes. 0 where every prefix can be restored."""
    held = [first + window - 1 for first, window in zip(firsts, model.windows) if window]
    return min(max(held), token_count) if held else 0


def load(path: Path, model: Any, *, weights: Optional[Path] = None, source_id: Optional[str] = None,
         adapters: Optional[str] = None, tokenizer: Optional[Any] = None, allow: Sequence[str] = (),
         token_count: Optional[int] = None, dtype: Optional[Any] = None, device: Optional[Any] = None,
         into: Optional[Any] = None, allow_nonfinite: bool = False, threads: Optional[int] = None) -> Any:
    """Makes a DynamicCache of a card, on the model's devices and in its type, from which generation goes on.

    model:       the model that will use it; weights, source_id, adapters, tokenizer describe it as in save()
    allow:       overrides by name where identities do not match: weights-quantization, weights-container,
                 weights-unknown, adapters-unknown, tokenizer-unknown, rope-unknown. Spec: COMPATIBILITY.md
    token_count: restore the first tokens only; None: all
    dtype:       f32, f16 or bf16; None: the model's
    device:      where every layer goes; None: where the model's layers are
    into:        a DynamicCache to fill; what it held is replaced. It is as it was if anything fails
    allow_nonfinite: take NaN and infinities, which are refused otherwise
    threads:     that decode; None: one for each core, at most 8
    Returns:     the cache; the card's token ids are those of cachecard.open(path).token_ids
    Raises:      ModelMismatchError, IdentityUnknownError, GeometryMismatchError, PartialCardError, NotRestorableError,
                 PositionMismatchError, ContextTooSmallError, NonFiniteError, UnsupportedCacheError, UnknownRopeError,
                 DeviceError; what is wrong with a damaged card. Every byte of the card is checked first
    """
    width = threads if threads is not None else min(8, os.cpu_count() or 1)
    described = describe_model(model, weights=weights, source_id=source_id, adapters=adapters, tokenizer=tokenizer)
    with Card(path) as card:
        card.match(described.identity, allow=allow)
        count = card.facts.token_count if token_count is None else token_count
        _check_card(card, described, count)
        builder = CacheBuilder(into, text_config(model), described.cached_layers)
        plan = [_plan_layer(card, described, builder, layer, count) for layer in range(described.cached_layers)]
        card.check_other_sections(count)
        number = model_dtype(model) if dtype is None else _dtypes.float_number(str(dtype).replace("torch.", ""))
        devices = model_devices(model, described.attention) if device is None else [device] * len(plan)
        tensors = _decode(card, plan, number, width, allow_nonfinite)
    placed = [tuple(stage.move(devices[layer] if devices else None) for stage in pair)
              for layer, pair in enumerate(tensors)]
    return builder.commit([(pair[0], pair[1]) for pair in placed], count)


@dataclass(frozen=True)
class _StreamPlan:
    stream: Stream
    first_token: int
    token_count: int
    pairing: str  # of the model's keys; none where there is nothing to reorder


def _check_card(card: Card, model: HfModel, count: int) -> None:
    """What the header must say, in COMPATIBILITY.md's order."""
    facts = card.facts
    if facts.not_a_prefix or facts.partial_layers:
        raise PartialCardError("the card is not a prefix of a context" if facts.not_a_prefix else
                               "the card lacks layers", field="header.flags")
    if not 0 <= count <= facts.token_count:
        raise InvalidArgumentError(f"token_count is {count}; the card holds {facts.token_count} tokens")
    whole = count == facts.token_count
    if not whole and (facts.restorable == "whole_only" or
                      (facts.restorable == "from_count" and count < facts.restorable_from)):
        raise NotRestorableError(f"{count} of {facts.token_count} tokens: the card is restorable {facts.restorable}, "
                                 f"from {facts.restorable_from} tokens on", field="header.restorable")
    kinds = {stream.stream for stream in card.streams}
    if not kinds <= {"key", "value"}:
        raise GeometryMismatchError(f"the card holds {', '.join(sorted(kinds - {'key', 'value'}))} streams; a "
                                    "transformers cache of this model holds keys and values", field="stream.stream")
    keys = sum(stream.stream == "key" for stream in card.streams)
    if facts.layer_count != model.layer_count or (keys, len(card.streams)) != (model.cached_layers,
                                                                                2 * model.cached_layers):
        raise GeometryMismatchError(f"the card has {facts.layer_count} layers, {keys} of them cached; the model has "
                                    f"{model.layer_count}, {model.cached_layers} of them cached",
                                    field="header.layer_count")
    if not np.array_equal(card.positions[:count], np.arange(count)):
        raise PositionMismatchError("the card's positions are not 0, 1, 2, ..., which transformers gives its tokens",
                                    field="position_run.first_position")
    if model.context is not None and count > model.context:
        raise ContextTooSmallError(f"the card holds {count} tokens, the model's context {model.context}",
                                   field="header.token_count")


def _plan_layer(card: Card, model: HfModel, builder: CacheBuilder, layer: int, count: int) -> Tuple[_StreamPlan, ...]:
    window = builder.window_of(layer)
    kept = count if window == 0 else min(count, window - 1)
    plans = []
    for kind in ("key", "value"):
        stream = card.stream(layer, kind)
        if (stream.kv_head_count, stream.head_dim) != (model.kv_head_count, model.head_dim):
            raise CacheShapeError(f"layer {layer}, {kind}: {stream.kv_head_count} heads of {stream.head_dim}; the model "
                                  f"has {model.kv_head_count} of {model.head_dim}", field="stream.kv_head_count")
        if stream.first_token > count - kept:
            raise PartialCardError(f"layer {layer}, {kind}: held from token {stream.first_token} on, needed from "
                                   f"{count - kept} on", field="stream.first_token")
        pairing = _key_pairing(card, stream, model, layer) if kind == "key" else "none"
        plans.append(_StreamPlan(stream, count - kept, kept, pairing))
    return tuple(plans)


def _key_pairing(card: Card, stream: Stream, model: HfModel, layer: int) -> str:
    """Which channels of a key the model turns together; none where keys are not turned."""
    wanted = "post_rope" if model.rotated[layer] else "none"
    if stream.rope_state != wanted:
        raise GeometryMismatchError(f"layer {layer}: keys are {stream.rope_state}, the model's are {wanted}",
                                    field="stream.rope_state")
    if wanted == "none":
        return "none"
    rope = model.rope_of(layer)
    _check_rope_table(card, rope.inverse_frequencies, rope.magnitude, layer)
    if stream.rope_pairing == "none":
        raise GeometryMismatchError(f"layer {layer}: the card does not say which channels of a key form pairs",
                                    field="stream.rope_pairing")
    return model.pairing


def _check_rope_table(card: Card, frequencies: NDArray[np.float64], magnitude: float, layer: int) -> None:
    table = card.rope_table(layer)
    if table is None:
        return
    # A runtime's own are rounded to f32, by another pow.
    same = table.inverse_frequencies.shape == frequencies.shape and np.allclose(
        table.inverse_frequencies, frequencies, rtol=1e-5, atol=0)
    if not same or abs(table.magnitude - magnitude) > 1e-5 * abs(magnitude):
        raise ModelMismatchError(f"layer {layer}: the card's rotary frequencies are not the model's", field="rope_table")


def _decode(card: Card, plan: Sequence[Tuple[_StreamPlan, ...]], dtype: int, threads: int,
            allow_nonfinite: bool) -> List[List[Stage]]:
    """All values, on the CPU, in the model's order. A few streams at once."""
    torch = sys.modules.get("torch")
    parts = [part for pair in plan for part in pair]
    # Allocated by this thread: memory that a thread of the pool frees is not there for the next load.
    stages = [Stage(torch, (part.token_count, part.stream.kv_head_count, part.stream.head_dim), dtype) for part in parts]

    def fill(part: _StreamPlan, made: Stage) -> None:
        stream = part.stream
        card.decode(stream.layer, stream.stream, part.first_token, part.token_count, made.pointer, dtype, made.strides,
                    rope_pairing=part.pairing, finite=not allow_nonfinite)

    with ThreadPoolExecutor(max(1, threads), thread_name_prefix="cachecard") as pool:
        list(pool.map(fill, parts, stages))
    return [stages[i:i + 2] for i in range(0, len(stages), 2)]
