"""What a run found, as the JSON of spec/schemas/fidelity.schema.json and as printed tables."""
import kl_metrics
from fidelity_rows import FLOOR, FLOOR_FACTOR, YARDSTICK

BOOTSTRAP_SAMPLES = 10_000
MB = 1e6


def rows_of(table):
    """The measured rows, each compared with the yardstick's; then the native ones, which are not comparable."""
    by_name = {result.row.name: _kls(result) for result in table.results}
    floor = kl_metrics.yardstick(by_name[FLOOR])
    return ([_row(table, result, by_name[YARDSTICK], floor) for result in table.results],
            [_row(table, result, None, floor) for result in table.native])


def _kls(result):
    return [[score.kl for score in scores] for scores in result.scores]


def _row(table, result, base, floor):
    kls = _kls(result)
    facts = {"name": result.row.name, "codec": result.row.codec, "options": result.row.options}
    facts |= _sizes(sum(result.file_bytes), sum(result.value_count))
    facts |= _means([score for scores in result.scores for score in scores])
    facts["kl"] = kl_metrics.yardstick(kls)
    facts["against_q4_0"] = _ratio(table.plan.seed, kls, base)
    facts["near_floor"] = facts["kl"] < FLOOR_FACTOR * floor
    peaks = [peak for peak in result.peak_memory_bytes if peak is not None]
    facts["peak_memory_bytes"] = max(peaks) if peaks else None
    facts["by_text"] = [_text(table, result, index) for index in range(len(result.scores))]
    facts["by_way"] = [_way(name, [scores[at] for scores in result.scores])
                       for at, name in enumerate(table.way_names)]
    return facts


def _sizes(file_bytes, value_count):
    return {"file_bytes": file_bytes, "value_count": value_count, "bits_per_value": 8 * file_bytes / value_count}


def _means(scores):
    """Plain means; `kl` is the yardstick, which weighs every text and way alike."""
    count = len(scores)
    return {"kl": kl_metrics.yardstick([[score.kl for score in scores]]),
            "kl_mean": sum(score.kl for score in scores) / count,
            "top1": sum(score.top1 for score in scores) / count,
            "dnll": sum(score.dnll for score in scores) / count}


def _ratio(seed, kls, base):
    if base is None:
        return None
    ratio, low, high = kl_metrics.bootstrap_ratio(kls, base, seed, BOOTSTRAP_SAMPLES)
    return {"ratio": ratio, "low": low, "high": high}


def _text(table, result, index):
    scores = result.scores[index]
    facts = {"text": table.plan.texts[index].name} | _sizes(result.file_bytes[index], result.value_count[index])
    facts |= _means(scores)
    facts["ways"] = [{"way": name, "positions": score.positions, "kl": score.kl, "top1": score.top1, "dnll": score.dnll}
                     for name, score in zip(table.way_names, scores)]
    return facts


def _way(name, scores):
    return {"way": name} | _means(scores)


def printed(table, rows, native):
    """The table as text, the native rows below it."""
    lines = [f"{table.plan.title}: context {table.plan.context}, {len(table.plan.texts)} texts, "
             f"{len(table.way_names)} ways each", "", _line(*HEAD)]
    lines += [_printed_row(row) for row in rows]
    if native:
        lines += ["", "Prefill on that cache type, and everything after it; not comparable, never the yardstick:"]
        lines += [_printed_row(row) for row in native]
    floor = next(row["kl"] for row in rows if row["name"] == FLOOR)
    lines += ["", f"KL: e to the mean over texts and ways of ln KL, in nats. The floor is {_kl(floor)}: no claim is made of "
                  f"a KL below {FLOOR_FACTOR} times it (marked ~).",
              f"[..]: 95 % of a paired bootstrap over texts, {BOOTSTRAP_SAMPLES:,} samples, seed {table.plan.seed}."]
    return "\n".join(lines)


HEAD = ("row", "options", "file bits", "KL", "KL mean", "KL / q4_0's", "[95 %]", "top-1", "dNLL", "peak MB")
WIDTHS = (14, 37, 9, 9, 8, 11, 16, 6, 8, 7)


def _line(*cells):
    names = "".join(f"{cell:<{width}}  " for cell, width in zip(cells[:2], WIDTHS[:2]))
    return (names + "  ".join(f"{cell:>{width}}" for cell, width in zip(cells[2:], WIDTHS[2:]))).rstrip()


def _printed_row(row):
    ratio = row["against_q4_0"] if row["kl"] else None  # of ln 0 nothing is a ratio
    interval = f"[{ratio['low']:.3g}, {ratio['high']:.3g}]" if ratio and ratio["low"] is not None else ""
    peak = row["peak_memory_bytes"]
    return _line(row["name"], row["options"], f"{row['bits_per_value']:.3f}",
                 ("~" if row["near_floor"] and row["kl"] else "") + _kl(row["kl"]), _kl(row["kl_mean"]),
                 f"{ratio['ratio']:.3g}" if ratio else "-", interval,
                 f"{row['top1']:.4f}", f"{row['dnll']:+.5f}", f"{peak / MB:.0f}" if peak else "-")


def _kl(value):
    return "0" if value == 0 else f"{value:.6f}" if value >= 1e-4 else f"{value:.1e}"
