"""The short run that every push makes, and what it must find for the instrument to be believed."""
import sys

SMOKE_TEXTS = ("agent.txt", "story.txt")
SMOKE_CONTEXT, SMOKE_ANSWER = 700, 48


def check_smoke(facts):
    """0, or 1 with a line for everything that is not as it must be."""
    rows = {row["name"]: row for row in facts["rows"]}
    wrong = [text for text, right in expected(rows) if not right]
    for text in wrong:
        print(f"fidelity: {text}", file=sys.stderr)
    return 1 if wrong else 0


def expected(rows):
    """(what would be wrong, whether it is right): bounds that hold on any machine, not measurements."""
    floor, raw, q4_0 = rows["floor"], rows["raw"], rows["q4_0"]
    yield f"raw is not exact: KL {raw['kl']}, dNLL {raw['dnll']}", raw["kl_mean"] == 0 and raw["dnll"] == 0
    yield f"raw takes {raw['bits_per_value']:.3f} bits a value", 16 < raw["bits_per_value"] < 16.3
    yield f"the floor's KL is {floor['kl']:.2e}: the weights are not F32 or nothing was put back", 0 < floor["kl"] < 2e-5
    yield f"q4_0's KL is {q4_0['kl']:.2e}", 1e-3 < q4_0["kl"] < 3e-2
    yield f"q4_0 takes {q4_0['bits_per_value']:.3f} bits a value", 4.5 < q4_0["bits_per_value"] < 4.52
    if planes := rows.get("planes K4 V3"):
        # Two texts of 700 tokens: not the claim, which the whole run makes.
        yield f"planes K4 V3: KL {planes['against_q4_0']['ratio']:.2f} of q4_0's", planes["against_q4_0"]["ratio"] < 1.5
        yield f"planes K4 V3 takes {planes['bits_per_value']:.3f} bits a value", planes["bits_per_value"] < 3.8
