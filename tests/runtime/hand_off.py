"""What the capture and inject tests share: the CLI under test, a context that was read once, its card.

CACHECARD_CLI     the cachecard binary
CACHECARD_PYTHON  an interpreter that has xllamacpp (default: this one)
CACHECARD_MODEL   a GGUF with a tokenizer; the tests were written with SmolLM2-135M
"""
import json
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tools", "handoff"))

import server_client as llama  # noqa: E402

CLI = os.environ.get("CACHECARD_CLI", "cachecard")
PYTHON = os.environ.get("CACHECARD_PYTHON", sys.executable)
MODEL = os.environ.get("CACHECARD_MODEL", "")

STORY = ("The lighthouse keeper wrote down every ship that passed the northern rocks. On the first "
         "day of March the fog came in before noon and stayed until the lamps were lit. ")
QUESTION = " In the evening she"
CARD_TOKENS = 300
ANSWER_TOKENS = 8


class Answer:
    """What the CLI did: .code, .out, .error, and .facts where --json was asked for."""

    def __init__(self, process):
        self.code = process.returncode
        self.out = process.stdout.decode("utf-8", "replace")
        self.error = process.stderr.decode("utf-8", "replace")
        try:
            self.facts = json.loads(self.out)
        except ValueError:
            self.facts = {}

    def __str__(self):
        return f"exit {self.code}\n{self.out}{self.error}"


def cachecard(*arguments, stdin=b"", timeout_s=120, **options):
    command = [CLI, *map(str, arguments)]
    return Answer(subprocess.run(command, input=stdin, capture_output=True, timeout=timeout_s,
                                 check=False, **options))


def server(slot_dir, model=None, **options):
    options.setdefault("ctx", 640)
    options.setdefault("parallel", 1)
    options.setdefault("threads", 1)  # two spinning threads crawl where the cores are shared
    return llama.ServerProcess(model or MODEL, slot_dir, python=PYTHON, **options)


def slot_flags(running, slot_dir=None, slot=0):
    return ["--server", running.url, "--slot-dir", slot_dir or running.slot_dir, "--slot", str(slot)]


def story_tokens(running, count):
    tokens = llama.tokenize(running.url, STORY * (count // 20 + 1))
    return tokens[:count]


def reused(answer):
    return answer["timings"]["cache_n"]


def tokens_of(running, prompt, count=ANSWER_TOKENS, slot=0):
    """The next tokens, greedily, and how many of the prompt's came from the slot."""
    answer = llama.completion(running.url, prompt, count, slot=slot, return_tokens=True)
    return answer["tokens"], reused(answer)


def slot_bytes(running, name="look.bin", slot=0):
    """The slot as the server saves it: the strictest way to say that it did not change."""
    llama.save(running.url, name, slot)
    path = os.path.join(running.slot_dir, name)
    with open(path, "rb") as file:
        saved = file.read()
    os.unlink(path)
    return saved


def write(path, content):
    with open(path, "wb") as file:
        file.write(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    with open(path, "rb") as file:
        return file.read()


class Context:
    """A context that one server read, its card, its slot file, and how the server went on."""

    def __init__(self):
        self.folder = tempfile.mkdtemp(prefix="cachecard-runtime-")
        os.chmod(self.folder, 0o755)  # one test runs the CLI as somebody else
        self.folders = 0
        self.slot_dir = self.make_folder()
        self.card = os.path.join(self.folder, "context.card")
        self.slot_file = os.path.join(self.folder, "context.slot")
        self.empty = write(os.path.join(self.folder, "empty.txt"), "")
        with server(self.slot_dir) as source:
            self.tokens = story_tokens(source, CARD_TOKENS)
            llama.completion(source.url, self.tokens, 1)
            self.capture = cachecard("capture", self.card, *slot_flags(source), "--codec", "raw", "--json")
            llama.save(source.url, "context.slot")
            shutil.move(os.path.join(self.slot_dir, "context.slot"), self.slot_file)
            self.left_in_slot_dir = os.listdir(self.slot_dir)
            self.answer, _ = tokens_of(source, self.tokens)
            self.old_tokens = llama.tokenize(source.url, "Seven grey geese flew over the harbour. " * 9)
            self.question_tokens = llama.tokenize(source.url, QUESTION, add_special=False)

    def make_folder(self):
        """A new empty folder: a test's own slot directory."""
        self.folders += 1
        path = os.path.join(self.folder, f"slots{self.folders}")
        os.makedirs(path)
        return path

    def path(self, name):
        return os.path.join(self.folder, name)

    def remove(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def need_environment():
    """Says in one line what is missing, before anything is started."""
    if not os.path.exists(MODEL):
        raise RuntimeError("CACHECARD_MODEL names no GGUF file")
    if not shutil.which(CLI):
        raise RuntimeError(f"CACHECARD_CLI is no program: {CLI}")
