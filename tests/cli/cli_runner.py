"""What the tests of the command share: running it, fixture paths, cards made from states."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest

CLI = os.environ.get("CACHECARD_CLI", "cachecard")
FIXTURES = pathlib.Path(
    os.environ.get("CACHECARD_FIXTURES", pathlib.Path(__file__).parents[2] / "fixtures"))
CACHES = FIXTURES / "caches"
MODEL = CACHES / "models" / "tiny_llama.gguf"
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8"}
ENVIRONMENT.pop("SOURCE_DATE_EPOCH", None)


class CommandTest(unittest.TestCase):
    """A test with a folder of its own; run() keeps to it."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="cachecard-cli-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def run_command(self, *arguments, stdin=None, environment=None, **options):
        """Runs the command with bytes as standard input; output stays bytes."""
        return subprocess.run([CLI, *map(str, arguments)], input=stdin if stdin is not None else b"",
                              capture_output=True, cwd=self.folder, timeout=120,
                              env={**ENVIRONMENT, "XDG_CACHE_HOME": str(self.folder / "cache"),
                                   **(environment or {})}, **options)

    def expect(self, exit_code, *arguments, **options):
        """Runs the command and holds it to an exit code; failures must say one clear line."""
        done = self.run_command(*arguments, **options)
        self.assertEqual(done.returncode, exit_code,
                         f"{arguments}: {done.stderr.decode()} {done.stdout[:2000]!r}")
        if exit_code not in (0, 9) and "--json" not in arguments:
            lines = [line for line in done.stderr.decode().splitlines() if ": note: " not in line]
            self.assertEqual(len(lines), 1, lines)
            self.assertTrue(lines[0].startswith("cachecard: "), lines[0])
            self.assertEqual(done.stdout, b"")
        return done

    def json(self, *arguments, exit_code=0, **options):
        done = self.expect(exit_code, *arguments, "--json", **options)
        return json.loads(done.stdout)

    def card(self, state="llama_f16.seq", *options, name="made.card"):
        """A card made from a state of fixtures/caches."""
        path = self.folder / name
        self.expect(0, "convert", CACHES / state, path, "--model", MODEL, "-q", *options)
        return path

    def files(self):
        """Names in the test's folder: nothing else may be left behind."""
        return sorted(path.name for path in self.folder.iterdir() if path.name != "cache")


MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:])
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_maxrss * 1024, usage.ru_utime + usage.ru_stime)
sys.exit(done.returncode)
"""


def measured(folder, *arguments):
    """Runs the command: its exit code, what it said, peak bytes and CPU seconds. A small process starts it, because a
    child's peak counts what its parent held."""
    done = subprocess.run([sys.executable, "-S", "-c", MEASURE, CLI, *map(str, arguments)], cwd=folder, env=ENVIRONMENT,
                          capture_output=True, text=True, timeout=120)
    peak, seconds = done.stdout.split()[-2:]
    return done.returncode, done.stderr, int(peak), float(seconds)


def wait_for_handler(pid, signal_number=signal.SIGTERM):
    """Until a process catches a signal: from then on it ends by its own means."""
    for _ in range(1000):
        for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:") and int(line.split()[1], 16) >> (signal_number - 1) & 1:
                return
        time.sleep(0.005)
    raise AssertionError("the process never caught the signal")


def main():
    unittest.main(verbosity=1)
