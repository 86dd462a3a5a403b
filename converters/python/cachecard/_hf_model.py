"""What a Hugging Face model is to a card: geometry, identity and rotary embedding."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from . import _dtypes
from ._hf_rope import Rope, head_dim, rope_sets
from ._model_file import ModelFile, read_model_file, rope_type
from .errors import ForeignInputError, ModelMismatchError, UnknownRopeError, UnsupportedCacheError
from .facts import RopeTable
from .identity import Identity, digest128

# model_type of transformers: GGUF's architecture, and which channels transformers turns together.
# source: rotate_half in transformers 5.17's modeling files; llama.cpp's conversion of each
MODELS: Dict[str, Tuple[str, str]] = {
    "llama": ("llama", "half_split"),
    "mistral": ("llama", "half_split"),
    "mixtral": ("llama", "half_split"),
    "qwen2": ("qwen2", "half_split"),
    "qwen2_moe": ("qwen2moe", "half_split"),
    "qwen3": ("qwen3", "half_split"),
    "qwen3_moe": ("qwen3moe", "half_split"),
    "gemma": ("gemma", "half_split"),
    "gemma2": ("gemma2", "half_split"),
    "gemma3_text": ("gemma3", "half_split"),
    "phi3": ("phi3", "half_split"),
    "olmo": ("olmo", "half_split"),
    "olmo2": ("olmo2", "half_split"),
    "granite": ("granite", "half_split"),
    "starcoder2": ("starcoder2", "half_split"),
    "smollm3": ("smollm3", "half_split"),
    "cohere": ("command-r", "interleaved"),
    "cohere2": ("cohere2", "interleaved"),
}


@dataclass
class HfModel:
    identity: Identity
    layer_count: int
    cached_layers: int
    kv_head_count: int
    head_dim: int
    windows: List[int]
    rotated: List[bool]
    pairing: str
    ropes: Dict[str, Rope]
    layer_types: List[str]
    context: Optional[int]
    attention: List[Any] = field(default_factory=list)

    def rope_of(self, layer: int) -> Rope:
        return self.ropes[""] if "" in self.ropes else self.ropes[self.layer_types[layer]]

    def rope_table(self) -> Optional[RopeTable]:
        """For a card: None where layers differ, which one table cannot say."""
        if len(self.ropes) != 1:
            return None
        rope = next(iter(self.ropes.values()))
        return RopeTable(rope.inverse_frequencies, self.pairing, 0, rope.magnitude)


def text_config(model: Any) -> Any:
    config = getattr(model, "config", model)
    get = getattr(config, "get_text_config", None)
    return get() if callable(get) else config


def attention_modules(model: Any) -> List[Any]:
    """The self-attention modules in layer order; none for a stand-in."""
    modules = getattr(model, "modules", None)
    if modules is None:
        return []
    found = [m for m in modules() if isinstance(getattr(m, "layer_idx", None), int)
             and any(hasattr(m, name) for name in ("q_proj", "qkv_proj", "query_key_value"))]
    return sorted(found, key=lambda m: m.layer_idx)


def describe_model(model: Any, *, weights: Optional[Any] = None, source_id: Optional[str] = None,
                   adapters: Optional[str] = None, tokenizer: Optional[Any] = None) -> HfModel:
    """Errors: UnknownRopeError, UnsupportedCacheError (MLA, encoder-decoder); ModelMismatchError (weights are another
    model's); those of reading weights"""
    config = text_config(model)
    _check_kind(config)
    file = _weights_file(weights)
    kind = getattr(config, "model_type", "")
    if kind not in MODELS:
        raise UnknownRopeError(f"how a {kind or 'nameless'} model rotates its keys is not known here (known are "
                               f"{', '.join(sorted(MODELS))})")
    architecture, pairing = MODELS[kind]
    layers = int(config.num_hidden_layers)
    types = list(getattr(config, "layer_types", None) or [""] * layers)
    described = HfModel(
        identity=Identity(), layer_count=layers,
        cached_layers=layers - int(getattr(config, "num_kv_shared_layers", None) or 0),
        kv_head_count=int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads),
        head_dim=head_dim(config), windows=_windows(config, types), rotated=_rotated(config, layers),
        pairing=pairing, ropes=rope_sets(model, config), layer_types=types,
        context=getattr(config, "max_position_embeddings", None), attention=attention_modules(model))
    described.identity = _config_identity(model, config, architecture, described)
    if file is not None:
        _take_file(described, file)
    elif weights is not None:
        described.identity.weights_container = Path(str(weights)).suffix.lstrip(".") or None
    _declare(described.identity, model, source_id, adapters, tokenizer)
    return described


def _check_kind(config: Any) -> None:
    kind = getattr(config, "model_type", "this")
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedCacheError(f"{kind} is an encoder-decoder model: a card holds no such cache")
    if getattr(config, "kv_lora_rank", None):
        raise UnsupportedCacheError(f"{kind} uses MLA: transformers caches expanded keys and values where other "
                                    "runtimes cache the latent, and they do not cross")


