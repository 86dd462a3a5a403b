"""What the program says when it cannot go on: one line and an exit code of the CLI's table (style.md 3.6)."""
import signal
import sys
from concurrent.futures.process import BrokenProcessPool

INTERNAL, USAGE, IO, FOREIGN, UNSUPPORTED_CODEC, INTERRUPTED = 1, 2, 3, 4, 8, 130


class FidelityError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def _interrupt(_number, _frame):
    """Of its own: in a background job SIGINT is ignored, and so would be what SIGTERM made of it."""
    raise KeyboardInterrupt


def exit_code(name, run):
    """What run of the command line's arguments returns, or after one line that begins with name the code of what went wrong."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return run(sys.argv[1:])
    except FidelityError as error:
        code, line = error.code, str(error)
    except OSError as error:
        code, line = IO, f"{error.filename or 'io'}: {error.strerror}"
    except BrokenProcessPool:
        code, line = INTERNAL, "a process ended, for want of memory perhaps: fewer --threads take less"
    except KeyboardInterrupt:
        code, line = INTERRUPTED, "interrupted"
    print(f"{name}: {line}", file=sys.stderr)
    return code
