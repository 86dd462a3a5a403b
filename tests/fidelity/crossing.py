"""A cache that one runtime made, in another: KL and top-1 against what the target runtime makes of its own.

Both load the same GGUF. Every text's context is read by llama.cpp and by transformers, each into an f32 cache; each
cache becomes a card by every codec; each card is opened by both; the text going on is scored, teacher-forced, against
the target's native run. Rows of one runtime alone say what the codec costs, those across what crossing adds.
"""
import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field

import numpy as np

import text_set
from f32_model import f32_copy, file_digest
from fidelity import TEXTS, Parser, commit, writable, write_json
from fidelity_error import INTERNAL, USAGE, FidelityError, exit_code
from kl_metrics import Reference
from llama_runtime import Model, Runtime, runtime_version, start_backend

RUNTIMES = ("llama.cpp", "transformers")


@dataclass(frozen=True)
class Codec:
    """How a card is made: by the command from a state, and by hf.save from a cache."""
    name: str
    arguments: tuple = ()
    options: dict = field(default_factory=dict)
    through: str = ""  # a type that the cache is quantised to on its way, by ggml's recipe


CODECS = (Codec("raw f32"), Codec("ggml q8_0", through="q8_0"), Codec("ggml q4_0", through="q4_0"),
          *(Codec(f"planes K{k} V{v}", ("--codec", "planes", "--bits", f"{k},{v}"), {"codec": "planes", "bits": [k, v]})
            for k, v in ((8, 8), (4, 4), (4, 3))))


class Transformers:
    """The worker process."""

    def __init__(self, python, package, model_path, threads):
        environment = {**os.environ, "PYTHONPATH": package, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1",
                       "TRANSFORMERS_OFFLINE": "1"}
        worker = os.path.join(os.path.dirname(os.path.abspath(__file__)), "hf_worker.py")
        self.process = subprocess.Popen([python, "-B", worker, model_path], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, text=True, env=environment)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def ask(self, task):
        """The logits that the task asks for."""
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        if not self.process.stdout.readline():
            raise FidelityError(INTERNAL, f"hf_worker.py ended with {self.process.wait()} (what it said is above)")
        return np.load(task["logits"])


class Crossing:
    """Both runtimes on one model."""

    def __init__(self, args, model, worker):
        self.args, self.model, self.worker = args, model, worker
        self.environment = {**os.environ, "XDG_CACHE_HOME": os.path.join(args.work, "digests")}

    def convert(self, *words):
        done = subprocess.run([self.args.cli, "convert", *words, "--quiet"], capture_output=True, text=True, check=False,
                              env=self.environment)
        if done.returncode != 0:
            raise FidelityError(INTERNAL, f"cachecard convert ended with {done.returncode}: {done.stderr.strip()}")

    def to_card(self, state, card, arguments=()):
        self.convert(state, card, "--model", self.model.path, "--adapters", "none", *arguments)

    def cards(self, folder, state, tokens):
        """Paths by (source, codec), and transformers' native logits."""
        path = {(source, codec.name): os.path.join(folder, f"{s}-{c}.card")
                for s, source in enumerate(RUNTIMES) for c, codec in enumerate(CODECS)}
        context, rest = tokens
        saved = {path["transformers", codec.name]: codec.options for codec in CODECS if not codec.through}
        native = self.worker.ask({"read": context, "cards": saved, "score": rest, "logits": f"{folder}/native.npy"})
        for codec in CODECS:
            if not codec.through:
                self.to_card(state, path["llama.cpp", codec.name], codec.arguments)
                continue
            like, blocks = self.typed_state(folder, codec.through), f"{folder}/blocks.seq"
            for source in RUNTIMES:
                self.convert(path[source, "raw f32"], blocks, "--like", like, "--rotated", "yes")
                self.to_card(blocks, path[source, codec.name], ("--rotated", "yes"))
        return path, native

    def typed_state(self, folder, cache_type):
        """One token's state of a context of that type: what --like takes."""
        path = os.path.join(folder, f"{cache_type}.seq")
        with Runtime(self.model, 64, cache_type=cache_type, threads=self.args.threads) as runtime:
            runtime.decode([1], 0)
            runtime.save(path, [1])
        return path

    def text(self, context, rest):
        """{(source, target, codec): Score} of one text."""
        scores = {}
        size = len(context) + len(rest) + 1
        with tempfile.TemporaryDirectory() as folder, Runtime(self.model, size, "f32", self.args.threads) as runtime:
            state, back = os.path.join(folder, "own.seq"), os.path.join(folder, "back.seq")
            runtime.decode(context, 0)
            runtime.save(state, context)
            own = Reference(runtime.decode(rest[:-1], len(context), scored=len(rest) - 1), rest[1:])
            cards, native = self.cards(folder, state, (context, rest[:-1]))
            theirs = Reference(native, rest[1:])
            scores["native"] = own.score(native)
            for (source, codec), card in cards.items():
                self.convert(card, back, "--like", state)
                runtime.load(back, len(context))
                logits = runtime.decode(rest[:-1], len(context), scored=len(rest) - 1)
                scores[source, "llama.cpp", codec] = own.score(logits)
                logits = self.worker.ask({"load": card, "score": rest[:-1], "logits": f"{folder}/logits.npy"})
                scores[source, "transformers", codec] = theirs.score(logits)
        return scores


