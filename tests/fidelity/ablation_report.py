"""What the ablations found, as JSON after spec/schemas/ablations.schema.json and as printed tables."""
import numpy as np
from ablation_breakdown import KINDS
from fidelity_report import BOOTSTRAP_SAMPLES
from kl_metrics import bootstrap_ratio, log_kl, yardstick

YARDSTICK, FLOOR = "q4_0", "floor"
# Rows whose KL is also given over another's, with its interval: (row, over); of each table whose name begins so.
PAIRS = {
    "weights": [("sender", "shuffled"), ("sender", "none"), ("sender", "random"), ("sender", "newest"), ("newest", "none"), ("both", "newest"), ("sender", "both"),
                ("probes", "newest"), ("sender + probes", "sender"), ("sender, one map", "sender"), ("oracle", "sender"),
                ("QKVShare, one map", "sender, one map"), ("QKVShare, one map", "none")],
    "widths": [("planes {2,4,8,16}, QKVShare", "planes, uniform"), ("planes {2,4,8,16}, sender", "planes, uniform"),
               ("planes {1..8,16}, QKVShare", "planes {2,4,8,16}, QKVShare"), ("planes {1..8,16}, sender", "planes {2,4,8,16}, sender"),
               ("planes {1..8,16}, oracle", "planes {2,4,8,16}, oracle"), ("entropy fine, sender", "entropy {2,4,8}, sender"),
               ("entropy fine, QKVShare", "entropy {2,4,8}, QKVShare"), ("entropy fine, sender", "planes {2,4,8,16}, QKVShare"),
               ("entropy fine, sender, by head", "entropy fine, sender"), ("entropy fine, sender", "entropy {.5,1,2,4}, sender")],
    "pieces": [("+ means", "entropy, uniform"), ("+ head-gains", "+ means"), ("+ channel-gains", "+ head-gains"),
               ("+ references", "+ channel-gains"), ("+ token weights", "+ references"), ("all but means", "+ token weights"),
               ("all but head-gains", "+ token weights"), ("all but channel-gains", "+ token weights"),
               ("all but references", "+ token weights"), ("all but scales", "+ token weights"), ("all but gains", "+ token weights")],
    "roles": [("own probe", "another's probe"), ("own probe", "probes"), ("own probe + sender", "sender"), ("sender + probes", "sender"),
              ("own oracle", "another's oracle"), ("all roles' probes", "next role's probe"), ("sender + probes", "both"),
              ("all roles' probes", "both")],
}
HOP_ROWS = ("copied", "copied, exact readers", "coded anew")


def tables_of(measured, seed):
    """Tables in the order in which they came, rows in theirs; texts alike in all rows."""
    return [_table(name, [one for one in measured if one.table == name], seed)
            for name in dict.fromkeys(one.table for one in measured)]


def _table(name, measured, seed):
    texts = list(dict.fromkeys(one.text for one in measured))
    by_row = {}
    for one in measured:
        by_row.setdefault(one.row, {})[one.text] = one
    kls = {row: [[score.kl for _, score in of[text].ways] for text in texts] for row, of in by_row.items() if len(of) == len(texts)}
    floor = yardstick(kls[FLOOR]) if FLOOR in kls else None
    rows = [_row(row, [by_row[row][text] for text in texts if text in by_row[row]], kls, floor, seed) for row in by_row]
    return {"name": name, "texts": texts, "rows": rows, "pairs": _pairs(name, kls, seed), "met": _met(rows, kls)}


def _row(name, of, kls, floor, seed):
    scores = [score for one in of for _, score in one.ways]
    facts = {"name": name, "note": of[0].note, "file_bytes": sum(one.file_bytes for one in of),
             "value_count": sum(one.value_count for one in of)}
    facts["bits_per_value"] = 8 * facts["file_bytes"] / facts["value_count"]
    facts["facts"] = {key: float(np.mean([one.facts[key] for one in of])) for key in of[0].facts}
    if not scores:
        return facts | dict.fromkeys(("kl", "kl_mean", "top1", "dnll", "against_q4_0", "near_floor")) | {"by_text": []}
    kl = yardstick([[score.kl for _, score in one.ways] for one in of])
    facts |= {"kl": kl, "kl_mean": _mean(scores, "kl"), "top1": _mean(scores, "top1"), "dnll": _mean(scores, "dnll")}
    facts["against_q4_0"] = _ratio(name, YARDSTICK, kls, seed)
    facts["near_floor"] = floor is not None and kl < 10 * floor
    facts["by_text"] = [{"text": one.text, "bits_per_value": 8 * one.file_bytes / one.value_count,
                         "ways": [{"way": way, "kl": score.kl, "top1": score.top1, "dnll": score.dnll} for way, score in one.ways]}
                        for one in of]
    return facts


