"""Builds tools/examples against a copy of the library and checks what they print."""

import os
import pathlib
import subprocess

CMAKE = os.environ["CACHECARD_CMAKE"]
BUILD = pathlib.Path(os.environ["CACHECARD_BUILD"])
SOURCE = pathlib.Path(os.environ["CACHECARD_SOURCE"])
LAUNCHER = os.environ.get("CACHECARD_LAUNCHER", "")

# What write_card.c's formula gives: 100 tokens, 2 layers of 2 heads x 32 values in f32.
EXPECTED = """\
architecture: llama
rope_base: 10000
layer 1 key: 100 tokens x 2 heads x 32 f32 in 7 pages, 1000 to 1099.98
layer 1 value: 100 tokens x 2 heads x 32 f32 in 7 pages, 1500 to 1599.98
"""


def run(*command, fails=False):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if (done.returncode != 0) != fails:
        raise AssertionError(f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout + done.stderr


def configure(source, build, *options, **expect):
    return run(CMAKE, "-S", source, "-B", build, "-DCMAKE_BUILD_TYPE=Release",
               f"-DCMAKE_CXX_COMPILER_LAUNCHER={LAUNCHER}", *options, **expect)


def build(folder):
    run(CMAKE, "--build", folder, "-j", "2")


def check_examples(test, folder, card):
    """Writes a card, reads it, and reads one that is damaged."""
    written = run(folder / "write_card", card)
    test.assertEqual(written, f"25600 values in {card.stat().st_size} bytes\n")
    first, rest = run(folder / "read_card", card, "1").split("\n", 1)
    test.assertEqual(first, f"format 0.2, 100 tokens, 2 layers, {written}".rstrip("\n"))
    test.assertEqual(rest, EXPECTED)

    damaged = card.with_suffix(".damaged")
    data = bytearray(card.read_bytes())
    data[len(data) // 2] ^= 1
    damaged.write_bytes(data)
    message = "".join(run(folder / "read_card", damaged, layer, fails=layer == "1") for layer in "01")
    test.assertIn("checksum_mismatch", message)
    test.assertIn("io: cannot open", run(folder / "read_card", card.with_suffix(".missing"), fails=True))
