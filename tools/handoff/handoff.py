"""The main job, for real: one llama-server reads a context, another one goes on from its card.

    handoff.py --cli build/release/tools/cachecard/cachecard --model M.gguf --text F [--question Q]

Prints a table measured in this run and both answers. Standard library only; the interpreter must
have xllamacpp, which carries llama-server.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

import server_client as client

QUESTION = "Which function causes the duplicate rows, and what is the fix?"
TURN_MARK = "the-context-ends-here"


class Failure(RuntimeError):
    """One line for the user."""


def progress(text):
    """Says what is being done; the returned function says how long it took."""
    print(f"  {text:<58}", end="", flush=True)
    started = time.monotonic()

    def done(note=""):
        print(f"{time.monotonic() - started:6.1f} s{'  ' + note if note else ''}", flush=True)
    return done


def run_cli(cli, *arguments):
    """Runs a command with --json; returns its facts. Its own error line goes on to the user."""
    process = subprocess.run([cli, *arguments, "--json"], capture_output=True, text=True)
    if process.returncode != 0:
        raise Failure(f"cachecard {arguments[0]} ended with {process.returncode}: {process.stderr.strip()}")
    return json.loads(process.stdout)


def request_ids(url, context_ids, question_text):
    """What the receiver sends: the context's tokens, then the question's turn."""
    return context_ids + client.tokenize(url, question_text, add_special=False)


def question_text(url, question):
    """The end of the context's turn and the question's turn, as the model's own template writes them."""
    turns = [("user", "."), ("assistant", TURN_MARK), ("user", question)]
    prompt = client.apply_template(url, [{"role": role, "content": text} for role, text in turns])
    return prompt.rpartition(TURN_MARK)[2]


def codec_flags(args):
    """What capture is told; nothing but the profile unless the user says more: its own defaults are what is shown."""
    flags = ["--codec", args.codec] if args.codec else []
    if args.bits:
        flags += ["--bits", args.bits]
    if args.sensitivity:
        flags += ["--sensitivity", args.sensitivity]
    if args.profile and args.codec != "raw":
        flags += ["--profile", args.profile]
    return flags


def sender_side(server, args, card):
    """Server A reads, its slot becomes a card, and it answers from its own cache as the reference."""
    with open(args.text, encoding="utf-8") as text:
        context_ids = client.tokenize(server.url, text.read())
    done = progress(f"server A reads {len(context_ids):,} tokens")
    read = client.completion(server.url, context_ids, n_predict=0)
    done()
    done = progress("cachecard capture: server A's slot becomes a card")
    captured = run_cli(args.cli, "capture", "--server", server.url, "--slot", "0", "--slot-dir", server.slot_dir,
                       "--model", args.model, *codec_flags(args), card)
    done()
    asked = question_text(server.url, args.question)
    done = progress("server A answers from its own, exact cache")
    answer = client.completion(server.url, request_ids(server.url, context_ids, asked), n_predict=args.answer,
                               return_tokens=True)
    done()
    return {"context_ids": context_ids, "asked": asked, "prefill_s": read["timings"]["prompt_ms"] / 1000,
            "captured": captured, "answer": answer}


def receiver_side(server, args, card, sender, folder):
    """Server B: first token by reading again, then the slot emptied, then first token by the card."""
    done = progress("server B reads the context again, for comparison")
    prompt = request_ids(server.url, sender["context_ids"], sender["asked"])
    started = time.monotonic()
    client.completion(server.url, prompt, n_predict=1, cache_prompt=False)
    reread_s = time.monotonic() - started
    client.erase(server.url)
    done()
    ask = os.path.join(folder, "question.txt")
    with open(ask, "w", encoding="utf-8") as file:
        file.write(sender["asked"])
    done = progress("cachecard inject: server B answers from the card")
    injected = run_cli(args.cli, "inject", card, "--server", server.url, "--slot", "0", "--slot-dir", server.slot_dir,
                       "--model", args.model, "--ask", ask, "--n-predict", str(args.answer))
    done()
    return {"reread_s": reread_s, "injected": injected}


