"""Starts the real llama-server of llama_server.py and talks to it: standard library only.

    with ServerProcess(model, slot_dir, python=venv_python, ctx=2048) as server:
        completion(server.url, "Once upon a time", n_predict=1)
        save(server.url, "a.bin")
"""
import http.client
import json
import os
import re
import signal
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

SERVER_SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "llama_server.py")
LOG_TAIL_LINES = 12


class ServerError(RuntimeError):
    """The server did not start or died; the message ends with the tail of its log."""


class ServerGone(ServerError):
    """No answer: nothing listens there, or the server died while it worked."""


class HttpError(RuntimeError):
    """The server answered with an error: .status, .body (parsed JSON where it was JSON)."""

    def __init__(self, method, path, status, body):
        message = body.get("error", {}).get("message", body) if isinstance(body, dict) else body
        super().__init__(f"{method} {path}: HTTP {status}: {message}")
        self.status = status
        self.body = body


class ServerProcess:
    """llama-server in a process of its own, ready when the `with` block is entered.

    python   an interpreter that has xllamacpp; default: $CACHECARD_SERVER_PYTHON, else `python3`
    options  flags of llama_server.py by name: ctx=2048, kv_unified=True, cache_type_k="q8_0", ...
    """

    def __init__(self, model, slot_dir=None, python=None, start_timeout_s=120.0, **options):
        self.python = python or os.environ.get("CACHECARD_SERVER_PYTHON", "python3")
        self.options = dict(options, model=os.path.abspath(model))
        if slot_dir:
            self.options["slot_dir"] = os.path.abspath(slot_dir)
        self.slot_dir = self.options.get("slot_dir")
        self.start_timeout_s = start_timeout_s
        self.process = None
        self.url = None
        self.start_seconds = None
        self._folder = None

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    @property
    def pid(self):
        return self.process.pid

    @property
    def returncode(self):
        """None while it runs; -6 after an abort."""
        return self.process.poll()

    def start(self):
        """Spawns the server and waits until it answers; raises ServerError if it does not."""
        self._folder = tempfile.TemporaryDirectory(prefix="llama-server-")
        port_file = os.path.join(self._folder.name, "port")
        command = [self.python, SERVER_SCRIPT, "--port-file", port_file, "--log", self._log_path()]
        started = time.monotonic()
        with open(self._log_path(), "ab") as log:
            try:
                self.process = subprocess.Popen(command + flags(self.options), stdin=subprocess.PIPE,
                                                stdout=log, stderr=log)
            except OSError as error:
                raise ServerError(f"llama-server: cannot run {self.python}: {error}") from error
        try:
            self.url = self._wait_for(port_file)
        except BaseException:
            self.kill()
            self._clean()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def stop(self):
        """SIGTERM, then SIGKILL after 10 s; safe on a server that is already gone."""
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.kill(signal.SIGKILL)
        self._clean()

    def kill(self, number=signal.SIGKILL):
        """Sends a signal (default SIGKILL) and reaps the process; no clean-up, the log stays."""
        if not self.process:
            return
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.wait()
        self.process.stdin.close()

    def log_tail(self, lines=LOG_TAIL_LINES):
        """The last lines of llama.cpp's log: where an abort says why."""
        try:
            with open(self._log_path(), encoding="utf-8", errors="replace") as log:
                return "\n".join(log.read().splitlines()[-lines:])
        except OSError:
            return ""

    def reason(self):
        """The one line of the log that says most: the first error, or what an assertion said."""
        lines = self.log_tail(200).splitlines()
        for pattern in (r"GGML_ASSERT", r"^llama_server: .*not (found|installed)", r"^[\d.]+ E ", r"error:"):
            for line in lines:
                if re.search(pattern, line):
                    return line
        return lines[-1] if lines else "no word in its log"

    def _log_path(self):
        return os.path.join(self._folder.name, "server.log")

    def _wait_for(self, port_file):
        deadline = time.monotonic() + self.start_timeout_s
        while time.monotonic() < deadline:
            if os.path.exists(port_file):
                with open(port_file, encoding="ascii") as file:
                    return file.read().split()[1]
            if self.process.poll() is not None:
                raise ServerError(f"llama-server did not start (exit {self.process.returncode}): "
                                  f"{self.reason()}\n{self.log_tail()}")
            time.sleep(0.02)
        raise ServerError(f"llama-server did not answer in {self.start_timeout_s:g} s\n{self.log_tail()}")

    def _clean(self):
        if self._folder:
            self._folder.cleanup()


def flags(options):
    """{'ctx': 512, 'kv_unified': True, 'api_key': ['a']} -> ['--ctx', '512', '--kv-unified', ...]"""
    words = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            words.append(flag)
        elif value is not False and value is not None:
            for item in value if isinstance(value, (list, tuple)) else [value]:
                words += [flag, str(item)]
    return words


def request(url, path, body=None, timeout_s=300.0, api_key=None):
    """GET, or POST of a JSON body; the parsed answer, or HttpError, or ServerGone."""
    method = "GET" if body is None else "POST"
    headers = {"Content-Type": "application/json"}
    if api_key:
        headers["Authorization"] = f"Bearer {api_key}"
    data = None if body is None else json.dumps(body).encode()
    message = urllib.request.Request(url + path, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(message, timeout=timeout_s) as reply:
            return json.loads(reply.read())
    except urllib.error.HTTPError as error:
        raise HttpError(method, path, error.code, parsed(error.read())) from None
    except (OSError, http.client.HTTPException) as error:
        raise ServerGone(f"{method} {url}{path}: no answer: {error!r}") from error


def parsed(text):
    try:
        return json.loads(text)
    except ValueError:
        return text.decode("utf-8", "replace")


def completion(url, prompt, n_predict=1, slot=0, api_key=None, timeout_s=300.0, **more):
    """Greedy completion on one slot; `prompt` is text or a list of token ids.

    answer["timings"]["cache_n"]: tokens reused from the slot; ["prompt_n"]: tokens read anew.
    """
    body = {"prompt": prompt, "n_predict": n_predict, "id_slot": slot, "cache_prompt": True,
            "temperature": 0.0, "seed": 1, **more}
    return request(url, "/completion", body, timeout_s, api_key)


def slots(url, api_key=None):
    return request(url, "/slots", api_key=api_key)


def slot_action(url, slot, action, filename=None, api_key=None):
    body = {} if filename is None else {"filename": filename}
    return request(url, f"/slots/{slot}?action={action}", body, api_key=api_key)


def save(url, filename, slot=0, api_key=None):
    """Writes the slot to slot_dir/filename: {"n_saved", "n_written", ...}."""
    return slot_action(url, slot, "save", filename, api_key)


def restore(url, filename, slot=0, api_key=None):
    """Reads slot_dir/filename into the slot: {"n_restored", "n_read", ...}. A short file kills the server."""
    return slot_action(url, slot, "restore", filename, api_key)


def erase(url, slot=0, api_key=None):
    return slot_action(url, slot, "erase", api_key=api_key)


def tokenize(url, text, add_special=True, api_key=None):
    """The token ids /completion would use for this text."""
    body = {"content": text, "add_special": add_special, "parse_special": True}
    return request(url, "/tokenize", body, api_key=api_key)["tokens"]


def apply_template(url, messages, api_key=None, **more):
    """The prompt text of a chat, as the model's template writes it."""
    return request(url, "/apply-template", {"messages": messages, **more}, api_key=api_key)["prompt"]


def props(url, api_key=None):
    return request(url, "/props", api_key=api_key)
