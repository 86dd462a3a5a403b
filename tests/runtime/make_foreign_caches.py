"""Writes fixtures/caches: small state files by the real runtimes, their list, and the tiny models.

    make_foreign_caches.py --models DIR                          only the tiny models (2 s)
    make_foreign_caches.py --out fixtures/caches --server-python PY [--models DIR]

Runs in a Python with llama-cpp-python 0.3.36, gguf and numpy; PY is one with xllamacpp. The models
and the tokens are the same everywhere; state bytes are equal on the same kind of CPU only, because
llama.cpp picks its inner loops by CPU. So the committed files stay until a runtime changes.
"""
import argparse
import hashlib
import json
import os
import struct
import sys
import tempfile
from dataclasses import dataclass

import foreign_state
import tiny_models
from foreign_caches_readme import readme

TYPE_NAMES = {0: "f32", 1: "f16", 30: "bf16", 8: "q8_0", 2: "q4_0", 3: "q4_1", 6: "q5_0", 7: "q5_1", 20: "iq4_nl"}
LIVE_RUNTIME = "libllama of llama-cpp-python 0.3.36 (llama.cpp 0c1e570)"
SERVER_RUNTIME = "llama-server of xllamacpp 2026.10.11549 (llama.cpp v0.6.0)"
TEXT = "A card holds what the model has read, so that no one need read it twice."
TOKENS = [(37 * index + 11) % 256 for index in range(64)]
MODELS = tiny_models.all_models()


@dataclass
class Made:
    """A file just written and what cannot be read from it."""
    file: str
    model: str
    container: str
    how: str
    odd: str = ""
    layout: str = "10/3"
    module: str = ""
    convertible: str = "streams"
    rotation_off: bool = False
    hand_altered: bool = False

    def __post_init__(self):
        self.module = self.module or MODELS[self.model].module


class Workshop:
    """Where the models are, where files go, and what was made so far."""

    def __init__(self, out, models, server_python):
        self.out, self.models, self.server_python = out, models, server_python
        self.made = []

    def path(self, file):
        return os.path.join(self.out, file)

    def model(self, name):
        return os.path.join(self.models, name + ".gguf")

    def write(self, file, data):
        with open(self.path(file), "wb") as target:
            target.write(data)

    def add(self, *arguments, **more):
        self.made.append(Made(*arguments, **more))
        print(f"  {self.made[-1].file}: {os.path.getsize(self.path(self.made[-1].file))} bytes")


def make_types(shop, live):
    """Every cache type, and the cases in which quantised values are not rotated."""
    plans = [("tiny_llama", kind, kind, True, "") for kind in live.TYPE_IDS]
    plans += [("tiny_llama", "q8_0", "f16", True, "_v_f16"), ("tiny_llama", "f16", "q8_0", True, "_v_q8_0"),
              ("tiny_llama_hd32", "f16", "f16", True, ""), ("tiny_llama_hd32", "q8_0", "q8_0", True, ""),
              ("tiny_llama", "f16", "f16", False, "_v_transposed"), ("tiny_llama", "f32", "f32", False, "_v_transposed"),
              ("tiny_llama", "q8_0", "f16", False, "_v_f16_transposed")]
    for model, type_k, type_v, flash, suffix in plans:
        with live.Context(shop.model(model), type_k, type_v, flash) as context:
            context.decode(TOKENS[:5])
            file = f"{model[5:]}_{type_k}{suffix}.seq"
            context.save_sequence(shop.path(file), TOKENS[:5])
        odd = "" if flash else "flash attention off, so V is stored channel by channel"
        odd += "quantised but not rotated: head_dim is 32" if model.endswith("hd32") and type_k == "q8_0" else ""
        shop.add(file, model, "sequence", f"5 tokens, K {type_k}, V {type_v}, llama_state_seq_save_file", odd)


def make_unrotated(shop, live):
    """The same type and geometry as llama_q8_0.seq with other values: nothing in the file tells them apart."""
    os.environ["LLAMA_ATTN_ROT_DISABLE"] = "1"
    try:
        with live.Context(shop.model("tiny_llama"), "q8_0", "q8_0") as context:
            context.decode(TOKENS[:5])
            context.save_sequence(shop.path("llama_q8_0_unrotated.seq"), TOKENS[:5])
    finally:
        del os.environ["LLAMA_ATTN_ROT_DISABLE"]
    shop.add("llama_q8_0_unrotated.seq", "tiny_llama", "sequence", "5 tokens with LLAMA_ATTN_ROT_DISABLE=1",
             "quantised but not rotated, which a 10/3 file does not say", rotation_off=True)


