"""Tiny random models that the real runtimes load: one for each kind of llama.cpp memory.

Their weights mean nothing; what counts is that llama.cpp and llama-server decode them in
milliseconds and that their states are small. Everything follows from SEED, so a model can be
written again anywhere, bit for bit, and none is ever committed. Needs gguf and numpy.
"""
import hashlib
import os
from dataclasses import dataclass, field

import gguf
import numpy

SEED = 20261124
CHAT_TEMPLATE = ("{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content']"
                 " + '<|im_end|>\\n' }}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")


@dataclass
class TinyModel:
    """Hyper-parameters by GGUF key (without the architecture prefix) and tensors by name -> shape."""
    name: str
    arch: str
    why: str
    keys: dict
    module: str = "plain"
    tensors: dict = field(default_factory=dict)


def byte_vocabulary():
    """256 bytes as GPT-2 spells them, one merge (llama.cpp wants the key) and the ChatML marks."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {byte: chr(byte) for byte in printable}
    letters.update({byte: chr(256 + index) for index, byte in enumerate(others)})
    return [letters[byte] for byte in range(256)] + ["Ġt", "<|im_start|>", "<|im_end|>"]


VOCABULARY = byte_vocabulary()
MERGES = ["Ġ t"]


def attention_keys(heads, kv_heads, head_dim, **more):
    return {"attention.head_count": heads, "attention.head_count_kv": kv_heads,
            "attention.key_length": head_dim, "attention.value_length": head_dim,
            "attention.layer_norm_rms_epsilon": 1e-5, "rope.dimension_count": head_dim, **more}


def common_keys(width, layers, feed_forward, context=2048):
    return {"vocab_size": len(VOCABULARY), "context_length": context, "embedding_length": width,
            "block_count": layers, "feed_forward_length": feed_forward}


def attention_tensors(layer, width, heads, kv_heads, head_dim):
    block = f"blk.{layer}."
    return {block + "attn_norm.weight": [width], block + "attn_q.weight": [heads * head_dim, width],
            block + "attn_k.weight": [kv_heads * head_dim, width],
            block + "attn_v.weight": [kv_heads * head_dim, width],
            block + "attn_output.weight": [width, heads * head_dim]}


def feed_forward_tensors(layer, width, feed_forward):
    block = f"blk.{layer}."
    return {block + "ffn_norm.weight": [width], block + "ffn_gate.weight": [feed_forward, width],
            block + "ffn_up.weight": [feed_forward, width], block + "ffn_down.weight": [width, feed_forward]}


def ends(width, norm="output_norm.weight"):
    return {"token_embd.weight": [len(VOCABULARY), width], norm: [width]}


def llama(name, why, head_dim, kv_heads=2, layers=2, width=64, heads=4):
    model = TinyModel(name, "llama", why, {**common_keys(width, layers, 96),
                                           **attention_keys(heads, kv_heads, head_dim), "rope.freq_base": 10000.0})
    model.tensors = ends(width)
    for layer in range(layers):
        model.tensors |= attention_tensors(layer, width, heads, kv_heads, head_dim)
        model.tensors |= feed_forward_tensors(layer, width, 96)
    return model


def gemma3(width=64, layers=6, heads=2, head_dim=32):
    """Six blocks: llama.cpp's pattern gives five sliding-window layers and one full one."""
    keys = {**common_keys(width, layers, 96), **attention_keys(heads, 1, head_dim),
            "attention.sliding_window": 16, "rope.freq_base": 1000000.0}
    model = TinyModel("tiny_gemma3", "gemma3", "sliding window of 16 (iSWA), QK-norm", keys, "iswa")
    model.tensors = ends(width)
    for layer in range(layers):
        block = f"blk.{layer}."
        model.tensors |= attention_tensors(layer, width, heads, 1, head_dim)
        model.tensors |= feed_forward_tensors(layer, width, 96)
        model.tensors |= {block + "attn_q_norm.weight": [head_dim], block + "attn_k_norm.weight": [head_dim],
                          block + "post_attention_norm.weight": [width], block + "post_ffw_norm.weight": [width]}
    return model


