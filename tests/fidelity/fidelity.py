"""How much of a cache's fidelity each codec keeps: KL against the exact cache, through llama.cpp itself.

    run --texts DIR [--receivers FILE] --json OUT
    run --smoke

Every text's context is read once; each row's encoding of that exact cache is put back into the runtime and
scored on the text going on and on two receivers' turns. Runs on an F32 copy of the model, made once.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile

import fidelity_report as report
import fidelity_rows
import text_set
from card_command import CardCommand
from f32_model import f32_copy, file_digest
from fidelity_error import IO, UNSUPPORTED_CODEC, USAGE, FidelityError, exit_code
from fidelity_smoke import SMOKE_ANSWER, SMOKE_CONTEXT, SMOKE_TEXTS, check_smoke
from fidelity_table import Plan, run_table
from llama_runtime import Model, runtime_version, start_backend
from schema_check import check

ROOT = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
TEXTS = os.path.join(ROOT, "fixtures", "texts")
SCHEMA = os.path.join(ROOT, "spec", "schemas", "fidelity.schema.json")
CONTEXT, ANSWER, LONG_CONTEXTS, SEED = 1300, 128, (4000, 8000), 20261124
LEAST_CONTEXT = 64


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise FidelityError(USAGE, message)


def arguments(words):
    parser = Parser(prog="tests/fidelity/run", description=__doc__.splitlines()[0])
    parser.add_argument("--texts", default=TEXTS, help="folder of .txt files (default: fixtures/texts)")
    parser.add_argument("--receivers", default=os.path.join(TEXTS, "receivers.json"), help="JSON: name, system, user")
    parser.add_argument("--json", metavar="OUT", help="write everything here, after spec/schemas/fidelity.schema.json")
    parser.add_argument("--plot", metavar="OUT.svg", help="KL against file bits (needs matplotlib)")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--cli", required=True, help="the cachecard command")
    parser.add_argument("--context", type=int, default=None, help=f"tokens of a context (default: {CONTEXT})")
    parser.add_argument("--rows", help="names, separated by commas (default: all)")
    parser.add_argument("--row", action="append", default=[], metavar="NAME=CODEC [OPTION...]", help="one more row")
    parser.add_argument("--long", action="store_true", help="also contexts of 4,000 and 8,000 tokens")
    parser.add_argument("--no-native", action="store_true", help="leave out the rows whose prefill was quantised")
    parser.add_argument("--no-deployed", action="store_true", help="leave out the table of the model as it is")
    parser.add_argument("--smoke", action="store_true", help="two texts, four rows, and what they must give")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--work", default=os.path.join(ROOT, "build", "fidelity"), help="where the F32 copy is kept")
    args = parser.parse_args(words)
    args.context = args.context or (SMOKE_CONTEXT if args.smoke else CONTEXT)
    if args.context < LEAST_CONTEXT or args.threads < 1 or args.seed < 0:
        raise FidelityError(USAGE, f"--context is at least {LEAST_CONTEXT}, --threads 1, --seed 0")
    return args


def rows_to_run(args, command, model_digest):
    """The rows that go with the model; says which do not."""
    names = [name.strip() for name in args.rows.split(",")] if args.rows else fidelity_rows.SMOKE if args.smoke else None
    known, kept = set(command.codecs()), []
    for row in fidelity_rows.chosen(names, args.row):
        if not row.fits(model_digest):
            print(f"  {row.name} is left out: fixtures/profiles has none of this model (tests/fidelity/sensitivity makes one)")
        elif row.encoder != "card" or row.codec in known:
            kept.append(row)
        else:
            raise FidelityError(UNSUPPORTED_CODEC, f"row {row.name}: {command.path} has no codec '{row.codec}'")
    return kept


def commit():
    """The commit that ran, with a + where the tree differs from it; 'unknown' outside a checkout."""
    try:
        name = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "-C", ROOT, "status", "--porcelain", "--untracked-files=no"],
                                 capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.stdout.strip() + ("+" if changed.stdout.strip() else "")


class Instrument:
    """What every table of one run shares."""

    def __init__(self, args):
        self.args = args
        self.command = CardCommand(args.cli, os.path.join(args.work, "digests"))
        self.digest = file_digest(args.model)
        self.rows = rows_to_run(args, self.command, self.digest)
        self.receivers = text_set.read_receivers(args.receivers)
        contents = text_set.read_texts(args.texts)
        if args.smoke:
            contents = [pair for pair in contents if pair[0] in SMOKE_TEXTS] or contents[:len(SMOKE_TEXTS)]
        start_backend()
        with Model(args.model, vocab_only=True) as model:
            self.texts = text_set.tokenised(contents, model)
        self.main_texts, left_out = text_set.long_enough(self.texts, args.context)
        self.long_texts = {n: text_set.longest(self.texts, n) for n in LONG_CONTEXTS} if args.long else {}
        for line in left_out:
            print(f"  {line}")

    def table(self, title, model, texts, context, rows, native=()):
        args = self.args
        plan = Plan(title=title, model=model, digest=self.digest, texts=texts, receivers=self.receivers, rows=rows,
                    native=list(native), context=context, answer=SMOKE_ANSWER if args.smoke else ANSWER,
                    threads=args.threads, seed=args.seed, command=self.command,
                    answers_folder=os.path.join(args.work, "answers"))
        table = run_table(plan, lambda line: print(line, flush=True))
        rows, native = report.rows_of(table)
        print(f"\n{report.printed(table, rows, native)}\n", flush=True)
        return {"context_tokens": context, "rows": rows}, native

    def run(self):
        """Every table; the facts of the JSON."""
        args, short = self.args, [row for row in self.rows if row.short or row.name not in KNOWN_ROWS]
        copy = f32_copy(args.model, self.digest, args.work)
        native = () if args.no_native or args.smoke else fidelity_rows.NATIVE
        with Model(copy) as model:
            main, native_rows = self.table("F32 copy", model, self.main_texts, args.context, self.rows, native)
            long_tables = [self.table("F32 copy", model, texts, context, short)[0]
                           for context, texts in self.long_texts.items()]
        deployed = None
        if not (args.no_deployed or args.smoke):
            with Model(args.model) as model:
                deployed, _ = self.table("As deployed", model, self.main_texts, args.context, short)
        return self.about() | {"rows": main["rows"], "native": native_rows, "long": long_tables, "deployed": deployed}

    def about(self):
        args = self.args
        return {"command": os.environ.get("CACHECARD_FIDELITY_COMMAND") or shlex.join(sys.argv), "commit": commit(),
                "runtime": runtime_version(), "seed": args.seed, "bootstrap_samples": report.BOOTSTRAP_SAMPLES,
                "model": {"file": os.path.basename(args.model), "sha256": self.digest, "instrument": "f32"},
                "contexts": [args.context, *self.long_texts], "receivers": [one.name for one in self.receivers],
                "texts": [{"name": text.name, "bytes": text.size_bytes, "tokens": len(text.tokens)}
                          for text in self.texts]}


KNOWN_ROWS = {row.name for row in fidelity_rows.ROWS}


def writable(path):
    """Fails before an hour's work, not after it."""
    if path:
        try:
            with tempfile.TemporaryFile(dir=os.path.dirname(os.path.abspath(path))):
                pass
        except OSError as error:
            raise FidelityError(IO, f"{path} cannot be written: {error.strerror}") from error


def write_json(path, facts):
    """Whole or not at all."""
    part = f"{path}.{os.getpid()}.part"
    try:
        with open(part, "w", encoding="utf-8") as file:
            json.dump(facts, file, indent=1)
            file.write("\n")
        os.replace(part, path)
    except OSError as error:
        raise FidelityError(IO, f"{path}: {error.strerror}") from error
    finally:
        if os.path.exists(part):
            os.unlink(part)


def run(words):
    args = arguments(words)
    writable(args.json)
    writable(args.plot)
    facts = Instrument(args).run()
    with open(SCHEMA, encoding="utf-8") as file:
        check(facts, json.load(file))
    if args.json:
        write_json(args.json, facts)
    if args.plot:
        from fidelity_plot import plot
        plot(facts, args.plot)
    return check_smoke(facts) if args.smoke else 0


if __name__ == "__main__":
    sys.exit(exit_code("fidelity", run))