def make_containers(shop, live):
    """The other three containers of llama_f16.seq's state, a file without tokens, and empty states."""
    with live.Context(shop.model("tiny_llama")) as context:
        shop.write("llama_empty.ctx", context.whole_context())
        context.save_sequence(shop.path("llama_empty.seq"), [])
        context.decode(TOKENS[:5])
        context.save_session(shop.path("llama_f16.session"), TOKENS[:5])
        context.save_sequence(shop.path("llama_f16_no_tokens.seq"), [])
        shop.write("llama_f16.mem", context.sequence_memory())
        shop.write("llama_f16.ctx", context.whole_context())
    how = "the state of llama_f16.seq"
    shop.add("llama_f16.session", "tiny_llama", "session", how + ", llama_state_save_file", "has the arch string")
    shop.add("llama_f16.mem", "tiny_llama", "sequence_memory", how + ", llama_state_seq_get_data",
             "no version, no tokens")
    shop.add("llama_f16.ctx", "tiny_llama", "whole_context", how + ", llama_state_get_data", "no version, no tokens")
    shop.add("llama_f16_no_tokens.seq", "tiny_llama", "sequence", how + ", saved with n_tokens 0",
             "5 cells, no token list")
    shop.add("llama_empty.seq", "tiny_llama", "sequence", "a fresh context, llama_state_seq_save_file",
             "no cells: neither types nor v_trans are in the file", convertible="refused")
    shop.add("llama_empty.ctx", "tiny_llama", "whole_context", "a fresh context, llama_state_get_data",
             "no cells", convertible="refused")


def make_sequences(shop, live):
    """Several sequences in one context: only what belongs to one of them can become a card."""
    with live.Context(shop.model("tiny_llama"), ctx=1024, sequences=4) as context:
        context.decode(TOKENS[:5], sequence=2)
        context.save_sequence(shop.path("llama_f16_4_streams.seq"), TOKENS[:5], sequence=2)
        shop.write("llama_f16_4_streams.mem", context.sequence_memory(2))
        context.decode(TOKENS[:3], sequence=0)
        shop.write("llama_f16_2_sequences_4_streams.ctx", context.whole_context())
    with live.Context(shop.model("tiny_llama"), sequences=2, unified=True) as context:
        context.decode(TOKENS[:5])
        context.copy(0, 1)
        context.decode(TOKENS[5:7], sequence=1, start=5)
        context.save_sequence(shop.path("llama_f16_shared_cells.seq"), TOKENS[:7], sequence=1)
        context.save_session(shop.path("llama_f16_2_sequences.session"), TOKENS[:7])
    how = "n_seq_max 4, not unified, 5 tokens in sequence 2"
    shop.add("llama_f16_4_streams.seq", "tiny_llama", "sequence", how, "cell counts 0, 0, 5, 0")
    shop.add("llama_f16_4_streams.mem", "tiny_llama", "sequence_memory", how, "cell counts 0, 0, 5, 0; seq_id 2")
    shop.add("llama_f16_2_sequences_4_streams.ctx", "tiny_llama", "whole_context", how + ", 3 in sequence 0",
             "two sequences in two streams", convertible="refused")
    shop.add("llama_f16_shared_cells.seq", "tiny_llama", "sequence",
             "unified, sequence 1 copied from 0 after 5 tokens, 2 more",
             "its cells were shared, the file does not show it")
    shop.add("llama_f16_2_sequences.session", "tiny_llama", "session", "the whole context of llama_f16_shared_cells.seq",
             "two sequences, cells of the first 5 tokens belong to both", convertible="refused")


