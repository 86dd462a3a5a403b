"""Export of a card to HDF5 against h5py, which writes the same values from memory in the same chunks and with the same filters.

    hdf5_bench.py --build BUILD CARD [--runs 5]

The command's time is the whole process, from the card's first byte to the rename; h5py's begins with all arrays in memory,
its imports done, and ends with the same fsync. Paired runs in turn, medians. h5py takes one thread.
"""
import argparse
import os
import statistics
import subprocess
import tempfile
import time

import h5py


def write_with_h5py(arrays, path, level):
    started = time.perf_counter()
    with h5py.File(path, "w") as file:
        for name, values, chunks in arrays:
            file.create_dataset(name, data=values, chunks=chunks, shuffle=True, compression="gzip", compression_opts=level)
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
    return time.perf_counter() - started


def arrays_of(path):
    """Every values dataset, with the chunks that the command chose."""
    arrays = []
    with h5py.File(path) as file:
        for layer in file["layers"].values():
            for stream in layer.values():
                if "values" in stream:
                    arrays.append((stream["values"].name, stream["values"][()], stream["values"].chunks))
    return arrays


def rows(cli, card, folder, runs):
    """(what, reached, asked, detail) of each measure."""
    out = os.path.join(folder, "export.h5")

    def export(*flags):
        started = time.perf_counter()
        subprocess.run([cli, "convert", card, out, "-q", *flags], check=True)
        return time.perf_counter() - started

    export("--deflate", "0")
    arrays = arrays_of(out)
    size = sum(values.nbytes for _, values, _ in arrays)
    actions = {"h5py": lambda: write_with_h5py(arrays, os.path.join(folder, "h5py.h5"), 1),
               "one": lambda: export("--threads", "1"), "two": lambda: export("--threads", "2"),
               "coded": lambda: export("--coded")}
    seconds = {name: [] for name in actions}
    for _ in range(runs + 1):  # the first round warms up
        for name, action in actions.items():
            seconds[name].append(action())
    median = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    export("--threads", "1")
    share = os.path.getsize(out) / os.path.getsize(os.path.join(folder, "h5py.h5"))
    for name, what, asked in (("one", "export to HDF5, deflate 1, one thread / h5py", ">= 0.5"),
                              ("two", "export to HDF5, deflate 1, two threads / h5py", ">= 0.5"),
                              ("coded", "export to HDF5, coded / h5py's deflate 1 of the values", "-")):
        yield (what, f"{median['h5py'] / median[name]:.2f}", asked,
               f"{size / median[name] / 1e6:.0f} MB/s of values, h5py {size / median['h5py'] / 1e6:.0f} MB/s; "
               f"{size:,} bytes, whole process" + (f"; file {share:.3f} of h5py's" if name == "one" else ""))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("card")
    parser.add_argument("--build", required=True)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    cli = os.path.join(args.build, "tools", "cachecard", "cachecard")
    with tempfile.TemporaryDirectory(prefix="cachecard-bench-") as folder:
        for what, reached, asked, detail in rows(cli, args.card, folder, args.runs):
            print(f"  {what:<60} {reached:>14}   asked {asked:<12} {detail}", flush=True)


if __name__ == "__main__":
    main()
