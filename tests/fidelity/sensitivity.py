"""What errors of each layer's keys and values cost: the file that `cachecard convert --sensitivity` takes.

    sensitivity --model M.gguf OUT.csv [--texts DIR] [--receivers FILE] [--context N]

One stream at a time is kept at 2 bits, all others at 8, and scored as tests/fidelity/run does, on texts that
calibrate and nothing else. The cost is e to the mean of ln KL, less that of 8 bits everywhere.
"""
import datetime
import os
import sys
import tempfile

import fidelity
import text_set
from card_command import CardCommand
from f32_model import f32_copy, file_digest
from fidelity_error import exit_code
from fidelity_report import rows_of
from fidelity_rows import chosen
from fidelity_table import Plan, run_table
from llama_runtime import Model, start_backend

TEXTS = os.path.join(fidelity.ROOT, "fixtures", "calibration")
COARSE, FINE = 2, 8
CONTEXT = 640
EVERYWHERE = f"planes K{FINE} V{FINE}"


def arguments(words):
    parser = fidelity.Parser(prog="tests/fidelity/sensitivity", description=__doc__.splitlines()[0])
    parser.add_argument("out", metavar="OUT.csv")
    parser.add_argument("--texts", default=TEXTS, help="folder of .txt files (default: fixtures/calibration)")
    parser.add_argument("--receivers", default=os.path.join(fidelity.TEXTS, "receivers.json"), help="JSON: name, system, user")
    parser.add_argument("--context", type=int, default=CONTEXT, help=f"tokens of a context (default: {CONTEXT})")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--cli", required=True, help="the cachecard command")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", required=True, help="where the F32 copy is kept")
    return parser.parse_args(words)


def layer_maps(folder, layer_count):
    """--layer-map files by (stream, layer)."""
    paths = {}
    for layer in range(layer_count):
        for stream, bits in (("k", (COARSE, FINE)), ("v", (FINE, COARSE))):
            path = os.path.join(folder, f"{stream}{layer}")
            spans = ((0, layer, (FINE, FINE)), (layer, layer + 1, bits), (layer + 1, layer_count, (FINE, FINE)))
            with open(path, "w", encoding="utf-8") as file:
                file.writelines(f"{first}:{end},{k},{v}\n" for first, end, (k, v) in spans if first < end)
            paths[stream, layer] = path
    return paths


def measure(args, model, folder):
    """Costs [layer] of keys and of values."""
    maps = layer_maps(folder, model.layer_count)
    texts, left_out = text_set.long_enough(text_set.tokenised(text_set.read_texts(args.texts), model), args.context)
    for line in left_out:
        print(f"  {line}", file=sys.stderr)
    rows = chosen([EVERYWHERE], [f"{stream}{layer}=planes --layer-map {path}" for (stream, layer), path in maps.items()])
    plan = Plan(title="F32 copy", model=model, digest=file_digest(args.model), texts=texts,
                receivers=text_set.read_receivers(args.receivers), rows=rows, native=[], context=args.context,
                answer=fidelity.ANSWER, threads=args.threads, seed=fidelity.SEED,
                command=CardCommand(args.cli, os.path.join(args.work, "digests")),
                answers_folder=os.path.join(args.work, "answers"))
    measured, _ = rows_of(run_table(plan, lambda line: print(line, file=sys.stderr, flush=True)))
    kl = {row["name"]: row["kl"] for row in measured}
    return [[max(kl[f"{stream}{layer}"] - kl[EVERYWHERE], 0.0) for layer in range(model.layer_count)] for stream in "kv"]


def written(args, keys, values):
    name = os.path.basename(args.model)
    lines = [f"# What errors of each layer's keys and values cost in {name}: e to the mean of ln KL, in nats, with that stream",
             f"# alone at {COARSE} bits and all others at {FINE}, less what {FINE} bits everywhere cost. For convert --sensitivity.",
             f"# tests/fidelity/sensitivity --context {args.context}; F32 copy; {datetime.date.today().isoformat()}.",
             f"# sha256 {file_digest(args.model)}"]
    lines += [f"{layer}:{layer + 1},{key:.3e},{value:.3e}" for layer, (key, value) in enumerate(zip(keys, values))]
    return "\n".join(lines) + "\n"


def run(words):
    args = arguments(words)
    fidelity.writable(args.out)
    start_backend()
    copy = f32_copy(args.model, file_digest(args.model), args.work)
    with Model(copy) as model, tempfile.TemporaryDirectory(prefix="cachecard-sensitivity-") as folder:
        keys, values = measure(args, model, folder)
    part = f"{args.out}.{os.getpid()}.part"
    with open(part, "w", encoding="utf-8") as file:
        file.write(written(args, keys, values))
    os.replace(part, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("sensitivity", run))
