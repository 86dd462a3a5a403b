"""What each part of the compact card is worth, in one runtime at equal file bytes.

    ablations --group GROUP [--limit N] [--json OUT] [--plot OUT.svg]

Texts are spread over processes; each measures as tests/fidelity/run does, on the F32 copy of the model.
"""
import json
import multiprocessing
import os
import shlex
import signal
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import ablation_chains
import ablation_groups
import ablation_report
import fidelity
import text_set
import token_controller
from ablation_case import Bench, Setup
from ablation_jobs import MAKERS, WITH_CONTROLLER, Texts, jobs_of, receivers_of
from f32_model import f32_copy, file_digest
from fidelity_error import INTERRUPTED, USAGE, FidelityError, exit_code
from llama_runtime import Model, runtime_version, start_backend
from schema_check import check

CALIBRATION = os.path.join(fidelity.ROOT, "fixtures", "calibration")
SCHEMA = os.path.join(fidelity.ROOT, "spec", "schemas", "ablations.schema.json")
THREADS_A_PROCESS = 4
CALIBRATION_CONTEXT = 640
MEASURES = {**ablation_groups.MEASURES, **ablation_chains.MEASURES}
_bench = None  # of this process


def arguments(words):
    parser = fidelity.Parser(prog="tests/fidelity/ablations", description=__doc__.splitlines()[0])
    parser.add_argument("--group", required=True, choices=sorted(MAKERS), help="which rows")
    parser.add_argument("--texts", default=fidelity.TEXTS, help="folder of .txt files (default: fixtures/texts)")
    parser.add_argument("--receivers", default=os.path.join(fidelity.TEXTS, "receivers.json"), help="JSON: name, system, user")
    parser.add_argument("--json", metavar="OUT", help="write everything here, after spec/schemas/ablations.schema.json")
    parser.add_argument("--plot", metavar="OUT.svg", help="KL against file bits, or by hop or context (needs matplotlib)")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--cli", required=True, help="the cachecard command")
    parser.add_argument("--context", type=int, help="tokens of a context, of the longest in contexts, of the base in hops (default: as ABLATIONS.md)")
    parser.add_argument("--row", action="append", default=[], metavar="NAME=OPTION...", help="one more row of weights and pieces: entropy with the profile and this, e.g. 'coarse sinks=--exact-tokens 0'")
    parser.add_argument("--limit", type=int, help="texts at most (default: all)")
    parser.add_argument("--calibration-limit", type=int, help="texts at most that QKVShare's controller is fitted to (default: all)")
    parser.add_argument("--answer", type=int, default=fidelity.ANSWER, help=f"tokens of a receiver's answer (default: {fidelity.ANSWER})")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--seed", type=int, default=fidelity.SEED)
    parser.add_argument("--work", default=os.path.join(fidelity.ROOT, "build", "fidelity"), help="where the F32 copy is kept")
    args = parser.parse_args(words)
    if args.threads < 1 or args.seed < 0 or args.answer < 8 or (args.limit is not None and args.limit < 1):
        raise FidelityError(USAGE, "--threads and --limit are at least 1, --answer 8, --seed 0")
    for row in args.row:
        if not all(part.strip() for part in row.partition("=")):
            raise FidelityError(USAGE, f"--row '{row}': NAME=OPTION... is wanted")
    if args.context is not None and args.context < 256:
        raise FidelityError(USAGE, f"--context {args.context}: at least 256")
    return args


def start(setup):
    """In each process, once. Ctrl-C is the parent's to act on; its SIGTERM leaves no files behind."""
    global _bench
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(INTERRUPTED))
    _bench = Bench(setup)


def guarded(work):
    """What came of it, or (exit code, text): exceptions of more than one argument do not cross processes."""
    try:
        return work()
    except FidelityError as error:
        return error.code, str(error)
    except SystemExit:  # the pool would take it for a result, and go on
        os._exit(INTERRUPTED)


def one_job(task):
    job, receivers = task

    def work():
        with _bench.case(job.text, job.context, receivers, ablation_chains.room(job)) as case:
            return list(MEASURES[job.group](case, job))
    return guarded(work)


def one_calibration(task):
    """Features and targets of a text that calibrates."""
    text, context, receivers, counts = task

    def work():
        with _bench.case(text, context, receivers) as case:
            return [token_controller.features(case, counts), token_controller.target(case.weights("oracle"))]
    return guarded(work)


