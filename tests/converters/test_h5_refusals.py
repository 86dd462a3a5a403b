"""HDF5 files that are refused: by name, in one line, under a second and within 64 MB. Made with h5py."""

import pathlib
import shutil
import sys
import zlib

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "cli"))

import h5py  # noqa: E402
import numpy  # noqa: E402
from cli_runner import CommandTest, main, measured  # noqa: E402

MEMORY = 64 << 20
KEY = "layers/00/key"
VALUES = KEY + "/values"


def replace(file, path, make):
    """Another object in the place of one: make(parent, name, old values)."""
    old = file[path][()] if isinstance(file[path], h5py.Dataset) else None
    parent, name = file[path].parent, path.rsplit("/", 1)[-1]
    del parent[name]
    make(parent, name, old)


def low_level(parent, name, shape, chunk, dtype, filters=(), setup=None):
    """A dataset with exactly these chunks and filters (number, flags, values)."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_chunk(chunk)
    creation.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    for number, flags, values in filters:
        creation.set_filter(number, flags, values)
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(parent.id, name.encode(), h5py.h5t.py_create(numpy.dtype(dtype)), space, creation)
    if setup:
        setup(parent[name])


class Refusals(CommandTest):
    def setUp(self):
        super().setUp()
        card = self.card()
        for form in ("decoded", "coded"):
            self.expect(0, "convert", card, f"{form}.h5", f"--{form}", "-q")

    def refuse(self, exit_code, change, *words, form="decoded"):
        """A copy of a good file, changed, does not convert; what is said has these words. Nothing is written."""
        path = self.folder / "bad.h5"
        shutil.copy(self.folder / f"{form}.h5", path)
        with h5py.File(path, "r+") as file:
            change(file)
        code, said, peak, seconds = measured(self.folder, "convert", "bad.h5", "out.card")
        self.assertEqual(code, exit_code, said)
        lines = [line for line in said.splitlines() if ": note: " not in line]
        self.assertEqual(len(lines), 1, said)
        self.assertTrue(lines[0].startswith("cachecard: bad.h5: "), said)
        for word in words:
            self.assertIn(word, said)
        self.assertLess(peak, path.stat().st_size + MEMORY)
        self.assertLess(seconds, 1)
        self.assertFalse((self.folder / "out.card").exists())
        return said

    def test_the_files_are_good_as_they_are(self):
        for form in ("decoded", "coded"):
            self.expect(0, "convert", f"{form}.h5", "out.card", "-q")
            self.expect(0, "verify", "out.card", "-q")

    def test_links_that_leave_the_file_are_not_followed(self):
        shutil.copy(self.folder / "decoded.h5", self.folder / "other.h5")
        for path in ("layers", KEY, VALUES, "positions", "header", "header/stream"):
            self.refuse(4, lambda f: replace(f, path, lambda parent, name, _: parent.__setitem__(
                name, h5py.ExternalLink("other.h5", "/" + path))), "/" + path, "external link")
        self.refuse(4, lambda f: replace(f, KEY, lambda parent, name, _: parent.__setitem__(
            name, h5py.SoftLink("/layers/00/value"))), "/" + KEY, "soft link")
        self.refuse(4, lambda f: replace(f, "card/frame_header", lambda parent, name, _: parent.__setitem__(
            name, h5py.ExternalLink("other.h5", "/card/frame_header"))), "external link", form="coded")

    def test_values_in_other_files_are_not_read(self):
        (self.folder / "raw.bin").write_bytes(bytes(1 << 20))
        self.refuse(4, lambda f: replace(f, VALUES, lambda parent, name, old: parent.create_dataset(
            name, old.shape, old.dtype, external=[("raw.bin", 0, h5py.h5f.UNLIMITED)])), VALUES, "external storage")

        def virtual(parent, name, old):
            layout = h5py.VirtualLayout(old.shape, old.dtype)
            layout[...] = h5py.VirtualSource("decoded.h5", VALUES, old.shape)
            parent.create_virtual_dataset(name, layout)

        self.refuse(4, lambda f: replace(f, VALUES, virtual), VALUES, "virtual dataset")

    def test_counts_are_held_to_the_header_and_its_limits(self):
        huge = 1 << 60
        self.refuse(4, lambda f: replace(f, VALUES, lambda parent, name, old: low_level(
            parent, name, (huge, *old.shape[1:]), (64, *old.shape[1:]), old.dtype)), VALUES, str(huge))
        self.refuse(4, lambda f: replace(f, "positions", lambda parent, name, old: low_level(
            parent, name, (huge,), (64,), old.dtype)), "/positions", str(huge))
        self.refuse(7, lambda f: replace(f, "header/stream", lambda parent, name, old: low_level(
            parent, name, (huge,), (64,), old.dtype)), "/header/stream", str(huge))
        self.refuse(7, lambda f: replace(f, "card/frame_header", lambda parent, name, old: low_level(
            parent, name, (huge,), (64,), old.dtype)), "/card/frame_header", str(huge), form="coded")

        def tokens(file):
            file["header"].attrs.modify("token_count", numpy.uint64(huge))

        self.refuse(7, tokens, "/header", "token_count")

        def streams(field, value):
            def change(file):
                rows = file["header/stream"][()]
                rows[field][0] = value
                file["header/stream"][...] = rows
            return change

        self.refuse(4, streams("head_dim", 6), VALUES)
        self.refuse(5, streams("stream", 9), "/header", "stream.stream")
        self.refuse(5, streams("kv_head_count", 1 << 31), "/header")

    def test_only_shuffle_and_deflate_are_undone(self):
        def filtered(*filters, **options):
            return lambda f: replace(f, VALUES, lambda parent, name, old: low_level(
                parent, name, old.shape, old.shape, old.dtype, filters, **options))

        optional = h5py.h5z.FLAG_OPTIONAL
        self.refuse(4, filtered((32015, optional, (3,))), VALUES, "filter 32015")
        self.refuse(4, filtered((1, optional, (1,)), (2, optional, ())), VALUES, "filter 2", "shuffle, then deflate")
        for options in ({"compression": "lzf"}, {"fletcher32": True}, {"scaleoffset": 0}):
            self.refuse(4, lambda f: replace(f, VALUES, lambda parent, name, old: parent.create_dataset(
                name, data=old.astype("i2").view("i2") if "scaleoffset" in options else old, **options)),
                VALUES, "filter")

    def test_chunks_take_what_they_may_and_no_more(self):
        packed = zlib.compress(bytes(4 << 20), 9)  # 4 KB that would inflate to far more than a chunk of 64 KB

        def bomb(file):
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_chunk((64, 16, 32))
            creation.set_deflate(1)
            shape = file[VALUES].shape
            del file[VALUES]
            space = h5py.h5s.create_simple(shape, (h5py.h5s.UNLIMITED,) * 3)
            h5py.h5d.create(file[KEY].id, b"values", h5py.h5t.IEEE_F16LE, space, creation)
            file[VALUES].id.write_direct_chunk((0, 0, 0), packed)

        self.refuse(5, bomb, VALUES, "deflate")

        def oversized(parent, name, old):
            low_level(parent, name, old.shape, old.shape, old.dtype, [(1, 0, (1,))],
                      lambda d: d.id.write_direct_chunk((0, 0, 0), bytes(1 << 20)))

        self.refuse(4, lambda f: replace(f, VALUES, oversized), VALUES, "stored bytes")

        def wide(parent, name, old):
            creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            creation.set_chunk((1 << 20, 16, 64))
            space = h5py.h5s.create_simple(old.shape, (h5py.h5s.UNLIMITED,) * 3)
            h5py.h5d.create(parent.id, name.encode(), h5py.h5t.py_create(old.dtype), space, creation)

        self.refuse(7, lambda f: replace(f, VALUES, wide), VALUES, "chunks above")
        self.refuse(4, lambda f: replace(f, VALUES, lambda parent, name, old: low_level(
            parent, name, old.shape, (1, *old.shape[1:]), old.dtype)), VALUES, "not in the file")
        self.refuse(4, lambda f: replace(f, VALUES, lambda parent, name, old: h5py.h5d.create(
            parent.id, name.encode(), h5py.h5t.py_create(old.dtype), h5py.h5s.create_simple(old.shape))),
            VALUES, "not in the file")

    def test_types_are_exactly_those_of_the_layout(self):
        for dtype in ("<f8", ">f2", "<i2", "<c8"):
            self.refuse(4, lambda f: replace(f, VALUES, lambda parent, name, old: parent.create_dataset(
                name, data=old.astype(dtype))), VALUES, "found", "allowed is 32-bit float or 16-bit float")
        self.refuse(4, lambda f: replace(f, "positions", lambda parent, name, old: parent.create_dataset(
            name, data=old.astype("<i8"))), "/positions", "64-bit integer", "32-bit integer")
        self.refuse(4, lambda f: replace(f, "token_ids", lambda parent, name, old: parent.create_dataset(
            name, data=[str(i) for i in old], dtype=h5py.string_dtype())), "/token_ids", "text of variable length")
        self.refuse(4, lambda f: replace(f, VALUES, lambda parent, name, old: parent.create_group(name)),
                    VALUES, "no dataset")
        self.refuse(4, lambda f: replace(f, VALUES, lambda parent, name, old: parent.create_dataset(
            name, data=old[0])), VALUES, "2 dimensions")

        def attribute(path, name, value, **options):
            def change(file):
                del file[path].attrs[name]
                file[path].attrs.create(name, value, **options)
            return change

        self.refuse(4, attribute("header", "token_count", 5, dtype="<i4"), "/header attribute token_count", "64-bit")
        self.refuse(4, attribute("header", "flags", [1, 2], dtype="<u4"), "/header attribute flags", "an array")
        self.refuse(4, attribute("/", "content", "decoded"), "attribute content", "text of variable length")
        self.refuse(4, attribute("identity", "architecture", numpy.uint64(3)), "/identity attribute architecture")

    def test_what_is_missing_or_of_another_layout_is_named(self):
        for path in ("header", "header/part", "layers", KEY, VALUES, "positions", "token_ids", "identity"):
            self.refuse(4, lambda f: f.__delitem__(path), "/" + path, "is missing")
        for path in ("card", "card/trailer", "card/sections", KEY + "/payload"):
            self.refuse(4, lambda f: f.__delitem__(path), "/" + path, "is missing", form="coded")
        self.refuse(4, lambda f: f.attrs.__delitem__("format"), "attribute format")
        self.refuse(4, lambda f: f.attrs.modify("layout_version", numpy.uint32(2)), "layout_version", "found 2")

    def test_a_coded_card_that_was_touched_is_not_written(self):
        def flip(path):
            def change(file):
                values = file[path][()]
                values[len(values) // 2] ^= 1
                file[path][...] = values
            return change

        self.refuse(5, flip(KEY + "/payload"), "checksum_mismatch", form="coded")
        self.refuse(5, flip("card/header"), "checksum_mismatch", form="coded")
        self.refuse(5, flip("card/sections"), form="coded")

        def frame(field, value):
            def change(file):
                frames = file["card/frame_header"][()]
                frames[field][5] = value
                file["card/frame_header"][...] = frames
            return change

        self.refuse(7, frame("stored_size", 1 << 60), "stored_size", form="coded")
        self.refuse(4, frame("stored_size", 1), "/", form="coded")
        self.refuse(5, frame("layer", 77), form="coded")

    def test_other_files_are_refused(self):
        with h5py.File(self.folder / "other.h5", "w") as file:
            file["x"] = numpy.arange(9)
        self.expect(4, "convert", "other.h5", "out.card")
        whole = (self.folder / "decoded.h5").read_bytes()
        for size in (8, 100, 1000, len(whole) // 2):
            (self.folder / "cut.h5").write_bytes(whole[:size])
            self.expect(5, "convert", "cut.h5", "out.card")
        for argument in ("inspect", "verify"):
            self.expect(4, argument, "decoded.h5")
        self.assertFalse((self.folder / "out.card").exists())


if __name__ == "__main__":
    main()