def _mean(scores, name):
    return float(np.mean([getattr(score, name) for score in scores]))


def _ratio(row, base, kls, seed):
    """None where they were not scored on the same ways."""
    if row not in kls or base not in kls or np.shape(kls[row]) != np.shape(kls[base]) or not np.size(kls[row]):
        return None
    ratio, low, high = bootstrap_ratio(kls[row], kls[base], seed, BOOTSTRAP_SAMPLES)
    return {"ratio": ratio, "low": low, "high": high}


def _pairs(table, kls, seed):
    pairs = [pair for start, of in PAIRS.items() if table.startswith(start) for pair in of]
    pairs += [(row, row.replace("no references", "both")) for row in kls if row.startswith("no references")]
    pairs += [(row, row.replace(kind, "one encode")) for row in kls for kind in HOP_ROWS if row.startswith(f"{kind}, hop")]
    return [{"row": row, "over": base, **ratio} for row, base in pairs if (ratio := _ratio(row, base, kls, seed))]


def _met(rows, kls):
    """File bits at which a family of rows ('name RATE') has q4_0's KL: ln KL straight between rows, drawn on beyond them; by text."""
    families = {}
    for row in rows:
        if "bits" in row["facts"] and row["name"] in kls:
            families.setdefault(row["name"].rpartition(" ")[0], []).append(row)
    if YARDSTICK not in kls:
        return []
    target, met = log_kl(kls[YARDSTICK]).mean(axis=1), []
    for name, of in families.items():
        if len(of) < 2:
            continue
        bits = np.array([[text["bits_per_value"] for text in row["by_text"]] for row in of])
        logs = np.array([log_kl(kls[row["name"]]).mean(axis=1) for row in of])
        at = [_crossing(bits[:, i], logs[:, i], target[i]) for i in range(len(target))]
        mean = float(np.mean(at))
        measured = bool(bits.mean(axis=1).min() <= mean <= bits.mean(axis=1).max())
        met.append({"family": name, "bits": mean, "least": float(min(at)), "most": float(max(at)), "between_rows": measured})
    return met


def _crossing(bits, logs, target):
    order = np.argsort(bits)
    bits, logs = bits[order], logs[order]
    below = int(np.argmax(logs <= target)) if (logs <= target).any() else len(bits) - 1
    high = min(max(below, 1), len(bits) - 1)
    slope = (logs[high] - logs[high - 1]) / (bits[high] - bits[high - 1])
    return float(bits[high - 1] + (target - logs[high - 1]) / slope)


def printed(table):
    """A table as text."""
    lines = [f"{table['name']}: {len(table['texts'])} text{'s' if len(table['texts']) != 1 else ''}", ""]
    if any("symbols" in row["facts"] for row in table["rows"]):
        return "\n".join(lines + _breakdown(table["rows"]))
    lines.append(_line("row", "file bits", "KL", "KL mean", "KL / q4_0", "[95 %]", "top-1", "dNLL", "note"))
    for row in table["rows"]:
        mark = "~" if row["near_floor"] else ""
        lines.append(_line(row["name"], f"{row['bits_per_value']:.3f}", mark + f"{row['kl']:.6f}", f"{row['kl_mean']:.6f}",
                           *_ratio_text(row["against_q4_0"]), f"{row['top1']:.4f}", f"{row['dnll']:+.5f}", row["note"]))
    if table["pairs"]:
        lines += ["", "KL of a row over another's:"]
        lines += [f"  {pair['row']} / {pair['over']}: {' '.join(_ratio_text(pair))}" for pair in table["pairs"]]
    if table["met"]:
        lines += ["", "file bits at q4_0's KL, mean over texts [least, most]:"]
        lines += [f"  {one['family']}: {one['bits']:.3f} [{one['least']:.3f}, {one['most']:.3f}]"
                  f"{'' if one['between_rows'] else ', drawn on beyond the rows'}" for one in table["met"]]
    return "\n".join(lines)


def _ratio_text(ratio):
    if ratio is None:
        return "-", ""
    return f"{ratio['ratio']:.3g}", "" if ratio["low"] is None else f"[{ratio['low']:.3g}, {ratio['high']:.3g}]"


def _line(name, *cells):
    return (f"{name:<32}" + "".join(f"{cell:>{width}}  " for cell, width in zip(cells, (9, 10, 9, 9, 18, 6, 8))) + cells[-1]).rstrip()


def _breakdown(rows):
    widths = [max(len(kind), 7) for kind in KINDS]
    lines = [f"{'bits a value':<20}{'file':>8}  " + "  ".join(f"{kind:>{width}}" for kind, width in zip(KINDS, widths))]
    for row in rows:
        cells = (f"{row['facts'][kind]:.4f}" for kind in KINDS)
        lines.append(f"{row['name']:<20}{row['bits_per_value']:>8.4f}  " + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths)))
    return lines
