"""BUILD_SHARED_LIBS and add_subdirectory: the library built once more, as a part of somebody's project."""

import pathlib
import re
import subprocess
import tempfile
import unittest

import consumer

HERE = pathlib.Path(__file__).parent
# "void" begins the name of an instantiated function template.
PUBLIC = r"ccd_|(void |typeinfo (name )?for |vtable for )?(cachecard|std)::"


class SharedLibrary(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="cachecard_shared_")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.build = cls.folder / "build"
        consumer.configure(HERE / "embedded", cls.build, f"-DCACHECARD_SOURCE={consumer.SOURCE}",
                           "-DBUILD_SHARED_LIBS=ON", "-DCACHECARD_INSTALL=ON")
        consumer.build(cls.build)
        cls.prefix = cls.folder / "prefix"
        consumer.run(consumer.CMAKE, "--install", cls.build, "--prefix", cls.prefix)

    def library(self):
        return next(self.build.glob("cachecard/libcachecard/libcachecard.so"))

    def exported(self):
        out = subprocess.run(["nm", "-D", "-C", "--defined-only", self.library()], check=True, capture_output=True,
                             text=True).stdout
        return [line.split(" ", 2)[2] for line in out.splitlines()]

    def test_embedded_examples_run(self):
        consumer.check_examples(self, self.build / "examples", self.folder / "embedded.card")

    def test_installed_examples_run(self):
        examples = self.folder / "examples"
        consumer.configure(consumer.SOURCE / "tools" / "examples", examples, f"-DCMAKE_PREFIX_PATH={self.prefix}")
        consumer.build(examples)
        consumer.check_examples(self, examples, self.folder / "installed.card")

    def test_cxx_headers_work_across_the_boundary(self):
        card = self.folder / "cxx.card"
        consumer.run(self.build / "examples" / "write_card", card)
        self.assertRegex(consumer.run(self.build / "cxx_consumer", card), r"^17 fields, \d+ bytes\n$")

    def test_only_public_names_are_exported(self):
        names = self.exported()
        self.assertIn("ccd_open_file", names)
        strangers = [name for name in names if not re.match(PUBLIC, name)]
        self.assertEqual(strangers, [])
        inside = [name for name in names if "kernel::" in name or "c_api::" in name or "open_frame" in name]
        self.assertEqual(inside, [])

    def test_every_function_of_the_header_is_exported(self):
        header = (consumer.SOURCE / "libcachecard" / "include" / "cachecard" / "cachecard.h").read_text()
        declared = set(re.findall(r"\b(ccd_\w+)\(", header))
        self.assertGreater(len(declared), 25)
        self.assertEqual(declared - set(self.exported()), set())


if __name__ == "__main__":
    unittest.main()