def make_fragmented(shop, live):
    """Sequence 0 grows into the holes that a removed range of sequence 1 left before its own cells."""
    for kind, flash, suffix in (("f16", True, ""), ("f32", False, "_v_transposed"), ("q8_0", True, "")):
        file = f"llama_{kind}_fragmented{suffix}.seq"
        with live.Context(shop.model("tiny_llama"), kind, kind, flash, sequences=2, unified=True) as context:
            context.decode(TOKENS[:3])
            context.decode(TOKENS[20:32], sequence=1)
            context.decode(TOKENS[3:5], start=3)
            context.remove(1, 2, 10)
            context.decode(TOKENS[5:8], start=5)
            context.save_sequence(shop.path(file), TOKENS[:8])
        shop.add(file, "tiny_llama", "sequence", "8 tokens; the last 3 fill cells freed by another sequence",
                 "cell order is not position order")
    with live.Context(shop.model("tiny_llama")) as context:
        context.decode(TOKENS[:7])
        context.remove(0, 2, 4)
        kept = TOKENS[:2] + TOKENS[4:7]
        context.save_sequence(shop.path("llama_f16_hole.seq"), kept)
    shop.add("llama_f16_hole.seq", "tiny_llama", "sequence",
             "7 tokens, positions 2 and 3 removed; the token list has the 5 left",
             "positions 0, 1, 4, 5, 6")


def make_other_modules(shop, live):
    """One state per kind of memory, and the forms in which a sliding window is saved."""
    with live.Context(shop.model("tiny_gemma3")) as context:
        context.decode(TOKENS[:60])
        context.save_sequence(shop.path("gemma3_f16.seq"), TOKENS[:60])
        shop.write("gemma3_f16_window_only.mem", context.sequence_memory(flags=live.PARTIAL_ONLY))
        context.save_session(shop.path("gemma3_f16.session"), TOKENS[:60])
    shop.add("gemma3_f16.seq", "tiny_gemma3", "sequence", "60 tokens, window 16", "base cache 60 cells, window cache 16")
    shop.add("gemma3_f16.session", "tiny_gemma3", "session", "60 tokens, window 16", "both caches hold 60 cells")
    shop.add("gemma3_f16_window_only.mem", "tiny_gemma3", "sequence_memory", "60 tokens, flag PARTIAL_ONLY",
             "the window cache alone: looks like a plain cache of 5 layers", module="swa_only", convertible="refused")
    with live.Context(shop.model("tiny_qwen2vl")) as context:
        context.decode(TOKENS[:5])
        context.save_sequence(shop.path("qwen2vl_f16.seq"), TOKENS[:5])
        context.decode_image(2, 3, 5, 128)
        context.decode(TOKENS[5:7], start=8)
        context.save_sequence(shop.path("qwen2vl_f16_image.seq"), TOKENS[:5] + [0] * 6 + TOKENS[5:7])
    shop.add("qwen2vl_f16.seq", "tiny_qwen2vl", "sequence", "5 text tokens", "M-RoPE: 12 more bytes per cell")
    shop.add("qwen2vl_f16_image.seq", "tiny_qwen2vl", "sequence",
             "5 tokens, an image of 2 rows by 3 columns as embeddings, 2 tokens",
             "six cells share position 5 (ext: x, y, token -1); their token list entries are 0")
    for name, what, verdict in (
            ("mamba", "recurrent state only: one cell", "opaque"),
            ("lfm2", "hybrid: 2 attention layers, then 2 short convolutions whose S rows have 0 bytes", "opaque"),
            ("deepseek2", "MLA: K rows of 96 latent + 32 RoPE channels, no V tensors", "streams")):
        with live.Context(shop.model("tiny_" + name)) as context:
            context.decode(TOKENS[:5])
            context.save_sequence(shop.path(name + ".seq"), TOKENS[:5])
        shop.add(name + ".seq", "tiny_" + name, "sequence", "5 tokens", what, convertible=verdict)


def check_restores(shop, live):
    """Every 10/3 sequence file must go into a fresh context of its own kind."""
    for made in shop.made:
        if made.container != "sequence" or made.layout != "10/3" or made.convertible == "refused":
            continue
        entry = describe(shop, made)
        type_k, streams = entry["type_k"] or "f16", entry["n_stream"] or 1
        with live.Context(shop.model(made.model), type_k, entry["type_v"] or type_k, not entry["v_trans"],
                          ctx=256 * streams, sequences=streams) as context:
            if context.load_sequence(shop.path(made.file)) is None:
                raise RuntimeError(f"{made.file}: llama.cpp does not restore it: {''.join(live.LOG[-3:])}")