def agreement(exact, carried):
    """How many leading and how many in all of the greedy tokens are the same."""
    pairs = list(zip(exact, carried))
    leading = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
    return leading, sum(a == b for a, b in pairs), max(len(exact), len(carried))


def hand_off(args, folder):
    card = os.path.join(folder, "context.card")
    options = {"python": args.python, "ctx": args.ctx, "threads": os.cpu_count() or 2}
    slots_a, slots_b = (os.path.join(folder, name) for name in ("slots-a", "slots-b"))
    os.mkdir(slots_a)
    os.mkdir(slots_b)
    with client.ServerProcess(args.model, slots_a, **options) as server:
        sender = sender_side(server, args, card)
    with client.ServerProcess(args.model, slots_b, **options) as server:
        receiver = receiver_side(server, args, card, sender, folder)
    if args.keep:
        os.replace(card, args.keep)
        card = args.keep
    facts = run_cli(args.cli, "inspect", card)
    return facts, sender, receiver


def table(facts, sender, receiver):
    ask = receiver["injected"]["ask"]
    card_s = ask["first_token_since_start_seconds"]
    leading, same, total = agreement(sender["answer"]["tokens"], ask["tokens"])
    rows = [
        ("context", f"{facts['token_count']:,} tokens"),
        ("server's own f16 state", f"{receiver['injected']['state_bytes']:,} bytes"),
        ("card", f"{facts['file_bytes']:,} bytes, {facts['file_bytes'] / receiver['injected']['state_bytes']:.3f} of it"),
        ("bits per value (whole file)", f"{facts['bits_per_value']:.3f}"),
        ("first token by reading again", f"{receiver['reread_s']:.2f} s"),
        ("first token by the card", f"{card_s:.2f} s, {receiver['reread_s'] / card_s:.0f} times faster"),
        ("reused by server B", f"{ask['cache_n']:,} of {facts['token_count']:,} tokens"),
        ("next-token agreement with the exact cache", f"{same} of {total} tokens ({leading} before the first difference)"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def print_answer(title, text):
    print(f"\n{title}\n")
    for line in text.strip().splitlines():
        print(f"    {line}")


def parse_arguments():
    parser = argparse.ArgumentParser(description="A real hand-off between two llama-servers.")
    parser.add_argument("--cli", required=True, help="the cachecard command")
    parser.add_argument("--python", default=sys.executable, help="an interpreter that has xllamacpp")
    parser.add_argument("--model", required=True, help="GGUF file")
    parser.add_argument("--text", required=True, help="the context, UTF-8")
    parser.add_argument("--question", default=QUESTION, help="what the receiver asks")
    parser.add_argument("--answer", type=int, default=48, help="tokens of each answer")
    parser.add_argument("--ctx", type=int, default=8192, help="context size of the servers")
    parser.add_argument("--codec", choices=("raw", "planes", "entropy"), help="how the card keeps the values (default: as capture does, entropy)")
    parser.add_argument("--bits", help="bits a value: 1.5 (entropy), or 4,3 of keys and values (planes)")
    parser.add_argument("--profile", help="model profile, made by cachecard calibrate: which tokens and heads count")
    parser.add_argument("--sensitivity", help="what errors of each layer cost, where there is no profile")
    parser.add_argument("--keep", help="keep the card here")
    args = parser.parse_args()
    for path in (args.cli, args.model, args.text, *filter(None, [args.sensitivity, args.profile])):
        if not os.path.isfile(path):
            raise Failure(f"no such file: {path}")
    return args


def main():
    try:
        args = parse_arguments()
        with tempfile.TemporaryDirectory(prefix="cachecard-") as folder:
            facts, sender, receiver = hand_off(args, folder)
    except (Failure, client.ServerError, client.HttpError, OSError, UnicodeDecodeError) as error:
        print(f"\nhandoff: {error}", file=sys.stderr)
        return 1
    print(f"\nMeasured in this run ({os.path.basename(args.model)}, {os.path.basename(args.text)}):\n")
    print(table(facts, sender, receiver))
    print_answer("Server A, from its own cache:", sender["answer"]["content"])
    print_answer("Server B, from the card:", receiver["injected"]["ask"]["content"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