def results(pool, function, tasks, names):
    """By task, with progress. Raises what a process could not do."""
    started = time.monotonic()
    for number, (name, result) in enumerate(zip(names, pool.map(function, tasks))):
        if isinstance(result, tuple):
            raise FidelityError(result[0], f"{name}: {result[1]}")
        print(f"  {name}, {number + 1} of {len(tasks)}, {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        yield result


@contextmanager
def processes(setup, threads):
    """A pool; what still runs when something goes wrong is ended."""
    with ProcessPoolExecutor(max(1, threads // THREADS_A_PROCESS), multiprocessing.get_context("spawn"), start, (setup,)) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for child in multiprocessing.active_children():
                child.terminate()
            raise


def fitted(pool, args, texts):
    """QKVShare's controller, fitted to calibration texts and nothing else; what the JSON says of it."""
    import numpy as np
    able = [text for text in texts.calibration if len(text.tokens) > CALIBRATION_CONTEXT + text_set.LEAST_CONTINUATION]
    able = able[:args.calibration_limit]
    if not able:
        raise FidelityError(USAGE, f"{CALIBRATION} has no text of {CALIBRATION_CONTEXT} tokens and more")
    counts = Counter(token for text in texts.calibration for token in text.tokens)
    tasks = [(text, CALIBRATION_CONTEXT, texts.receivers, counts) for text in able]
    found = list(results(pool, one_calibration, tasks, [f"controller: {text.name}" for text in able]))
    rows, targets = np.concatenate([rows for rows, _ in found]), np.concatenate([wanted for _, wanted in found])
    controller = token_controller.fit(rows, targets)
    r2, correlated = token_controller.explained(controller, rows, targets)
    singles = {name: token_controller.correlation(rows[:, i], targets) for i, name in enumerate(token_controller.FEATURES)}
    facts = {"parameters": controller.parameter_count, "seed": token_controller.SEED, "steps": token_controller.STEPS,
             "texts": [text.name for text in able], "tokens": len(targets), "r2": float(r2), "correlation": correlated, "features": singles}
    print(f"\nQKVShare's controller: {facts['parameters']} parameters, seed {facts['seed']}, fitted to {len(targets):,} tokens of "
          f"{len(able)} texts: R2 {r2:.3f}, correlation {correlated:.3f}; of single features "
          + ", ".join(f"{name} {value:+.2f}" for name, value in singles.items()) + "\n", flush=True)
    return {"controller": controller, "counts": counts}, facts


def say(tables):
    for table in tables:
        print(f"{ablation_report.printed(table)}\n", flush=True)


def run(words):
    args = arguments(words)
    fidelity.writable(args.json)
    fidelity.writable(args.plot)
    digest = file_digest(args.model)
    setup = Setup(f32_copy(args.model, digest, args.work), digest, args.cli, args.work, args.answer,
                  min(args.threads, THREADS_A_PROCESS), args.seed)
    receivers = receivers_of(args.group, text_set.read_receivers(args.receivers))
    start_backend()
    with Model(args.model, vocab_only=True) as model:
        texts = Texts(model, args.texts, CALIBRATION, receivers, args.limit)
    started = time.monotonic()
    with processes(setup, args.threads) as pool:
        controller, about_controller = fitted(pool, args, texts) if args.group in WITH_CONTROLLER else ({}, None)
        more = [tuple(part.strip() for part in row.split("=", 1)) for row in args.row]
        jobs = jobs_of(args.group, texts, args.context, controller | {"more": more})
        measured = []
        try:
            for of_job in results(pool, one_job, [(job, receivers) for job in jobs], [f"{job.table}: {job.text.name}" for job in jobs]):
                measured += of_job
        except KeyboardInterrupt:  # what was found is printed, and nothing written
            say(ablation_report.tables_of(measured, args.seed))
            raise
    tables = ablation_report.tables_of(measured, args.seed)
    say(tables)
    seconds = time.monotonic() - started
    print(f"{seconds:.0f} s with {args.threads} threads", file=sys.stderr)
    facts = {"command": os.environ.get("CACHECARD_FIDELITY_COMMAND") or shlex.join(sys.argv), "commit": fidelity.commit(),
             "runtime": runtime_version(), "group": args.group, "seed": args.seed, "seconds": seconds,
             "bootstrap_samples": ablation_report.BOOTSTRAP_SAMPLES, "model": {"file": os.path.basename(args.model), "sha256": digest},
             "receivers": [one.name for one in receivers], "controller": about_controller, "tables": tables}
    if args.json:
        fidelity.write_json(args.json, facts)
    with open(SCHEMA, encoding="utf-8") as file:
        check(facts, json.load(file))
    if args.plot:
        from ablation_plot import plot
        plot(facts, args.plot)
    return 0


if __name__ == "__main__":
    sys.exit(exit_code("ablations", run))
