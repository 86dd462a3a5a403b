"""What the program says when it cannot go on: one line and an exit code of the CLI's table (style.md 3.6)."""

INTERNAL, USAGE, IO, FOREIGN, UNSUPPORTED_CODEC, INTERRUPTED = 1, 2, 3, 4, 8, 130


class FidelityError(Exception):
    def __init__(self, code, text):
        super().__init__(text)
        self.code = code