def make_server_files(shop):
    """Slot files of a real llama-server, layout 11/4."""
    quantised = dict(cache_type_k="q8_0", cache_type_v="q8_0")
    plans = [("llama", "f16", "tiny_llama", 16, 0, {}, ""),
             ("llama", "f32", "tiny_llama", 16, 0, dict(cache_type_k="f32", cache_type_v="f32"), ""),
             ("llama", "q8_0", "tiny_llama", 16, 0, quantised, "rotated: n_rot 64 and 64"),
             ("llama", "q4_0", "tiny_llama", 16, 0, dict(cache_type_k="q4_0", cache_type_v="q4_0"),
              "rotated: n_rot 64 and 64"),
             ("llama_hd32", "q8_0", "tiny_llama_hd32", 16, 0, quantised, "not rotated: n_rot 0 and 0"),
             ("llama", "f16_v_transposed", "tiny_llama", 16, 0, dict(no_flash_attn=True), "flash attention off"),
             ("llama", "f16_4_slots", "tiny_llama", 16, 2, dict(parallel=4, ctx=1024),
              "slot 2 of 4: n_stream 4, counts 0, 0, n, 0"),
             ("llama", "f16_1_token", "tiny_llama", 1, 0, {}, "one token: what a probe of a server's layout looks like"),
             ("llama", "empty", "tiny_llama", 0, 0, {}, "an empty slot"),
             ("gemma3", "f16_checkpoints", "tiny_gemma3", 60, 0, dict(ubatch=32),
              "two context checkpoints after the state"),
             ("gemma3", "f16", "tiny_gemma3", 60, 0, dict(checkpoints=0), "sliding window without checkpoints"),
             ("qwen2vl", "f16", "tiny_qwen2vl", 16, 0, {}, "M-RoPE"),
             ("mamba", "state", "tiny_mamba", 60, 0, {}, "recurrent, with a checkpoint"),
             ("lfm2", "f16", "tiny_lfm2", 60, 0, {}, "hybrid, with a checkpoint"),
             ("deepseek2", "f16", "tiny_deepseek2", 16, 0, {}, "MLA"),
             ("deepseek2", "q8_0", "tiny_deepseek2", 16, 0, quantised,
              "MLA: n_rot_k says 128, but the stored values are not rotated")]
    for name, kind, model, length, slot, options, odd in plans:
        file = f"server_{name}_{kind}.slot"
        save_slot(shop, file, model, TEXT[:length], slot, {"ctx": 512, **options})
        shown = " ".join(f"{key}={value}" for key, value in options.items()) or "default options"
        verdict = "refused" if not length else "opaque" if name in ("mamba", "lfm2") else "streams"
        shop.add(file, model, "sequence", f"{length} bytes of text in slot {slot}, {shown}", odd,
                 layout="11/4", convertible=verdict)


def save_slot(shop, file, model, text, slot, options):
    """One server, one prompt, one slot file, and the proof that the server takes it back."""
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "handoff"))
    from server_client import ServerProcess, completion, restore, save
    with ServerProcess(shop.model(model), shop.out, shop.server_python, threads=1, **options) as server:
        if text:
            completion(server.url, text, n_predict=1, slot=slot)
        saved = save(server.url, file, slot)
        if text and restore(server.url, file, slot)["n_restored"] != saved["n_saved"]:
            raise RuntimeError(f"{file}: the server does not take its own file back")


