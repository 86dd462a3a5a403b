#!/usr/bin/env python3
"""Makes the constants of the codec entropy: spec/tables/entropy.csv and the header that holds the same numbers.

    make_entropy_tables.py                    the model's shapes alone: where training starts
    make_entropy_tables.py COUNTS.csv ...     shapes and counts of calibration caches (count_entropy_symbols)

A table is a prior (Laplace or Gauss, of one spread) of a fixed weight and the counts of the symbols that were coded with
it, both signs together. spec: CODECS.md#tables
"""
import csv
import math
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
LARGEST, ESCAPE, SLOTS = 31, 32, 4096
LIST_BITS = 48          # what an escape costs besides its symbol: key and index
PRIOR = 3000.0          # weight of the prior, in symbols
SCALE_PRIOR = 300.0
LONGEST = 12            # bits of a code of scale differences


def prior(shape, spread):
    """Probability of each magnitude 0 to 31 and of all beyond; spread: mean magnitude in steps."""
    def below(x):
        if shape == 0:
            return 1 - 0.5 * math.exp(-x / spread) if x >= 0 else 0.5 * math.exp(x / spread)
        return 0.5 * (1 + math.erf(x / (spread * math.sqrt(math.pi / 2)) / math.sqrt(2)))
    p = [below(0.5) - below(-0.5)]
    p += [2 * (below(k + 0.5) - below(k - 0.5)) for k in range(1, LARGEST + 1)]
    p.append(max(1e-12, 1 - sum(p)))
    wide = 4 * spread   # tails are heavier than the model's
    tail = [math.exp(-k / wide) for k in range(LARGEST + 1)]
    tail.append(tail[-1])
    return [0.998 * a + 0.002 * b / sum(tail) for a, b in zip(p, tail)]


def table(weights):
    """Frequencies of magnitudes 0 to 31 (each sign's) and of the escape that add up to 4,096, signs counted twice."""
    total = sum(weights)
    p = [w / total for w in weights]
    kept = list(p)
    for k in range(LARGEST, 0, -1):     # a magnitude is kept where a slot for each sign pays against escaping
        if p[k] * (LIST_BITS + 1) < 2 / SLOTS:
            kept[ESCAPE] += p[k]
            kept[k] = 0.0
    f = [0] * (ESCAPE + 1)
    for k in range(1, LARGEST + 1):
        if kept[k] > 0:
            f[k] = max(1, round(kept[k] / 2 * SLOTS))
    f[ESCAPE] = max(1, round(kept[ESCAPE] * SLOTS))
    f[0] = SLOTS - f[ESCAPE] - 2 * sum(f[1:ESCAPE])
    assert 0 < f[0] < SLOTS and sum(f) + sum(f[1:ESCAPE]) == SLOTS, f
    return f


def code_lengths(weights):
    """Huffman lengths of at most LONGEST bits."""
    while True:
        nodes = [(w, [s]) for s, w in enumerate(weights)]
        lengths = [0] * len(weights)
        while len(nodes) > 1:
            nodes.sort(key=lambda n: (n[0], n[1][0]))
            (a, left), (b, right) = nodes[0], nodes[1]
            for s in left + right:
                lengths[s] += 1
            nodes = nodes[2:] + [(a + b, left + right)]
        if max(lengths) <= LONGEST:
            return lengths
        weights = [w + sum(weights) / 2000 for w in weights]


def read_counts(paths):
    symbols = [[0.0] * (ESCAPE + 1) for _ in range(24)]
    differences = [0.0] * 31
    for path in paths:
        with open(path, newline="") as file:
            for kind, index, symbol, count in csv.reader(file):
                if kind == "table":
                    symbols[int(index)][int(symbol)] += int(count)
                else:
                    differences[int(symbol) + 15] += int(count)
    return symbols, differences


def main():
    symbols, differences = read_counts(sys.argv[1:])
    tables = []
    for t in range(24):
        model = prior(t // 12, 2 ** ((t % 12 - 7) / 2))
        tables.append(table([PRIOR * m + c for m, c in zip(model, symbols[t])]))
    both = [differences[15 + abs(d)] + differences[15 - abs(d)] for d in range(-15, 16)]
    shape = [0.5 ** (1.2 * abs(d)) for d in range(-15, 16)]
    lengths = code_lengths([b + SCALE_PRIOR * s / sum(shape) for b, s in zip(both, shape)])
    multipliers = [round(512 * 2 ** (e / 2 + s / 4)) for e in range(-8, 8) for s in range(-8, 8)]
    with open(os.path.join(ROOT, "spec/tables/entropy.csv"), "w") as out:
        out.write("# Constants of CODECS.md#entropy, table set 1.\n")
        out.write("# frequency: of magnitudes 0 to 31 (each sign's), then of the escape; index is the table.\n")
        out.write("# scale_code_length: of differences -15 to 15. multiplier: of s -8 to 7; index is e + 8.\n")
        out.write("name,index,type,values\n")
        for t, f in enumerate(tables):
            out.write(f"frequency,{t},u16,{' '.join(map(str, f))}\n")
        out.write(f"scale_code_length,0,u8,{' '.join(map(str, lengths))}\n")
        for e in range(16):
            out.write(f"multiplier,{e},u16,{' '.join(map(str, multipliers[16 * e:16 * e + 16]))}\n")
    with open(os.path.join(ROOT, "libcachecard/src/kernel/entropy_frequencies.hpp"), "w") as out:
        out.write(HEADER)
        out.write("inline constexpr std::array<TableFrequencies, kTableCount> kEntropyFrequencies{{\n")
        for f in tables:
            out.write(wrapped(f, "    {{", "}},\n"))
        out.write("}};\n\n/// By difference + 15.\ninline constexpr std::array<std::uint8_t, 31> kScaleCodeLengths{\n")
        out.write(wrapped(lengths, "    ", "};\n"))
        out.write("\n/// round(512 x 2^(e/2 + s/4)), by 16 x (e + 8) + s + 8.\n")
        out.write("inline constexpr std::array<std::uint16_t, 256> kMultipliers{\n")
        out.write(wrapped(multipliers, "    ", "};\n"))
        out.write("\n}  // namespace cachecard::kernel\n")


def wrapped(numbers, start, end):
    lines, line = [], start
    for i, number in enumerate(numbers):
        piece = str(number) + (end.rstrip("\n") if i + 1 == len(numbers) else ", ")
        if len(line + piece) > 112:
            lines.append(line.rstrip())
            line = "    "
        line += piece
    return "\n".join(lines + [line.rstrip()]) + "\n"


HEADER = """#pragma once

#include <array>
#include <cstdint>

#include "kernel/entropy.hpp"

/// Constants of the codec `entropy`. tests/spec holds them to spec/tables/entropy.csv; both are written by
/// tests/tables/make_entropy_tables.py.
namespace cachecard::kernel {

/// Laplace's 12 spreads, then Gauss's. Each adds up to 4,096, signs counted twice.
"""

main()
