"""Writes fixtures/caches/torch: small files of the real torch.save, whose values follow a formula.

    /usr/bin/python3 tests/converters/make_pt_fixtures.py fixtures/caches/torch

Value (layer, side, head, token, channel) is ((((layer * 2 + side) * 3 + head) * 31 + token) * 17 + channel) % 256 - 128,
side 0 for keys and 1 for values: whole numbers that f32, f16 and bf16 hold exactly. Token ids are 100 + token.
Written with Debian's python3-torch 1.13.1; zips of the same torch have the same bytes.
"""

import os
import pathlib
import sys
import types

import torch

LAYERS, HEADS, TOKENS, KEY_DIM, VALUE_DIM = 2, 2, 6, 8, 4


def tensor(layer, side, heads, tokens, width, dtype, first=0):
    value = torch.empty(1, heads, tokens, width)
    for h in range(heads):
        for t in range(tokens):
            for c in range(width):
                value[0, h, t, c] = ((((layer * 2 + side) * 3 + h) * 31 + t + first) * 17 + c) % 256 - 128
    return value.to(dtype)


def pairs(dtype):
    return tuple((tensor(layer, 0, HEADS, TOKENS, KEY_DIM, dtype), tensor(layer, 1, HEADS, TOKENS, VALUE_DIM, dtype))
                 for layer in range(LAYERS))


def token_major(value):
    """The same values, laid out [tokens][heads][channels], as attention kernels like them."""
    return value.transpose(1, 2).contiguous().transpose(1, 2)


def transformers_stand_in():
    """Classes of the names that transformers 4.4x and 5.x pickle; a pickle holds names and attributes only."""
    module = types.ModuleType("transformers.cache_utils")
    sys.modules["transformers"] = types.ModuleType("transformers")
    sys.modules["transformers.cache_utils"] = module
    for name in ("DynamicCache", "DynamicLayer", "DynamicSlidingWindowLayer", "QuantoQuantizedCache"):
        setattr(module, name, type(name, (), {"__module__": "transformers.cache_utils"}))
    return module


def with_attributes(kind, **attributes):
    made = kind()
    made.__dict__.update(attributes)
    return made


class Runs:
    """What a hostile file holds: code for the reader to run."""

    def __reduce__(self):
        return os.system, ("touch code_was_run",)


def write(folder):
    torch.save(pairs(torch.float16), folder / "pairs_f16.pt")
    torch.save(pairs(torch.bfloat16), folder / "pairs_bf16_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save([list(pair) for pair in pairs(torch.float32)], folder / "lists_f32.pt")
    torch.save(pairs(torch.float16), folder / "pairs_f16_protocol4.pt", pickle_protocol=4)
    ids = torch.arange(100, 100 + TOKENS)
    keys, values = zip(*pairs(torch.float16))
    torch.save({"key_cache": list(keys), "value_cache": list(values), "token_ids": ids, "positions": torch.arange(TOKENS)},
               folder / "dict_f16.pt")
    torch.save({"past_key_values": tuple((token_major(k), v) for k, v in pairs(torch.bfloat16)), "input_ids": ids[None]},
               folder / "strided_bf16.pt")
    # Layer 1 holds the last 4 tokens.
    sliding = (pairs(torch.float16)[0], (tensor(1, 0, HEADS, 4, KEY_DIM, torch.float16, 2),
                                         tensor(1, 1, HEADS, 4, VALUE_DIM, torch.float16, 2)))
    torch.save(sliding, folder / "sliding_f16.pt")
    module = transformers_stand_in()
    torch.save(with_attributes(module.DynamicCache, key_cache=list(keys), value_cache=list(values), _seen_tokens=TOKENS,
                               _non_persistent_buffers_set=set()), folder / "transformers4_f16.pt")
    layers = [with_attributes(module.DynamicLayer, keys=keys[0], values=values[0], is_initialized=True,
                              dtype=torch.float16, device=torch.device("cpu")),
              with_attributes(module.DynamicSlidingWindowLayer, keys=sliding[1][0], values=sliding[1][1],
                              sliding_window=5, cumulative_length=TOKENS)]
    torch.save(with_attributes(module.DynamicCache, layers=layers, offloading=False), folder / "transformers5_f16.pt")
    refused = folder / "refused"
    refused.mkdir(exist_ok=True)
    torch.save((pairs(torch.float16)[0], (Runs(), Runs())), refused / "code.pt")
    torch.save({"key_cache": Runs()}, refused / "code_legacy.pt", _use_new_zipfile_serialization=False)
    torch.save(with_attributes(module.QuantoQuantizedCache, key_cache=[]), refused / "quantised_cache.pt")
    torch.save(((torch.zeros(2, 2, 3, 4).half(),) * 2,), refused / "batch_2.pt")
    torch.save(((torch.zeros(1, 2, 3, 4).double(), torch.ones(1, 2, 3, 4).double()),), refused / "f64.pt")
    torch.save(((torch.zeros(1, 2, 1, 4).half().expand(1, 2, 50, 4), torch.zeros(1, 2, 50, 4).half()),),
               refused / "expanded.pt")
    torch.save(((torch.zeros(1, 2, 3, 4).to_sparse(), torch.zeros(1, 2, 3, 4)),), refused / "sparse.pt")


if __name__ == "__main__":
    target = pathlib.Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    write(target)
