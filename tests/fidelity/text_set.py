"""The texts and receivers of a run, checked before anything slow starts."""
import json
import os
from dataclasses import dataclass

from fidelity_error import FOREIGN, IO, USAGE, FidelityError

CONTINUATION = 256      # scored tokens of the text going on, where it has as many
LEAST_CONTINUATION = 32


@dataclass(frozen=True)
class Text:
    name: str
    size_bytes: int
    tokens: list

    def continuation(self, context, trained_context):
        """How many tokens after the context are scored; each needs the one after it as its target."""
        room = trained_context - context if trained_context > context else CONTINUATION
        return min(CONTINUATION, len(self.tokens) - context - 1, room)


@dataclass(frozen=True)
class Receiver:
    name: str
    system: str
    user: str


def read_texts(folder):
    """Every .txt of a folder by name: (name, content)."""
    try:
        names = sorted(name for name in os.listdir(folder) if name.endswith(".txt"))
        contents = [_read(os.path.join(folder, name)) for name in names]
    except OSError as error:
        raise FidelityError(IO, f"{error.filename}: {error.strerror}") from error
    if not names:
        raise FidelityError(USAGE, f"{folder} has no .txt file")
    return list(zip(names, contents))


def _read(path):
    with open(path, "rb") as file:
        data = file.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FidelityError(FOREIGN, f"{path} is not UTF-8: byte {error.start} is {data[error.start]:#04x}") from error


def tokenised(contents, model):
    """Token ids as the model reads the texts."""
    return [Text(name, len(text.encode()), model.tokenize(text, start_of_text=True)) for name, text in contents]


def long_enough(texts, context):
    """The texts of a table; texts that start with the same context count once."""
    seen, kept, left_out = {}, [], []
    for text in texts:
        if len(text.tokens) < context + LEAST_CONTINUATION + 1:
            raise FidelityError(USAGE, f"{text.name} has {len(text.tokens)} tokens: a context of {context} and "
                                       f"{LEAST_CONTINUATION + 1} to go on with are needed (--context N)")
        first = seen.setdefault(tuple(text.tokens[:context]), text.name)
        if first == text.name:
            kept.append(text)
        else:
            left_out.append(f"{text.name} is left out: its first {context} tokens are those of {first}")
    return kept, left_out


def longest(texts, context):
    """The texts that can carry a long context; at least one."""
    able = [text for text in texts if len(text.tokens) >= context + LEAST_CONTINUATION + 1]
    if not able:
        best = max(texts, key=lambda text: len(text.tokens))
        raise FidelityError(USAGE, f"no text is long enough for {context} tokens: "
                                   f"the longest, {best.name}, has {len(best.tokens)}")
    return able


def read_receivers(path):
    """A JSON list of {name, system, user}."""
    try:
        with open(path, encoding="utf-8") as file:
            entries = json.load(file)
        receivers = [Receiver(*(entry[key] for key in ("name", "system", "user"))) for entry in entries]
    except OSError as error:
        raise FidelityError(IO, f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise FidelityError(FOREIGN, f"{path}: a JSON list of name, system and user is wanted ({error})") from error
    if not receivers or not all(isinstance(value, str) and value for one in receivers for value in vars(one).values()):
        raise FidelityError(FOREIGN, f"{path}: name, system and user must be texts that are not empty")
    if len({one.name for one in receivers} | {"text"}) != len(receivers) + 1:
        raise FidelityError(FOREIGN, f"{path}: the receivers' names must differ, and 'text' is taken")
    return receivers
