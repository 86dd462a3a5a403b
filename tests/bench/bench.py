"""Speed and memory of the tools, each as a ratio against a peer or a limit in the same run.

    bench.py --build BUILD --model M.gguf [--json OUT] [--runs 9]

Paired runs in turn, medians, ratio of medians: machines are shared and noisy.
"""
import argparse
import json
import os
import platform
import statistics
import struct
import subprocess
import sys
import tempfile
import time

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(ROOT, "tools", "handoff"))
import hdf5_bench  # noqa: E402
import server_client as client  # noqa: E402

TEXTS = ["agent.txt", "reasoning.txt", "chat1.txt", "story.txt"]
PROFILE = os.path.join(ROOT, "fixtures", "profiles", "smollm2-135m.profile")
CODECS = {
    "raw": {"flags": ["--codec", "raw"], "ratio": {2000: 4.5, 4000: 4}, "share": "-", "capture": 0.5},
    "planes": {"flags": ["--codec", "planes", "--bits", "4,3"], "ratio": {2000: 4.2, 4000: 3.7}, "share": "<= 0.235",
               "capture": 0.6},
    "entropy": {"flags": ["--bits", "0.9", "--profile", PROFILE], "ratio": {2000: 4, 4000: 4}, "share": "<= 0.06", "capture": 1.5},
}
LAYERS, KV_WIDTH = 30, 192  # SmolLM2-135M: 3 KV heads of 64


def timed(command, **options):
    """Wall seconds of a whole process, from exec to exit."""
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, **options)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:3])} ended with {done.returncode}: {done.stderr.strip()}")
    return seconds, done.stdout


def in_turn(runs, *actions):
    """Medians of actions that are run one after the other, again and again."""
    seconds = [[] for _ in actions]
    for _ in range(runs + 1):
        for list_of, action in zip(seconds, actions):
            list_of.append(action())
    return [statistics.median(values[1:]) for values in seconds]  # the first round warms up


