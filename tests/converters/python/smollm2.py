"""SmolLM2-135M from its GGUF in transformers, as tests need it: once per process."""

import os
import pathlib
import warnings

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

MODEL_FILE = pathlib.Path(os.environ["CACHECARD_MODEL"])

logging.set_verbosity_error()
logging.disable_progress_bar()
warnings.simplefilter("ignore")
torch.set_grad_enabled(False)
torch.manual_seed(20261124)
torch.set_num_threads(2)


def load_model(file=MODEL_FILE):
    """A model in f32. The GGUF has no lm_head of its own: it is the embedding."""
    import contextlib
    import io

    with contextlib.redirect_stderr(io.StringIO()):  # tqdm
        model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name).eval()
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def token_ids(count, vocabulary=49152):
    """Ids that repeat now and then, as those of a text do; [1, token]."""
    numbers = torch.arange(count)
    return ((numbers * 7919 + numbers // 5) % min(997, vocabulary - 3) + 3)[None]


def generate(model, cache, first_token, count):
    """Greedy ids and the logits of every step: generate() fails on Python 3.11 with torch 1.13."""
    ids, logits = [], []
    token = torch.tensor([[first_token]])
    for _ in range(count):
        outputs = model(token, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        logits.append(outputs.logits[0, -1])
        token = outputs.logits[:, -1].argmax(-1, keepdim=True)
        ids.append(int(token))
    return ids, torch.stack(logits)
