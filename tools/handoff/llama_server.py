"""A real llama-server as a process of its own, from the `xllamacpp` wheel (nothing to compile).

The wheel runs llama-server inside a Python process. Tests and the quickstart need one that can be
killed, that can abort without taking the test with it, and whose log stays out of the way: this
file is that process. `server_client.ServerProcess` starts it and waits for it.

It ends on SIGTERM or SIGINT, and when its stdin was a pipe and the other end closed, so a server
never outlives the test that started it. Anything but a pipe (a terminal, /dev/null) is not watched.
"""
import argparse
import os
import resource
import signal
import stat
import sys
import threading
import urllib.error
import urllib.request

CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "q5_0": 6,
               "q5_1": 7, "iq4_nl": 20}
EXIT_CANNOT_START = 60
STOP_TIMEOUT_S = 2.0


def parse_arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="GGUF file with a tokenizer")
    parser.add_argument("--slot-dir", help="folder for slot files; without it save and restore are refused")
    parser.add_argument("--port-file", help="gets 'PORT URL' in one step once the server answers")
    parser.add_argument("--port", type=int, default=0, help="0: any free port (default)")
    parser.add_argument("--ctx", type=int, default=8192, help="n_ctx, shared by all slots unless --kv-unified")
    parser.add_argument("--parallel", type=int, default=1, help="number of slots")
    parser.add_argument("--kv-unified", action="store_true", help="one cache for all slots")
    parser.add_argument("--cache-type-k", choices=CACHE_TYPES, default="f16")
    parser.add_argument("--cache-type-v", choices=CACHE_TYPES, default="f16")
    parser.add_argument("--no-flash-attn", action="store_true", help="V is then stored transposed")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--ubatch", type=int, default=512, help="n_ubatch; sizes the sliding-window cache too")
    parser.add_argument("--swa-full", action="store_true", help="keep the whole sliding-window cache")
    parser.add_argument("--checkpoints", type=int, default=32, help="context checkpoints per slot")
    parser.add_argument("--checkpoint-step", type=int, default=8192, help="least tokens between two checkpoints")
    parser.add_argument("--cache-ram", type=int, default=8192, help="MiB for prompts kept in RAM (0: none, -1: no limit)")
    parser.add_argument("--no-cache-idle-slots", action="store_true", help="with --kv-unified: keep idle slots in place")
    parser.add_argument("--no-slots-endpoint", action="store_true", help="GET /slots answers 501")
    parser.add_argument("--api-key", action="append", default=[], help="repeat for several")
    parser.add_argument("--log", help="file for llama.cpp's log; default: none")
    parser.add_argument("-v", "--verbose", action="store_true", help="llama.cpp's log to stderr")
    return parser.parse_args(argv)


def common_params(xllamacpp, arguments):
    """The settings, each set by name: xllamacpp has no command-line parser."""
    params = xllamacpp.CommonParams()
    params.model.path = arguments.model
    params.port = arguments.port
    params.n_ctx = arguments.ctx
    params.n_parallel = arguments.parallel
    params.kv_unified = arguments.kv_unified
    params.cache_type_k = CACHE_TYPES[arguments.cache_type_k]
    params.cache_type_v = CACHE_TYPES[arguments.cache_type_v]
    flash = xllamacpp.llama_flash_attn_type
    params.flash_attn_type = (flash.LLAMA_FLASH_ATTN_TYPE_DISABLED if arguments.no_flash_attn
                              else flash.LLAMA_FLASH_ATTN_TYPE_AUTO)
    params.n_ubatch = arguments.ubatch
    params.swa_full = arguments.swa_full
    params.n_ctx_checkpoints = arguments.checkpoints
    params.checkpoint_min_step = arguments.checkpoint_step
    params.cache_ram_mib = arguments.cache_ram
    params.cache_idle_slots = not arguments.no_cache_idle_slots
    params.endpoint_slots = not arguments.no_slots_endpoint
    params.api_keys = arguments.api_key
    params.cpuparams.n_threads = arguments.threads
    params.cpuparams_batch.n_threads = arguments.threads
    params.n_threads_http = 4
    params.fit_params = False  # never trade the asked context for memory
    params.warmup = False      # a decode of nothing: start-up time only
    params.ui = False
    params.offline = True      # a wrong model path must fail, not look for a download
    if arguments.slot_dir:
        params.slot_save_path = os.path.join(os.path.abspath(arguments.slot_dir), "")
    return params


def redirect_log(arguments):
    """Points the process's stdout and stderr at the log and returns a file for our own words.

    llama.cpp writes to the file descriptors themselves, and an abort prints there too.
    """
    own_words = os.fdopen(os.dup(2), "w", buffering=1)
    if not arguments.verbose:
        log = os.open(arguments.log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
    return own_words


def answers(url):
    """True once /health says ok: the socket listens before the model can answer."""
    try:
        with urllib.request.urlopen(url + "/health", timeout=5) as reply:
            return reply.status == 200
    except urllib.error.HTTPError:
        return False


def write_port_file(path, url):
    """In one step, so that a reader sees either nothing or all of it."""
    temporary = path + ".new"
    with open(temporary, "w", encoding="ascii") as file:
        file.write(f"{url.rsplit(':', 1)[1]} {url}\n")
    os.replace(temporary, path)


def watch_stdin(stop):
    """Sets `stop` when the starter's end of a stdin pipe is closed, also by its death."""
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return
    if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)):
        return

    def wait_for_end():
        while os.read(0, 4096):
            pass
        stop.set()

    threading.Thread(target=wait_for_end, daemon=True).start()


def start(arguments):
    """The running server, or RuntimeError in one line."""
    for name, path, exists in (("model", arguments.model, os.path.isfile),
                               ("slot folder", arguments.slot_dir or ".", os.path.isdir)):
        if not exists(path):
            raise RuntimeError(f"{name} not found: {path}")
    try:
        import xllamacpp
    except ImportError as error:
        raise RuntimeError(f"xllamacpp is not installed in {sys.executable}: {error}") from error
    return xllamacpp.Server(common_params(xllamacpp, arguments))


def main(argv):
    arguments = parse_arguments(argv)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch_stdin(stop)
    own_words = redirect_log(arguments)
    os.environ["GGML_NO_BACKTRACE"] = "1"  # an abort would otherwise run gdb on itself, for seconds
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # tests make it abort on purpose
    try:
        server_box = [start(arguments)]  # the only reference, so that clear() destroys it
    except Exception as error:  # the wheel raises RuntimeError, ValueError and its own
        own_words.write(f"llama_server: cannot start: {error}\n")
        os._exit(EXIT_CANNOT_START)
    url = server_box[0].listening_address
    while not answers(url) and not stop.is_set():
        stop.wait(0.05)
    if arguments.port_file:
        write_port_file(arguments.port_file, url)
    else:
        own_words.write(url + "\n")
    stop.wait()
    # The destructor lets a slot file be finished, but it also waits for a whole generation, with
    # Python's lock held: only the kernel can end that wait.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, STOP_TIMEOUT_S)
    server_box.clear()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