class Bench:
    def __init__(self, args, folder):
        self.args, self.folder, self.rows, self.captured = args, folder, [], {}
        self.cli = os.path.join(args.build, "tools", "cachecard", "cachecard")
        self.programs = os.path.join(args.build, "tests", "bench")

    def add(self, what, reached, asked, detail):
        print(f"  {what:<60} {reached:>14}   asked {asked:<12} {detail}", flush=True)
        self.rows.append({"what": what, "reached": reached, "asked": asked, "detail": detail})

    def path(self, name):
        return os.path.join(self.folder, name)

    def run(self):
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, "
              f"{os.path.basename(self.args.model)}, median of {self.args.runs} paired runs\n")
        with client.ServerProcess(self.args.model, self.folder, python=sys.executable, ctx=8192) as server:
            ids = []
            for name in TEXTS:
                with open(os.path.join(ROOT, "fixtures", "texts", name), encoding="utf-8") as text:
                    ids += client.tokenize(server.url, text.read())
            for count in (2000, 4000):
                self.hand_off(server, ids[:count], ids[count:count + 32])
        self.live_inject("raw", "-")
        self.live_inject("planes", "<= 1.4")
        self.live_inject("entropy", "<= 1.8")
        self.python_load()
        self.verify_bandwidth()
        self.inspect_time()
        self.threads()
        self.memory()
        for row in hdf5_bench.rows(self.cli, self.path("raw-4000.card"), self.folder, self.args.runs):
            self.add(*row)
        self.kernels()
        self.entropy_kernels()
        self.allocation()

    def hand_off(self, server, ids, question):
        """First token by the card against the server's own slot file and against reading again, codec by codec."""
        count, url = len(ids), server.url
        client.erase(url)
        client.completion(url, ids, n_predict=0)
        started = time.perf_counter()
        client.completion(url, ids, n_predict=1, cache_prompt=False)
        reread = time.perf_counter() - started
        client.erase(url)
        client.completion(url, ids, n_predict=0)
        client.save(url, "own.slot")
        cards = {codec: self.capture(url, codec, count, reread) for codec in CODECS}
        for codec, card in cards.items():
            hand_off_s = self.first_token(url, codec, card, ids, reread, count)
            self.first_token(url, codec, card, ids + question, None, count)
            total = self.captured[codec] + hand_off_s
            self.add(f"{codec}: reading again / capture + hand-off, {count} tokens", f"{reread / total:.0f}", "-",
                     f"{reread:.2f} s against {total * 1e3:.0f} ms: sender's last token to receiver's first")

    def capture(self, url, codec, count, reread):
        card = self.path(f"{codec}-{count}.card")
        command = [self.cli, "capture", "--server", url, "--slot-dir", self.folder, "--model", self.args.model,
                   *CODECS[codec]["flags"], card]
        seconds, = in_turn(min(5, self.args.runs), lambda: timed(command)[0])
        self.captured[codec] = seconds
        limit = CODECS[codec]["capture"]
        self.add(f"{codec}: capture, {count} tokens", f"{seconds:.3f} s", f"<= {limit} s" if count == 4000 else "-",
                 "save, read, encode, compare, write, fsync")
        share = os.path.getsize(card) / os.path.getsize(self.path("own.slot"))
        self.add(f"{codec}: bytes of the card / own slot file, {count} tokens", f"{share:.3f}", CODECS[codec]["share"],
                 f"{os.path.getsize(card):,} bytes")
        return card

    def first_token(self, url, codec, card, prompt, reread, count):
        body = self.path("body.json")
        with open(body, "w", encoding="utf-8") as file:
            json.dump({"prompt": prompt, "n_predict": 1, "temperature": 0.0}, file)

        def by_card():
            client.erase(url)
            return timed([self.cli, "inject", card, "--server", url, "--slot-dir", self.folder,
                          "--model", self.args.model, "--ask", body])[0]

        def by_slot_file():
            client.erase(url)
            return timed([os.path.join(self.programs, "plain_restore"), url, "0", "own.slot", body])[0]

        card_s, own_s = in_turn(self.args.runs, by_card, by_slot_file)
        detail = f"{card_s * 1e3:.0f} ms against {own_s * 1e3:.0f} ms"
        if reread is None:
            self.add("  the same and a question of 32", f"{card_s / own_s:.2f}", "-", detail)
            return card_s
        self.add(f"{codec}: hand-off / own slot file, {count} tokens", f"{card_s / own_s:.2f}",
                 f"<= {CODECS[codec]['ratio'][count]}", detail)
        self.add(f"{codec}: reading again / hand-off, {count} tokens", f"{reread / card_s:.0f}",
                 {2000: ">= 60", 4000: ">= 100"}[count], f"{reread:.2f} s against {card_s * 1e3:.0f} ms")
        return card_s

    def python_load(self):
        """cachecard.hf.load against C++ for the same card, by the interpreter that has transformers."""
        if not self.args.torch_python:
            return
        cards = {codec: self.path(f"{codec}-4000.card") for codec in ("raw", "planes", "entropy")}
        found = json.loads(timed([self.args.torch_python, os.path.join(ROOT, "tests", "bench", "load_bench.py"),
                                  os.path.join(self.programs, "card_load"), self.args.model, str(self.args.runs),
                                  *cards.values()])[1])
        for codec, card in cards.items():
            ours, theirs, our_cpu, their_cpu = found[card]
            self.add(f"Python load / C++ load, {codec}, 4000 tokens", f"{ours / theirs:.2f}", "<= 1.1",
                     f"{ours:.1f} ms against {theirs:.1f} ms ({our_cpu / their_cpu:.2f} of its CPU time): identity, digests, finiteness, f16 tensors, keys in halves")

    def live_inject(self, codec, asked):
        """A card into a running context against llama_state_seq_set_data of the same state, first token included."""
        command = [os.path.join(self.programs, "live_restore"), self.args.model, self.path(f"{codec}-4000.card"),
                   str(self.args.runs)]
        found = json.loads(timed(command)[1])
        self.add(f"live inject, {codec} / set_data, 4000 tokens", f"{found['card_ms'] / found['own_ms']:.2f}", asked,
                 f"{found['card_ms']:.1f} ms against {found['own_ms']:.1f} ms, first token included; "
                 f"with memory kept from an injection before {found['kept_ms']:.1f} ms")

    def big_card(self):
        card = self.path("big.card")
        if not os.path.exists(card):
            timed([self.cli, "convert", self.big_state(40000), card, "--model", self.args.model])
        return card

    def big_state(self, tokens):
        """A session-less sequence file (layout 10/3) of SmolLM2's shape, as llama.cpp would write it."""
        path = self.path(f"{tokens}.seq")
        if os.path.exists(path):
            return path
        row = bytearray(os.urandom(1 << 20))
        row[1::2] = row[1::2].translate(bytes(byte & 0xBF for byte in range(256)))  # finite halves below 2
        with open(path, "wb") as file:
            file.write(struct.pack(f"<III{tokens}i", 0x67677371, 3, tokens, *range(tokens)))
            file.write(struct.pack("<II", 1, tokens))
            for i in range(tokens):
                file.write(struct.pack("<iIi", i, 1, 0))
            file.write(struct.pack("<II", 0, LAYERS))
            for _ in range(2 * LAYERS):
                file.write(struct.pack("<iQ", 1, 2 * KV_WIDTH))
                left = tokens * 2 * KV_WIDTH
                while left > 0:
                    file.write(row[:left])
                    left -= min(left, len(row))
        return path

    def verify_bandwidth(self):
        card = self.big_card()
        size = os.path.getsize(card)

        def read():
            started = time.perf_counter()
            with open(card, "rb", buffering=0) as file:
                block = bytearray(1 << 20)
                while file.readinto(block):
                    pass
            return time.perf_counter() - started

        verify_s, read_s = in_turn(self.args.runs, lambda: timed([self.cli, "verify", card])[0], read)
        self.add("verify / reading from the page cache", f"{read_s / verify_s:.2f}", ">= 0.5",
                 f"{size / verify_s / 1e9:.1f} GB/s of {size / read_s / 1e9:.1f} GB/s, whole process")

    def inspect_time(self):
        sparse = self.path("sparse.card")
        timed([os.path.join(self.programs, "sparse_card"), sparse, "10"])
        seconds, = in_turn(self.args.runs, lambda: timed([self.cli, "inspect", sparse])[0])
        self.add("inspect of a 10 GB card", f"{seconds * 1e3:.1f} ms", "< 20 ms",
                 f"{os.path.getsize(sparse):,} bytes, sparse")
        os.unlink(sparse)
        for command in ([], ["convert"], ["inject"]):
            seconds, = in_turn(self.args.runs, lambda: timed([self.cli, *command, "--help"])[0])
            self.add(f"{' '.join(['cachecard', *command])} --help", f"{seconds * 1e3:.1f} ms", "< 30 ms", "")

    def threads(self):
        """Encoding with one thread and two; --dry-run: nothing is written."""
        state = self.big_state(40000)
        for codec in (["planes"], ["entropy", "--bits", "2", "--queries", "none"]):
            def encode(count):
                return lambda: timed([self.cli, "convert", state, "out.card", "--dry-run", "--model", self.args.model, "--codec",
                                      *codec, "--threads", str(count)])[0]

            one, two = in_turn(min(5, self.args.runs), encode(1), encode(2))
            self.add(f"{codec[0]}: encode with two threads / with one", f"{one / two:.2f}", ">= 1.7",
                     f"{one:.2f} s, {os.path.getsize(state) / 2 / one / 1e9:.2f} G values/s with one, whole process")

    def kernels(self):
        """The loops of planes by SIMD target, as ratios to memcpy: a program of its own, on one core."""
        path = self.path("kernels.json")
        print(timed(["taskset", "-c", "1", os.path.join(self.programs, "planes_bench"), "--rounds", "5", "--json", path])[1])
        with open(path, encoding="utf-8") as file:
            self.rows.append({"what": "planes_bench", "rows": json.load(file)})

    def entropy_kernels(self):
        """The loops of entropy by SIMD target, in values a second, beside memcpy, and the encoding of a whole card."""
        print(timed(["taskset", "-c", "1", os.path.join(self.programs, "entropy_bench"), "20"])[1])
        print(timed([os.path.join(self.programs, "entropy_card_bench"), "20"])[1])

    def allocation(self):
        """Finding the bits of an 8B model's 32,768 tokens; a busy machine's clock says too much, the processors' time is beside it."""
        lines = timed([os.path.join(self.programs, "allocate_bench"), "3"])[1].splitlines()
        for part, asked in (("offsets", "< 1 s"), ("search", "< 1 s"), ("centroids", "<= 3 s"), ("newest", "<= 10 s")):
            found = next(row for row in map(json.loads, lines) if row["part"] == part)
            self.add(f"allocation, 8B at 32,768 tokens: {part}", f"{found['seconds']:.2f} s", asked,
                     f"{found['processor_seconds']:.2f} s of two processors, peak {found['peak_mb']:.0f} MB, asked < 200 MB")

    def peak_memory(self, command):
        """Peak resident bytes of one process; a fresh child each, since ru_maxrss only grows."""
        script = ("import resource, subprocess, sys; r = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL);"
                  "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss); sys.exit(r.returncode)")
        return int(timed([sys.executable, "-c", script, *command])[1]) * 1024

    def memory(self):
        state, card = self.big_state(40000), self.big_card()
        for what, command in (("convert state -> card", ["convert", state, self.path("m.card"), "--model", self.args.model]),
                              ("convert card -> state", ["convert", card, self.path("m.seq")]),
                              ("convert state -> planes", ["convert", state, self.path("p.card"), "--model",
                                                           self.args.model, "--codec", "planes"]),
                              ("convert planes -> state", ["convert", self.path("p.card"), self.path("m.seq")]),
                              ("convert state -> entropy", ["convert", state, self.path("e.card"), "--model", self.args.model,
                                                            "--codec", "entropy", "--bits", "2", "--queries", "none"]),
                              ("convert entropy -> state", ["convert", self.path("e.card"), self.path("m.seq")]),
                              ("verify", ["verify", card])):
            peak = self.peak_memory([self.cli, *command])
            self.add(f"peak memory, {what}", f"{peak / 1e6:.0f} MB", "< 96 MB" if "entropy" in what else "< 64 MB", f"{os.path.getsize(card):,} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--torch-python", help="interpreter that has transformers and the package cachecard")
    parser.add_argument("--json")
    parser.add_argument("--runs", type=int, default=9)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cachecard-bench-") as folder:
        bench = Bench(args, folder)
        bench.run()
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump({"rows": bench.rows}, file, indent=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