def table(by_text):
    """Means over texts, by codec, source and target."""
    rows = []
    for codec in CODECS:
        for target in RUNTIMES:
            for source in RUNTIMES:
                found = [scores[source, target, codec.name] for scores in by_text.values()]
                rows.append({"codec": codec.name, "source": source, "target": target,
                             "kl": float(np.mean([one.kl for one in found])),
                             "top1": float(np.mean([one.top1 for one in found])),
                             "positions": sum(one.positions for one in found),
                             "by_text": {name: scores[source, target, codec.name].kl
                                         for name, scores in by_text.items()}})
    return rows


def printed(title, rows, by_text):
    lines = [title, f"{'codec':<14}{'from':<14}{'to':<14}{'KL':>11}{'top-1':>9}"]
    lines += [f"{row['codec']:<14}{row['source']:<14}{row['target']:<14}{row['kl']:>11.2e}{row['top1']:>9.4f}" for row in rows]
    kl = np.mean([scores["native"].kl for scores in by_text.values()])
    top1 = np.mean([scores["native"].top1 for scores in by_text.values()])
    lines.append(f"for comparison, transformers' own run against llama.cpp's own: KL {kl:.2e}, top-1 {top1:.4f}")
    return "\n".join(lines)


def arguments(words):
    parser = Parser(prog="tests/fidelity/crossing", description=__doc__.splitlines()[0])
    parser.add_argument("--texts", default=TEXTS, help="folder of .txt files (default: fixtures/texts)")
    parser.add_argument("--context", type=int, default=1000, help="tokens of a context")
    parser.add_argument("--limit", type=int, default=0, help="texts at most, by name (default: all)")
    parser.add_argument("--json", metavar="OUT", help="write everything here")
    parser.add_argument("--deployed", action="store_true", help="the model as it is, not its F32 copy")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--cli", required=True, help="the cachecard command")
    parser.add_argument("--torch-python", required=True, help="interpreter with torch and transformers")
    parser.add_argument("--package", required=True, help="folder where the Python package is installed")
    parser.add_argument("--work", required=True, help="where the F32 copy is kept")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args(words)
    if args.context < 2 or args.limit < 0:
        raise FidelityError(USAGE, "--context is at least 2, --limit 0")
    return args


def run(words):
    args = arguments(words)
    writable(args.json)
    start_backend()
    path = args.model if args.deployed else f32_copy(args.model, file_digest(args.model), args.work)
    with Model(path) as model, Transformers(args.torch_python, args.package, path, args.threads) as worker:
        crossing = Crossing(args, model, worker)
        texts, _ = text_set.long_enough(text_set.tokenised(text_set.read_texts(args.texts), model), args.context)
        by_text = {}
        for text in texts[:args.limit or len(texts)]:
            end = args.context + text.continuation(args.context, model.trained_context) + 1
            by_text[text.name] = crossing.text(text.tokens[:args.context], text.tokens[args.context:end])
            print(f"  {text.name}", file=sys.stderr, flush=True)
    rows = table(by_text)
    kind = "as deployed" if args.deployed else "F32 copy"
    print(printed(f"{kind}: context {args.context}, {len(by_text)} texts, f32 caches", rows, by_text))
    if args.json:
        write_json(args.json, {"command": os.environ.get("CACHECARD_FIDELITY_COMMAND") or shlex.join(sys.argv),
                               "commit": commit(), "runtime": runtime_version(), "context": args.context,
                               "instrument": kind, "rows": rows})
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("crossing", run))
