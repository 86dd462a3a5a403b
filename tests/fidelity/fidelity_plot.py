"""KL against the bits of the whole file, one panel for each table of a run. Needs matplotlib; nothing else does.

    fidelity_plot.py RUN.json OUT.svg
"""
import json
import sys

import matplotlib
from fidelity_rows import FLOOR, FLOOR_FACTOR

matplotlib.use("Agg")
matplotlib.rcParams["svg.hashsalt"] = "cachecard"  # the same run gives the same bytes
matplotlib.rcParams["svg.fonttype"] = "none"       # letters as letters: a tenth of the size
import matplotlib.pyplot as plt  # noqa: E402
from matplotlib.ticker import NullFormatter, ScalarFormatter  # noqa: E402

FAMILIES = {"f16": ("noise", "#777777", "x"), "q8_0": ("llama.cpp", "#1f5fa8", "s"), "q4_0": ("llama.cpp", "#1f5fa8", "s"),
            "kivi": ("KIVI", "#c26a12", "^"), "planes": ("planes", "#1d7d46", "o"), "entropy": ("entropy", "#9a2246", "D")}
TICKS = (0.5, 1, 2, 3, 4, 5, 6, 8, 12, 16)
LABEL_BITS, LABEL_KL = 1.35, 1.4  # how far a label reaches, as ratios on the two axes


def plot(facts, path):
    """Writes the figure; its kind is told by the name's end."""
    panels = list(_panels(facts))
    figure, axes = plt.subplots(1, len(panels), figsize=(5.6 * len(panels), 4.6), sharey=True, squeeze=False)
    for axis, (title, rows, native) in zip(axes[0], panels):
        _panel(axis, title, rows, native)
    axes[0][0].set_ylabel("KL to the exact cache, nats")
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.endswith(".svg") else None)
    plt.close(figure)


def _panels(facts):
    context, texts = facts["contexts"][0], len(facts["rows"][0]["by_text"])
    yield f"F32 copy, {context:,} tokens, {texts} texts", facts["rows"], facts["native"]
    for table in facts["long"]:
        count = len(table["rows"][0]["by_text"])
        yield f"F32 copy, {table['context_tokens']:,} tokens, {count} text{'s' if count > 1 else ''}", table["rows"], []
    if facts["deployed"]:
        yield f"{facts['model']['file'].rsplit('.', 2)[-2]} as deployed, {context:,} tokens", facts["deployed"]["rows"], []


def _panel(axis, title, rows, native):
    seen = set()
    for row in sorted((row for row in rows if row["kl"] > 0), key=lambda row: row["kl"]):
        family, colour, marker = FAMILIES.get(row["codec"], (row["codec"], "#000000", "P"))
        axis.plot(row["bits_per_value"], row["kl"], marker, color=colour, markersize=6,
                  label=None if family in seen else family)
        seen.add(family)
    for row in native:
        axis.plot(row["bits_per_value"], row["kl"], "s", color=FAMILIES["q4_0"][1], markersize=6, fillstyle="none",
                  label=None if "native" in seen else "native (prefill on that type)")
        seen.add("native")
    _labels(axis, [row for row in [*rows, *native] if row["kl"] > 0])
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(TICKS)
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    floor = next(row["kl"] for row in rows if row["name"] == FLOOR)
    axis.axhspan(floor / 3, FLOOR_FACTOR * floor, color="#eeeeee", zorder=0)
    axis.text(0.98, floor / 2.5, f"below {FLOOR_FACTOR} x the floor: no claim", fontsize=7, color="#555555",
              ha="right", va="bottom", transform=axis.get_yaxis_transform())
    bits = [row["bits_per_value"] for row in rows]
    axis.set_xlim(min(bits) * 0.85, max(bits) * 1.6)
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("file bits a value, everything counted")
    axis.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axis.legend(fontsize=8, loc="lower left")


def _labels(axis, rows):
    """To the right of each mark; to its left where the next mark on the right would be written over."""
    for row in rows:
        crossed = any(1 < other["bits_per_value"] / row["bits_per_value"] < LABEL_BITS
                      and 1 / LABEL_KL < other["kl"] / row["kl"] < LABEL_KL for other in rows)
        axis.annotate(row["name"], (row["bits_per_value"], row["kl"]), fontsize=7, va="center",
                      ha="right" if crossed else "left", xytext=(-6 if crossed else 6, 0), textcoords="offset points")


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8") as file:
        plot(json.load(file), sys.argv[2])