def qwen2vl(width=128, layers=2, heads=2, head_dim=64):
    keys = {**common_keys(width, layers, 96), **attention_keys(heads, 1, head_dim),
            "rope.freq_base": 1000000.0, "rope.dimension_sections": [8, 12, 12, 0]}
    model = TinyModel("tiny_qwen2vl", "qwen2vl", "M-RoPE: every cell has 12 more bytes", keys)
    model.tensors = ends(width)
    for layer in range(layers):
        block = f"blk.{layer}."
        model.tensors |= attention_tensors(layer, width, heads, 1, head_dim)
        model.tensors |= feed_forward_tensors(layer, width, 96)
        model.tensors |= {block + "attn_q.bias": [width], block + "attn_k.bias": [head_dim],
                          block + "attn_v.bias": [head_dim]}
    return model


def mamba(width=32, layers=2, state=8, rank=4):
    inner = 2 * width
    keys = {**common_keys(width, layers, 0), "attention.head_count": 0, "attention.head_count_kv": 0,
            "attention.layer_norm_rms_epsilon": 1e-5,
            "ssm.conv_kernel": 4, "ssm.inner_size": inner, "ssm.state_size": state, "ssm.time_step_rank": rank}
    model = TinyModel("tiny_mamba", "mamba", "recurrent state only", keys, "recurrent")
    model.tensors = ends(width)
    for layer in range(layers):
        block = f"blk.{layer}."
        model.tensors |= {
            block + "attn_norm.weight": [width], block + "ssm_in.weight": [2 * inner, width],
            block + "ssm_conv1d.weight": [inner, 4], block + "ssm_conv1d.bias": [inner],
            block + "ssm_x.weight": [rank + 2 * state, inner], block + "ssm_dt.weight": [inner, rank],
            block + "ssm_dt.bias": [inner], block + "ssm_a": [inner, state], block + "ssm_d": [inner],
            block + "ssm_out.weight": [width, inner]}
    return model


def lfm2(width=64, heads=2, head_dim=32):
    """Blocks 0 and 2 are short convolutions (recurrent), 1 and 3 are attention."""
    kv_heads = [0, 1, 0, 1]
    keys = {**common_keys(width, 4, 96), **attention_keys(heads, kv_heads, head_dim),
            "rope.freq_base": 1000000.0, "shortconv.l_cache": 3}
    model = TinyModel("tiny_lfm2", "lfm2", "hybrid: attention and recurrent layers", keys, "hybrid")
    model.tensors = ends(width, norm="token_embd_norm.weight")
    for layer, count in enumerate(kv_heads):
        block = f"blk.{layer}."
        if count:
            model.tensors |= attention_tensors(layer, width, heads, count, head_dim)
            model.tensors |= {block + "attn_q_norm.weight": [head_dim], block + "attn_k_norm.weight": [head_dim]}
        else:
            model.tensors |= {
                block + "attn_norm.weight": [width], block + "shortconv.conv.weight": [width, 3],
                block + "shortconv.in_proj.weight": [3 * width, width],
                block + "shortconv.out_proj.weight": [width, width]}
        model.tensors |= feed_forward_tensors(layer, width, 96)
    return model


