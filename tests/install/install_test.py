"""cmake --install of this build, then find_package from a project that knows nothing else."""

import os
import pathlib
import tempfile
import unittest

import consumer

VERSION_PROBE = """\
cmake_minimum_required(VERSION 3.22)
project(probe LANGUAGES CXX)
find_package(cachecard {version} CONFIG REQUIRED)
"""


class InstalledCopy(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="cachecard_install_")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.prefix = cls.folder / "prefix"
        consumer.run(consumer.CMAKE, "--install", consumer.BUILD, "--prefix", cls.prefix)
        cls.examples = cls.folder / "examples"
        consumer.configure(consumer.SOURCE / "tools" / "examples", cls.examples, f"-DCMAKE_PREFIX_PATH={cls.prefix}")
        consumer.build(cls.examples)

    def test_examples_write_and_read_a_card(self):
        consumer.check_examples(self, self.examples, self.folder / "written.card")

    def test_examples_stay_short(self):
        for example in (consumer.SOURCE / "tools" / "examples").glob("*.c"):
            self.assertLess(len(example.read_text().splitlines()), 100, example.name)

    def test_fixtures_open_from_c(self):
        cards = sorted((consumer.SOURCE / "fixtures" / "valid").glob("*.card"))
        if not cards:
            self.skipTest("no fixtures/valid")
        for card in cards:
            with self.subTest(card.name):
                self.assertIn("format 0.2, ", consumer.run(self.examples / "read_card", card))

    def test_header_is_c99_and_cxx(self):
        header = self.prefix / "include" / "cachecard" / "cachecard.h"
        strict = ["-pedantic", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
        for standard in ("c99", "c11"):
            consumer.run(os.environ["CC"], f"-std={standard}", "-Wstrict-prototypes", *strict, "-x", "c", header)
        for standard in ("c++11", "c++20"):
            consumer.run(os.environ["CXX"], f"-std={standard}", *strict, "-x", "c++", header)

    def test_cxx_headers_compile_alone(self):
        headers = sorted((self.prefix / "include" / "cachecard").glob("*.hpp"))
        self.assertTrue(headers)
        for header in headers:
            with self.subTest(header.name):
                source = self.folder / f"{header.stem}_alone.cpp"
                source.write_text(f"#include <cachecard/{header.name}>\n")
                consumer.run(os.environ["CXX"], "-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only",
                             f"-I{self.prefix / 'include'}", source)

    def test_find_package_holds_to_the_minor_version(self):
        for version, fails in (("0.1", False), ("0.1.0", False), ("0.0", True), ("0.2", True), ("1.0", True)):
            with self.subTest(version):
                probe = self.folder / f"probe_{version}"
                probe.mkdir()
                (probe / "CMakeLists.txt").write_text(VERSION_PROBE.format(version=version))
                consumer.configure(probe, probe / "build", f"-DCMAKE_PREFIX_PATH={self.prefix}", fails=fails)


if __name__ == "__main__":
    unittest.main()