def _weights_file(weights: Optional[Any]) -> Optional[ModelFile]:
    """A GGUF's facts; None for a file of another kind, of which no digest is defined."""
    if weights is None:
        return None
    try:
        return read_model_file(weights)
    except ForeignInputError:
        if Path(str(weights)).suffix == ".gguf":
            raise
        return None


def _windows(config: Any, types: List[str]) -> List[int]:
    """Tokens of each layer's sliding window, 0 for full attention."""
    window = int(getattr(config, "sliding_window", None) or 0)
    context = getattr(config, "max_position_embeddings", None)
    window = 0 if context and window >= context else window  # it never forgets
    if any(types):
        return [window if kind == "sliding_attention" else 0 for kind in types]
    if getattr(config, "use_sliding_window", True) is False:
        window = 0
    if getattr(config, "model_type", "") == "gemma2":  # source: Gemma2DecoderLayer of transformers 4.46
        return [window if layer % 2 == 0 else 0 for layer in range(len(types))]
    return [window] * len(types)


def _rotated(config: Any, layers: int) -> List[bool]:
    given = getattr(config, "no_rope_layers", None)  # SmolLM3: 1 where a layer does rotate
    if given:
        return [bool(rotates) for rotates in given][:layers]
    if getattr(config, "model_type", "") == "cohere2":
        return [kind == "sliding_attention" for kind in getattr(config, "layer_types", None) or [""] * layers]
    return [True] * layers


def _config_identity(model: Any, config: Any, architecture: str, described: HfModel) -> Identity:
    identity = Identity({"architecture": architecture})
    rope = described.ropes.get("", described.ropes.get("full_attention"))
    kind = rope_type(architecture)
    if kind is not None:
        identity.rope_type = kind
    if getattr(config, "vocab_size", None):
        identity.vocab_size = int(config.vocab_size)
    if rope is not None:
        identity.rope_base = rope.base
        identity.rope_dimension_count = 2 * len(rope.inverse_frequencies)
        identity.rope_scaling = rope.scaling
        if rope.scaling != "none":
            identity.rope_scale_factor = float(np.float32(rope.parameters["factor"]))
        original = rope.parameters.get("original_max_position_embeddings")
        if rope.scaling == "yarn" and original:
            identity.rope_original_context = int(original)
    quantization = getattr(config, "quantization_config", None)
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    dtype = str(getattr(model, "dtype", "")).replace("torch.", "")
    names = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
    if method or (quantization is None and dtype in names):
        identity.weights_quantization = str(method) if method else names[dtype]
    return identity


def _take_file(described: HfModel, file: ModelFile) -> None:
    """The file's own identity, held against the model's config."""
    ours = described.identity
    for name in ("architecture", "vocab_size", "rope_base", "rope_dimension_count"):
        if name in ours and name in file.identity and ours[name] != file.identity[name]:
            raise ModelMismatchError(f"weights: the file's {name} is {file.identity[name]!r}, the model's {ours[name]!r}",
                                     field=f"identity.{name}")
    wanted = (described.kv_head_count, described.head_dim, described.head_dim)
    found = [(layer.kv_head_count, layer.key_head_dim, layer.value_head_dim) for layer in file.layers]
    if found[:described.cached_layers] != [wanted] * described.cached_layers or len(found) != described.layer_count:
        raise ModelMismatchError("weights: the file's layers, KV heads or head widths are not the model's",
                                 field="header.layer_count")
    described.identity = file.identity.copy()


def _declare(identity: Identity, model: Any, source_id: Optional[str], adapters: Optional[str],
             tokenizer: Optional[Any]) -> None:
    """What is said rather than measured."""
    if source_id is None and identity.source_id is None and identity.weights_digest is None:
        name = str(getattr(getattr(model, "config", model), "_name_or_path", ""))
        if re.fullmatch(r"[\w.-]+/[\w.-]+", name) and not Path(name).exists():
            source_id = name
    if source_id is not None:
        identity.source_id = source_id
    has_adapters = bool(getattr(model, "peft_config", None) or getattr(model, "_hf_peft_config_loaded", False))
    if adapters is not None:
        identity.adapters = adapters
    elif not has_adapters:
        identity.adapters = "none"
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str) and identity.template_digest is None:
        identity.template_digest = digest128(template.encode())
    runtime = [f"{name} {sys.modules[name].__version__}" for name in ("transformers", "torch") if name in sys.modules]
    identity.producer = ", ".join(runtime) or "cachecard"


def model_dtype(model: Any) -> int:
    """The type that the model computes in: f32, f16 or bf16."""
    for holder in (model, text_config(model)):
        for name in ("dtype", "torch_dtype"):
            found = str(getattr(holder, name, None)).replace("torch.", "")
            number = {"float32": _dtypes.F32, "float16": _dtypes.F16, "bfloat16": _dtypes.BF16}.get(found)
            if number is not None:
                return number
    return _dtypes.F32
