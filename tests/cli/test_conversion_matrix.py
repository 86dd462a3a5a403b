"""README's conversion matrix, found by converting: from each source through a card to each target and all the way back.

CACHECARD_BLESS=1 writes the table into README.md; without it the table there must be this one.
"""

import os
import pathlib
import unittest
from dataclasses import dataclass

from cli_runner import CACHES, CommandTest

README = pathlib.Path(__file__).parents[2] / "README.md"
BEGIN, END = "<!-- conversion matrix: tests/cli/test_conversion_matrix.py -->", "<!-- end of the conversion matrix -->"
SAME, TYPED, VALUES, REFUSED, NONE = "exact", "within the type", "values only", "refused", "-"


@dataclass(frozen=True)
class Source:
    """A state of a real runtime; its card may be lossy already."""
    name: str
    state: str
    model: str = "tiny_llama"
    flags: tuple = ()
    like: str = ""           # a q8_0 state of the same model, where there is one
    like_flags: tuple = ()

    @property
    def model_flags(self):
        return ("--model", CACHES / "models" / f"{self.model}.gguf", "--adapters", "none")


SOURCES = (
    Source("f16, bf16, f32", "llama_f16.seq", like="llama_q8_0.seq"),
    Source("q8_0 to iq4_nl", "llama_q8_0.seq", flags=("--rotated", "yes"), like="llama_q8_0.seq"),
    Source("sliding window", "gemma3_f16.seq", "tiny_gemma3"),
    Source("MLA (latent)", "deepseek2.seq", "tiny_deepseek2"),
    Source("recurrent, hybrid", "mamba.seq", "tiny_mamba"),
    Source("f16 as a card of planes", "llama_f16.seq", flags=("--codec", "planes", "--bits", "4,3", "--exact-tokens", "2"),
           like="llama_q8_0.seq"),
)


@dataclass(frozen=True)
class Target:
    name: str
    suffix: str
    flags: tuple = ()
    needs_model: bool = False


TARGETS = (
    Target("llama.cpp, its type", ".seq"),
    Target("llama.cpp, q8_0", ".seq"),
    Target("PyTorch `.pt`", ".pt", needs_model=True),
    Target("GGUF", ".gguf"),
    Target("safetensors (mlx-lm)", ".safetensors", needs_model=True),
    Target("safetensors (kvcdn)", ".kv", needs_model=True),
    Target("HDF5", ".h5", ("--decoded",)),
    Target("HDF5 `--coded`", ".h5", ("--coded",)),
)


class Matrix(CommandTest):
    def convert(self, *arguments):
        done = self.run_command("convert", *arguments, "-q")
        if done.returncode in (0, 9):
            return ""
        self.assertIn(done.returncode, range(2, 9), done.stderr)
        lines = [line for line in done.stderr.decode().splitlines() if ": note: " not in line]
        self.assertEqual(len(lines), 1, lines)
        return lines[0]

    def must(self, *arguments):
        self.assertEqual(self.convert(*arguments), "")

    def cell(self, source, target, card, expected):
        """exact: what comes back out of the target is, as the source's own kind of state, byte for byte what the card gives."""
        out, again, state = self.folder / f"out{target.suffix}", self.folder / "again.card", self.folder / "again.seq"
        own = CACHES / source.state
        like = CACHES / source.like if target.name == "llama.cpp, q8_0" else own
        if like == CACHES:
            return NONE, ""
        flags = target.flags
        if target.suffix == ".seq":
            flags = ("--like", like, *(("--rotated", "yes") if "q8_0" in like.name else ()))
        line = self.convert(card, out, *flags)
        if line:
            return REFUSED, line
        back = source.model_flags if target.needs_model or target.suffix == ".seq" else ()
        if target.suffix == ".seq" and "q8_0" in like.name:
            back += ("--rotated", "yes")
        if target.suffix in (".safetensors", ".kv"):
            back += ("--tokens", self.token_file(card))
        self.must(out, again, *back)
        line = self.convert(again, state, "--like", own, *(("--rotated", "yes") if "q8_0" in own.name else ()))
        if line:
            self.assertIn("source layout", line)
            return VALUES, ""
        return (SAME if state.read_bytes() == expected else TYPED), ""

    def token_file(self, card):
        ids = self.json("inspect", card, "--tokens").get("token_ids")
        path = self.folder / "tokens.json"
        path.write_text(str(ids), encoding="utf-8")
        return path

    def table(self):
        reasons, rows = [], []
        for source in SOURCES:
            card, own = self.folder / "source.card", self.folder / "own.seq"
            self.must(CACHES / source.state, card, *source.model_flags, *source.flags)
            self.must(card, own, "--like", CACHES / source.state, *(("--rotated", "yes") if "q8_0" in source.state else ()))
            cells = []
            for target in TARGETS:
                verdict, line = self.cell(source, target, card, own.read_bytes())
                if line:
                    why = line.split(": ", 2)[2]
                    if why not in reasons:
                        reasons.append(why)
                    verdict += f" [{reasons.index(why) + 1}]"
                cells.append(verdict)
            rows.append(f"| {source.name} | {' | '.join(cells)} |")
        head = f"| from llama.cpp, to | {' | '.join(target.name for target in TARGETS)} |"
        return "\n".join([head, "|---" * (len(TARGETS) + 1) + "|", *rows, ""] +
                         [f"[{number}] `{why}`  " for number, why in enumerate(reasons, 1)])

    def test_readme_says_what_conversions_do(self):
        table = self.table()
        text = README.read_text(encoding="utf-8")
        first, last = text.index(BEGIN) + len(BEGIN), text.index(END)
        if os.environ.get("CACHECARD_BLESS"):
            README.write_text(f"{text[:first]}\n{table}\n{text[last:]}", encoding="utf-8")
            return
        self.maxDiff = None
        self.assertEqual(text[first:last].strip(), table.strip(), "CACHECARD_BLESS=1 writes it")


if __name__ == "__main__":
    unittest.main(verbosity=1)