def make_media(shop):
    """llama-server writes media chunks for vision models only; no tiny one exists, so this file is altered by hand."""
    with open(shop.path("server_qwen2vl_f16.slot"), "rb") as source:
        data = source.read()
    words = struct.unpack_from("<I", data, 8)[0]
    count = struct.unpack_from("<I", data, 20)[0]
    chunk = b"not a real image chunk"
    blob = data[12:24 + 4 * count] + struct.pack("<III", 1, 4, len(chunk)) + chunk
    blob += bytes(-len(blob) % 4)
    head = data[:8] + struct.pack("<I", len(blob) // 4)
    shop.write("server_qwen2vl_media_by_hand.slot", head + blob + data[12 + 4 * words:])
    shop.add("server_qwen2vl_media_by_hand.slot", "tiny_qwen2vl", "sequence",
             "server_qwen2vl_f16.slot with one media chunk (start index 4, 22 bytes) put into its token blob",
             "altered by hand; the chunk's bytes mean nothing", layout="11/4", hand_altered=True)


def describe(shop, made):
    """The entry of caches.json: read from the file, completed from the model's keys."""
    with open(shop.path(made.file), "rb") as source:
        data = source.read()
    keys = MODELS[made.model].keys
    state = foreign_state.read_state(data, made.container, made.layout, made.module, made.model == "tiny_qwen2vl")
    first = state["parts"][0]
    attention = first if first["kind"] == "attention" and first["layers_k"] else None
    entry = {
        "file": made.file, "container": made.container, "layout": made.layout, "arch": MODELS[made.model].arch,
        "model": made.model + ".gguf", "module": made.module, "convertible": made.convertible,
        "n_layer": keys["block_count"], "n_head_kv": keys["attention.head_count_kv"],
        "head_dim": keys.get("attention.key_length"),
        "head_dim_v": keys.get("attention.value_length") if made.module != "mla" else None,
        "type_k": TYPE_NAMES[first["layers_k"][0]["type"]] if attention else None,
        "type_v": TYPE_NAMES[first["layers_v"][0]["type"]] if attention and first["layers_v"] else None,
        "v_trans": first["v_trans"] if attention else None,
        "n_stream": len(first["counts"]) if first["kind"] == "attention" else None,
        "token_count": len(state["tokens"]), "cells": sum(first["counts"]), "cell_ext": made.model == "tiny_qwen2vl",
        "server_token_blob": state["packed"] or False, "media_chunks": len(state.get("media", [])),
        "checkpoints": len(state["checkpoints"]), "sequences": len({one for cell in first["sequences"] for one in cell}),
        "n_rot": first.get("n_rot"), "hand_altered": made.hand_altered, "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest()}
    entry |= rotation(entry, made)
    entry["parts"] = [part_facts(part) for part in state["parts"]]
    entry["tokens"] = state["tokens"]
    return entry


def part_facts(part):
    layers = len(part["layers_k"]) if part["kind"] == "attention" else part.get("n_layer", 0)
    return {"kind": part["kind"], "counts": part["counts"], "positions": part["positions"], "n_layer": layers}


def rotation(entry, made):
    """llama.cpp's rule (quantised, head_dim % 64 == 0), held against n_rot where the file has it.

    Latent (MLA) caches are never rotated, whatever their n_rot says: the graph that fills them leaves it out.
    """
    on = not made.rotation_off and made.module != "mla"
    result = {}
    for side, head_dim in (("k", entry["head_dim"]), ("v", entry["head_dim_v"])):
        kind = entry["type_" + side]
        result["rotated_" + side] = bool(on and kind and kind[0] in "qi" and head_dim % 64 == 0)
    result["rotated"] = result["rotated_k"] or result["rotated_v"]
    recorded = [bool(size) for size in entry["n_rot"] or []]
    if recorded and made.module != "mla" and recorded != [result["rotated_k"], result["rotated_v"]]:
        raise RuntimeError(f"{made.file}: n_rot {entry['n_rot']} against the rule {result}")
    return result


def write_lists(shop):
    entries = [describe(shop, made) for made in shop.made]
    lines = ",\n".join(json.dumps(entry) for entry in entries)
    with open(shop.path("caches.json"), "w", encoding="utf-8") as target:
        target.write(f'{{"seed": {tiny_models.SEED}, "files": [\n{lines}\n]}}\n')
    with open(shop.path("README.md"), "w", encoding="utf-8") as target:
        target.write(readme(shop.made, entries, MODELS, {"10/3": LIVE_RUNTIME, "11/4": SERVER_RUNTIME}))


def write_models(folder, with_tensors=True):
    os.makedirs(folder, exist_ok=True)
    for model in MODELS.values():
        tiny_models.write_model(model, os.path.join(folder, model.name + ".gguf"), with_tensors)


def default_models_folder():
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "cachecard", "tiny_models")


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", default=default_models_folder(),
                        help="where the tiny models go (default: %(default)s)")
    parser.add_argument("--out", help="write state files, caches.json, README.md and models/ (metadata only) here")
    parser.add_argument("--server-python", help="a Python with xllamacpp (needed with --out)")
    arguments = parser.parse_args(argv)
    print(f"seed {tiny_models.SEED}, models in {arguments.models}")
    write_models(arguments.models)
    if not arguments.out:
        return
    if not arguments.server_python:
        parser.error("--out needs --server-python")
    import live_llama as live
    os.makedirs(arguments.out, exist_ok=True)
    shop = Workshop(arguments.out, arguments.models, arguments.server_python)
    live.start_backend()
    for step in (make_types, make_unrotated, make_containers, make_sequences, make_fragmented, make_other_modules):
        step(shop, live)
    check_restores(shop, live)
    make_server_files(shop)
    make_media(shop)
    write_lists(shop)
    write_models(os.path.join(arguments.out, "models"), with_tensors=False)


if __name__ == "__main__":
    main(sys.argv[1:])
