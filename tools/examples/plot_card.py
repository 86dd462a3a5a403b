"""A layer of a KV cache and the card's bit-width map as a picture, out of an HDF5 file and with h5py alone.

    cachecard convert context.card context.h5
    python3 plot_card.py context.h5 [LAYER [key|value]] [-o picture.png]

Needs h5py and matplotlib; nothing of CacheCard. spec/HDF5.md says where everything stands.
"""
import argparse
import pathlib

import h5py
import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

STREAMS = ("key", "value", "latent", "opaque")
TYPE_BITS = {b"f32": 32, b"f16": 16, b"bf16": 16, b"q8_0": 8.5, b"q5_1": 6, b"q5_0": 5.5, b"q4_1": 5, b"q4_0": 4.5, b"iq4_nl": 4.5}
EXACT = 127  # an offset of the map: the token is kept as the runtime had it


def bits_of(file, layer, stream):
    """Bits a value of every token, from the map: base + offset, at most cap, in half bits. NaN where there is no token."""
    table = file["header/stream"][()]
    group = file[f"layers/{layer:02}/{stream}"]
    index = next(i for i, row in enumerate(table) if (row["layer"], STREAMS[row["stream"]]) == (layer, stream))
    use = int(sum(row["kv_head_count"] for row in table[:index]))  # the map counts streams' heads, one after the other
    bits = np.full(file["header"].attrs["token_count"], np.nan)
    for chunk in group["chunk"][()]:
        segment = file[f"segments/{chunk['segment']:02}"]
        begin, count = int(chunk["first_token"]), int(chunk["token_count"])
        skip = begin - int(segment.attrs["first_token"])
        bit_map = segment["bit_width_map"]
        offset = bit_map["rows"][bit_map["row_of"][use], skip:skip + count].astype(int)
        width = np.minimum(int(bit_map["base"][index]) + offset, int(bit_map["cap"][index])) / 2
        exact = (offset == EXACT) | (chunk["codec"] != 2)  # of raw and ggml chunks the type says it
        bits[begin:begin + count] = np.where(exact, TYPE_BITS[group.attrs["dtype"]], width)
    return bits


def layers_with(file, stream):
    return [int(name) for name in sorted(file["layers"], key=int) if stream in file[f"layers/{name}"]]


def plot(file, layer, stream):
    group = file[f"layers/{layer:02}/{stream}"]
    values = group["values"][()].astype("f4")
    tokens, heads, head_dim = values.shape
    figure, axes = plt.subplots(3, 1, figsize=(10, 9), height_ratios=(4, 3, 2), constrained_layout=True)

    first = int(group.attrs["first_token"])
    span = (first - 0.5, first + tokens - 0.5)
    reach = np.nanpercentile(np.abs(values[np.isfinite(values)]), 99) if tokens else 1
    image = axes[0].imshow(values.reshape(tokens, -1).T, aspect="auto", cmap="RdBu", vmin=-reach, vmax=reach,
                           extent=(*span, heads * head_dim, 0), interpolation="nearest")
    for head in range(1, heads):
        axes[0].axhline(head * head_dim, color="black", linewidth=0.7)
    axes[0].set(title=f"layer {layer}, {stream}: {heads} heads of {head_dim}", ylabel="channel, head by head")
    figure.colorbar(image, ax=axes[0], label="value")

    layers = layers_with(file, stream)
    bits = np.array([bits_of(file, number, stream) for number in layers])
    image = axes[1].imshow(bits, aspect="auto", cmap="viridis", vmin=0, interpolation="nearest",
                           extent=(-0.5, bits.shape[1] - 0.5, layers[-1] + 0.5, layers[0] - 0.5))
    axes[1].set(title=f"bit-width map, {stream} (mean {np.nanmean(bits):.2f} bits)", ylabel="layer")
    figure.colorbar(image, ax=axes[1], label="bits a value")

    if "step" in group:  # planes: one step for each head vector
        step = group["step"][()].reshape(tokens, heads, -1).mean(axis=2)
        for head in range(heads):
            axes[2].plot(np.arange(first, first + tokens), np.where(step[:, head] > 0, step[:, head], np.nan),
                         linewidth=0.8, label=f"head {head}")
        axes[2].legend(loc="upper right", fontsize="small", ncols=4)
    else:
        axes[2].text(0.5, 0.5, "no planes in this stream: no steps", ha="center", transform=axes[2].transAxes)
    axes[2].set(title=f"layer {layer}, {stream}: step by token", xlabel="token", ylabel="step")
    for axis in axes:
        axis.set_xlim(-0.5, bits.shape[1] - 0.5)
    model = file["identity"].attrs.get("model_name", file["identity"].attrs.get("architecture", b"unknown model"))
    figure.suptitle(f"{model.decode()}: {bits.shape[1]} tokens, {len(layers)} layers")
    return figure


def main():
    parser = argparse.ArgumentParser(description="Plots a layer and the bit-width map of a card's HDF5 file.")
    parser.add_argument("file", type=pathlib.Path)
    parser.add_argument("layer", type=int, nargs="?", default=0)
    parser.add_argument("stream", nargs="?", default="key", choices=STREAMS[:3])
    parser.add_argument("-o", "--output", type=pathlib.Path)
    args = parser.parse_args()
    output = args.output or args.file.with_suffix(".png")
    with h5py.File(args.file) as file:
        plot(file, args.layer, args.stream).savefig(output, dpi=110)
    print(output)


if __name__ == "__main__":
    main()
