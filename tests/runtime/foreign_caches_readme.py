"""The README of fixtures/caches, from the same facts as caches.json, so the two cannot disagree."""

HEAD = """# State files of real llama.cpp runtimes

Small caches that converters and runtimes are tested with. Each was written by the runtime named
below from a tiny model with random weights (seed {seed}), by `tests/runtime/make_foreign_caches.py`,
which also wrote this page and `caches.json` (the same facts, for machines). Files altered by hand say so.

- Licence of everything here: Apache-2.0, like the rest of the repository: random weights, our own text and tokens.
- `models/` holds each model's metadata without tensors and without tokenizer arrays, for heads and RoPE.
  The models themselves are not kept: `make_foreign_caches.py --models DIR` writes them again, bit for bit.
- The state bytes are equal from run to run on one kind of CPU, not across kinds; they are not made anew without need.
- `convertible`: `streams` (keys and values become card streams), `opaque` (has recurrent state, which a card keeps
  as it is), `refused` (no card may come of it).
- Layout 10/3: {old}. Layout 11/4: {new}.

## Models

| file | architecture | layers | KV heads | head_dim | why |
|---|---|---|---|---|---|
"""


def readme(made, entries, models, runtimes):
    from tiny_models import SEED
    text = HEAD.format(seed=SEED, old=runtimes["10/3"], new=runtimes["11/4"])
    for model in models.values():
        keys = model.keys
        text += (f"| models/{model.name}.gguf | {model.arch} | {keys['block_count']} | {keys['attention.head_count_kv']}"
                 f" | {keys.get('attention.key_length', '')} | {model.why} |\n")
    for one, entry in zip(made, entries):
        text += "\n" + section(one, entry, runtimes)
    return text


def section(made, entry, runtimes):
    facts = [f"layout {made.layout}", made.container.replace("_", " "), f"{entry['size_bytes']} bytes",
             f"{entry['token_count']} tokens in the header", f"{entry['cells']} cells", f"convertible: {made.convertible}"]
    if entry["rotated"]:
        facts.append("rotated: " + " and ".join(side for side in "KV" if entry["rotated_" + side.lower()]))
    return (f"## {made.file}\n\n{made.model}, {'llama-server' if made.layout == '11/4' else 'libllama'}: {made.how}.\n"
            f"{', '.join(facts)}.\n" + (f"Odd: {made.odd}.\n" if made.odd else ""))
