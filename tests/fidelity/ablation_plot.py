"""A figure for each group: KL over q4_0's by row, against file bits, by hop, or where the file's bits are. Needs matplotlib.

    ablation_plot.py RUN.json OUT.svg
"""
import json
import re
import sys

import matplotlib
import numpy as np
from ablation_breakdown import KINDS

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "cachecard"  # the same run gives the same bytes
matplotlib.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import NullFormatter, ScalarFormatter  # noqa: E402

COLOURS = ("#9a2246", "#1f5fa8", "#1d7d46", "#c26a12", "#6a4c93", "#777777", "#111111")
RATE_TICKS = (0.5, 0.75, 1, 1.5, 2, 3, 4)
NO_MARKS = ("q4_0", "floor")


def plot(facts, path):
    """Writes the figure; its kind is told by the name's end."""
    draw = {"hops": _hops, "breakdown": _breakdown, "rates": _rates, "contexts": _rates, "texts": _rates}.get(facts["group"], _bars)
    tables = facts["tables"]
    columns = min(3, len(tables))
    lines = -(-len(tables) // columns)
    height = max(4.2, 0.26 * max(len(table["rows"]) for table in tables) + 1.2) if draw is _bars else 4.2
    figure, axes = plt.subplots(lines, columns, figsize=((7.2 if draw is _bars else 5.4) * columns, height * lines), squeeze=False)
    for axis, table in zip(axes.flat, tables):
        draw(axis, table)
        axis.set_title(f"{table['name']}, {len(table['texts'])} text{'s' if len(table['texts']) > 1 else ''}", fontsize=9)
    for axis in axes.flat[len(tables):]:
        axis.set_visible(False)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    plt.close(figure)


def _bars(axis, table):
    """KL over q4_0's with its interval, row by row."""
    rows = [row for row in table["rows"] if row["against_q4_0"] and row["name"] not in NO_MARKS] or \
        [row for row in table["rows"] if row["kl"] and row["name"] not in NO_MARKS]
    for place, row in enumerate(reversed(rows)):
        ratio = row["against_q4_0"]
        value = ratio["ratio"] if ratio else row["kl"]
        axis.plot(value, place, "o", color=COLOURS[0], markersize=5)
        if ratio and ratio["low"] is not None:
            axis.plot((ratio["low"], ratio["high"]), (place, place), color=COLOURS[0], linewidth=1.2)
    axis.set_yticks(range(len(rows)), [f"{row['name']}  ({row['bits_per_value']:.2f})" for row in reversed(rows)], fontsize=8)
    axis.set_xscale("log")
    axis.grid(True, axis="x", which="major", color="#dddddd", linewidth=0.6)
    if any(row["against_q4_0"] for row in rows):
        axis.axvline(1, color="#777777", linewidth=0.8, linestyle=":")
        axis.set_xlabel("KL over q4_0's (4.5 bits), 95 % over texts; file bits in brackets")
    else:
        axis.set_xlabel("KL to the exact cache, nats; file bits in brackets")


def _rates(axis, table):
    """KL against file bits, one line for each family."""
    families = {}
    for row in table["rows"]:
        if row["name"] not in NO_MARKS and row["kl"]:
            families.setdefault(row["name"].rpartition(" ")[0], []).append((row["bits_per_value"], row["kl"]))
    for colour, (name, points) in zip(COLOURS, families.items()):
        axis.plot(*zip(*sorted(points)), "o-", color=colour, markersize=4, linewidth=1.2, label=name)
    for row in table["rows"]:
        if row["name"] == "q4_0":
            axis.axhline(row["kl"], color="#777777", linewidth=0.8, linestyle=":", label="q4_0's KL, at 4.5 bits")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(RATE_TICKS)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("file bits a value")
    axis.set_ylabel("KL to the exact cache, nats")
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.legend(fontsize=7)


def _hops(axis, table):
    families = {}
    for row in table["rows"]:
        if found := re.match(r"(.*), hop (\d+)$", row["name"]):
            families.setdefault(found[1], []).append((int(found[2]), row["kl"]))
    for colour, (name, points) in zip(COLOURS, families.items()):
        axis.plot(*zip(*points), "o-", color=colour, markersize=4, linewidth=1.2, label=name)
    axis.set_yscale("log")
    axis.set_xticks(sorted({hop for points in families.values() for hop, _ in points}))
    axis.set_xlabel("hop")
    axis.set_ylabel("KL of its receiver, nats")
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.legend(fontsize=7)


def _breakdown(axis, table):
    """Shares of the file, kinds stacked from the left."""
    rows = list(reversed(table["rows"]))
    left = np.zeros(len(rows))
    colours = plt.get_cmap("tab20")
    for number, kind in enumerate(KINDS):
        sizes = np.array([row["facts"][kind] / row["bits_per_value"] for row in rows])
        if sizes.max() > 0.001:
            axis.barh(range(len(rows)), sizes, left=left, color=colours(number), label=kind)
        left += sizes
    axis.set_yticks(range(len(rows)), [f"{row['name']}  ({row['bits_per_value']:.2f})" for row in rows], fontsize=8)
    axis.set_xlabel("share of the file")
    axis.legend(fontsize=6, loc="center left", bbox_to_anchor=(1.0, 0.5))


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        plot(json.load(file), sys.argv[2])
