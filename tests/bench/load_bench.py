"""cachecard.hf.load against C++ for the same card, in turn:
    load_bench.py CARD_LOAD MODEL RUNS CARD...   one JSON line: {card: [Python ms, C++ ms, and both in CPU time], ...}, medians

Runs in the interpreter that has transformers. C++ is card_load, a process that waits; both load f16 on two threads. Both keep
the memory that they free: else it depends on the luck of each heap who gets new pages from the kernel with every load.
"""

import contextlib
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
import warnings

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

import cachecard.hf

THREADS = 2
KEEP_FREED = {"MALLOC_TRIM_THRESHOLD_": str(1 << 30), "MALLOC_MMAP_THRESHOLD_": str(1 << 30)}


def load_model(path):
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.simplefilter("ignore")
    torch.set_num_threads(THREADS)
    with contextlib.redirect_stderr(io.StringIO()):
        return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name).eval()


def pairs(card_load, path, model, card, runs):
    command = [card_load, str(path), card, str(THREADS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as peer:
        found = []
        for _ in range(runs + 1):
            started, cpu = time.perf_counter(), time.process_time()
            cache = cachecard.hf.load(card, model, weights=path, dtype="f16", threads=THREADS)
            ours = [1e3 * (time.perf_counter() - started), 1e3 * (time.process_time() - cpu)]
            del cache
            peer.stdin.write("again\n")
            peer.stdin.flush()
            theirs = [float(number) for number in peer.stdout.readline().split()[:2]]
            found.append((ours[0], theirs[0], ours[1], theirs[1]))
        peer.stdin.close()
    return [statistics.median(values) for values in zip(*found[1:])]  # the first round warms up


def main():
    if any(os.environ.get(name) != value for name, value in KEEP_FREED.items()):  # read by glibc when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **KEEP_FREED})
    card_load, path, runs, *cards = sys.argv[1:]
    os.environ.setdefault("XDG_CACHE_HOME", os.path.expanduser("~/.cache"))
    path = pathlib.Path(path)
    model = load_model(path)
    print(json.dumps({card: pairs(card_load, path, model, card, int(runs)) for card in cards}))


if __name__ == "__main__":
    main()
