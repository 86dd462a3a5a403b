"""transformers in a process of its own: its torch and libllama's numpy do not share one.

One JSON object a line in, one out: {"read": [ids], "cards": {path: save options}, "score": [ids], "logits": FILE.npy}
reads a context, saves its cache as cards and scores what follows; {"load": CARD, "score": [ids], "logits": FILE.npy}
goes on from a card. Arguments: the GGUF that both runtimes load.
"""
import contextlib
import io
import json
import pathlib
import sys
import warnings

import numpy as np
import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from cachecard import hf


def load_model(file):
    """In f32. The GGUF has no lm_head of its own: it is the embedding."""
    with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, torch_dtype=torch.float32).eval()
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def score(model, cache, ids, path):
    logits = model(torch.tensor(ids)[None], past_key_values=cache, use_cache=True).logits[0]
    np.save(path, logits.numpy())


def answer(model, file, task):
    if "load" in task:
        cache = hf.load(task["load"], model, weights=file, adapters="none", dtype=torch.float32)
    else:
        ids = torch.tensor(task["read"])[None]
        cache = model(ids, use_cache=True).past_key_values
        for path, options in task["cards"].items():
            hf.save(cache, path, model=model, input_ids=ids, weights=file, adapters="none", overwrite=True, **options)
    score(model, cache, task["score"], task["logits"])


def main():
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    file = pathlib.Path(sys.argv[1])
    replies, sys.stdout = sys.stdout, sys.stderr  # what libraries print is not an answer
    model = load_model(file)
    for line in sys.stdin:
        answer(model, file, json.loads(line))
        print(json.dumps({"done": True}), file=replies, flush=True)


if __name__ == "__main__":
    main()