def deepseek2(width=64, layers=2, heads=2, latent=96, rope=32, plain=32, value=32, query_rank=32):
    """Multi-head latent attention: one latent row of 128 per token, no V tensor."""
    keys = {**common_keys(width, layers, 96), "attention.head_count": heads, "attention.head_count_kv": 1,
            "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0, "rope.dimension_count": rope,
            "attention.key_length": latent + rope, "attention.value_length": latent,
            "attention.key_length_mla": plain + rope, "attention.value_length_mla": value,
            "attention.q_lora_rank": query_rank, "attention.kv_lora_rank": latent,
            "leading_dense_block_count": layers, "expert_count": 2, "expert_used_count": 1,
            "expert_feed_forward_length": 32, "expert_shared_count": 1, "expert_weights_scale": 1.0}
    model = TinyModel("tiny_deepseek2", "deepseek2", "latent attention (MLA): K only", keys, "mla")
    model.tensors = ends(width)
    for layer in range(layers):
        block = f"blk.{layer}."
        model.tensors |= {
            block + "attn_norm.weight": [width], block + "attn_q_a_norm.weight": [query_rank],
            block + "attn_kv_a_norm.weight": [latent], block + "attn_q_a.weight": [query_rank, width],
            block + "attn_q_b.weight": [heads * (plain + rope), query_rank],
            block + "attn_kv_a_mqa.weight": [latent + rope, width],
            block + "attn_k_b.weight": [heads, latent, plain], block + "attn_v_b.weight": [heads, value, latent],
            block + "attn_output.weight": [width, heads * value]}
        model.tensors |= feed_forward_tensors(layer, width, 96)
    return model


def all_models():
    models = [llama("tiny_llama", "plain attention; head_dim 64, so quantised K and V are rotated", 64),
              llama("tiny_llama_hd32", "plain attention; head_dim 32, so nothing is ever rotated", 32),
              gemma3(), qwen2vl(), mamba(), lfm2(), deepseek2()]
    return {model.name: model for model in models}


def random_values(model_name, tensor_name, shape):
    """Uniform values from splitmix64, so that no library's generator can change them.

    Scaled to keep activations near 1; norms stay near 1, and ssm_a must be negative.
    """
    digest = hashlib.sha256(f"{SEED}/{model_name}/{tensor_name}".encode()).digest()
    count = int(numpy.prod(shape))
    with numpy.errstate(over="ignore"):
        state = numpy.frombuffer(digest[:8], "<u8")[0] + numpy.arange(1, count + 1, dtype=numpy.uint64) * numpy.uint64(
            0x9E3779B97F4A7C15)
        state = (state ^ (state >> numpy.uint64(30))) * numpy.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> numpy.uint64(27))) * numpy.uint64(0x94D049BB133111EB)
        state ^= state >> numpy.uint64(31)
    uniform = (state >> numpy.uint64(40)).astype(numpy.float64) / 2.0**23 - 1.0
    if "norm" in tensor_name:
        values = 1.0 + 0.2 * uniform
    elif tensor_name.endswith("ssm_a"):
        values = -1.0 - 0.5 * (uniform + 1.0)
    elif len(shape) == 1:
        values = 0.1 * uniform
    else:
        values = uniform * numpy.sqrt(3.0 / (1.0 if tensor_name.startswith("token_embd") else shape[-1]))
    return values.astype(numpy.float32).reshape(shape)


def add_key(writer, key, value):
    if isinstance(value, list):
        writer.add_array(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_uint32(key, value)


def add_tokenizer(writer):
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + [gguf.TokenType.CONTROL] * 2)
    writer.add_token_merges(MERGES)
    writer.add_bos_token_id(257)
    writer.add_eos_token_id(258)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def write_model(model, path, with_tensors=True):
    """The model, or (with_tensors=False) its metadata alone: no tensors, no tokenizer arrays."""
    writer = gguf.GGUFWriter(path + ".new", model.arch)
    writer.add_name(model.name)
    writer.add_description(f"random weights, seed {SEED}: {model.why}")
    writer.add_license("Apache-2.0")
    for key, value in model.keys.items():
        add_key(writer, f"{model.arch}.{key}", value)
    if with_tensors:
        add_tokenizer(writer)
        for name, shape in model.tensors.items():
            writer.add_tensor(name, random_values(model.name, name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(path + ".new", path)
    return path
