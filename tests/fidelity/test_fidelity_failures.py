"""Bad input to the whole program: one line, the exit code of the table, nothing left behind."""
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
CLI, MODEL = os.environ["CACHECARD_CLI"], os.environ["CACHECARD_MODEL"]
USAGE, IO, FOREIGN, UNSUPPORTED_CODEC, INTERRUPTED = 2, 3, 4, 8, 130
LONG_TEXT = " ".join(f"word{i}" for i in range(900))


class Failures(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="cachecard-test-")
        self.addCleanup(self.folder.cleanup)
        for name in ("texts", "work", "tmp", "out"):
            os.mkdir(self.path(name))
        self.write("texts/long.txt", LONG_TEXT)

    def path(self, *names):
        return os.path.join(self.folder.name, *names)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content if isinstance(content, bytes) else content.encode())

    def command(self, *words, **given):
        flags = {"texts": self.path("texts"), "model": MODEL, "cli": CLI, "work": self.path("work"),
                 "json": self.path("out", "out.json"), "context": "200", **given}
        return [sys.executable, "-B", os.path.join(HERE, "fidelity.py"),
                *(word for name, value in flags.items() for word in (f"--{name}", value)), *words]

    def environment(self):
        return {**os.environ, "TMPDIR": self.path("tmp")}

    def nothing_left(self):
        self.assertEqual(os.listdir(self.path("out")), [])
        self.assertEqual(os.listdir(self.path("tmp")), [])
        self.assertEqual([name for name in os.listdir(self.path("work")) if name.endswith(".part")], [])

    def refused(self, code, text, *words, **given):
        done = subprocess.run(self.command(*words, **given), capture_output=True, text=True, timeout=300,
                              env=self.environment(), check=False)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(text, done.stderr)
        self.assertEqual(len(done.stderr.strip().splitlines()), 1, done.stderr)
        self.assertTrue(done.stderr.startswith("fidelity: "), done.stderr)
        self.nothing_left()

    def test_texts(self):
        os.mkdir(self.path("empty"))
        self.refused(USAGE, "has no .txt file", texts=self.path("empty"))
        self.refused(IO, "No such file", texts=self.path("none"))
        self.write("texts/short.txt", "Too short to be a context.")
        self.refused(USAGE, "short.txt has 7 tokens")
        self.write("texts/short.txt", b"\xff\xfe\x00")
        self.refused(FOREIGN, "short.txt is not UTF-8: byte 0")

    def test_receivers(self):
        self.write("receivers.json", "{")
        self.refused(FOREIGN, "receivers.json", receivers=self.path("receivers.json"))
        self.refused(IO, "No such file", receivers=self.path("none.json"))

    def test_rows_and_codecs(self):
        self.refused(USAGE, "no row is called 'q5'", rows="q5")
        self.refused(UNSUPPORTED_CODEC, "has no codec 'magic'", row="mine=magic --bits 3")
        self.refused(USAGE, "NAME=CODEC", row="raw")

    def test_flags(self):
        self.refused(USAGE, "unrecognized arguments: --texs", "--texs")
        self.refused(USAGE, "--context is at least 64", context="5")
        self.refused(USAGE, "no text is long enough for 4000 tokens", "--long")
        self.refused(IO, "cannot be written", json=self.path("none", "out.json"))

    def test_models_and_commands(self):
        self.write("not.gguf", b"not a model")
        self.refused(FOREIGN, "llama.cpp cannot load it", model=self.path("not.gguf"))
        self.refused(IO, "none.gguf: No such file", model=self.path("none.gguf"))
        self.refused(IO, "none", cli=self.path("none"))

    def test_options_that_the_codec_refuses(self):
        self.refused(USAGE, "row mine: cachecard ended with 2: ", "--row", "mine=raw --no-such-option", rows="raw")

    def test_interrupted(self):
        background = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]  # as a shell starts a job with &
        for number, start in ((signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGTERM, background)):
            running = subprocess.Popen([*start, *self.command()], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       text=True, env=self.environment())
            while not os.listdir(self.path("tmp")) and running.poll() is None:
                time.sleep(0.05)
            running.send_signal(number)
            _, said = running.communicate(timeout=120)
            self.assertEqual((running.returncode, said), (INTERRUPTED, "fidelity: interrupted\n"))
            self.nothing_left()


if __name__ == "__main__":
    unittest.main()
