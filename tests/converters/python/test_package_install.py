"""What pip installed: alone, typed, and laid out as cachecard.h says."""

import ctypes
import os
import pathlib
import re
import subprocess
import sys

import package_test
from cachecard import _library, errors

PACKAGE = pathlib.Path(os.environ["CACHECARD_PACKAGE"])
HEADER = pathlib.Path(__file__).parents[3] / "libcachecard" / "include" / "cachecard" / "cachecard.h"

STRUCTS = {
    "ccd_error": _library.CardErrorStruct, "ccd_allocator": _library.Allocator, "ccd_parallel": _library.Parallel,
    "ccd_open_options": _library.OpenOptions, "ccd_facts": _library.FactsStruct, "ccd_stream": _library.StreamStruct,
    "ccd_identity_value": _library.IdentityValue, "ccd_field_verdict": _library.FieldVerdictStruct,
    "ccd_target": _library.TargetStruct, "ccd_rope_table": _library.RopeTableStruct,
    "ccd_provenance_step": _library.ProvenanceStruct, "ccd_verify_report": _library.VerifyReportStruct,
    "ccd_writer_facts": _library.WriterFacts, "ccd_values": _library.ValuesStruct,
    "ccd_write_options": _library.WriteOptions, "ccd_write_report": _library.WriteReportStruct,
    "ccd_output": _library.OutputStruct,
}


# What a caller may rely on: types that a checker sees.
TYPED_USE = """
from typing import Any, Optional
import numpy as np
from numpy.typing import NDArray
import cachecard
from cachecard import hf

with cachecard.open("a.card", threads=2) as card:
    keys: NDArray[Any] = card.read(0, "key", tokens=slice(0, 10))
    base: Optional[float] = card.identity.rope_base
    name: Optional[str] = card.identity.architecture
    count: int = card.facts.token_count
    ids: NDArray[np.int32] = card.token_ids
report: cachecard.WriteReport = cachecard.write("b.card", {(0, "key"): keys}, token_ids=ids, codec="planes")
card.identity.vocab_size = 5
with hf.record_attention(object(), last=8) as attention:
    weights: list[NDArray[np.float32]] = attention.weights(())
"""


class InstalledPackage(package_test.PackageTest):
    def test_library_stands_alone(self):
        shown = subprocess.run(["readelf", "-d", PACKAGE / "_libcachecard.so"], capture_output=True, text=True, check=True)
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", shown.stdout)
        self.assertTrue(needed)
        for name in needed:
            if name.startswith("libhwy"):  # taken along
                self.assertTrue((PACKAGE / name).is_file(), name)
                self.assertRegex(shown.stdout, r"\(RUNPATH\).*\[\$ORIGIN\]")
            else:
                self.assertRegex(name, r"^(libc|libm|libpthread|ld-linux.*|libgcc_s)\.so")

    def test_library_shows_c_functions_only(self):
        shown = subprocess.run(["nm", "-D", "--defined-only", PACKAGE / "_libcachecard.so"], capture_output=True, text=True,
                               check=True)
        names = [line.split()[-1] for line in shown.stdout.splitlines()]
        self.assertGreater(len(names), 40)
        self.assertEqual([name for name in names if not name.startswith(("ccd_", "ccp_"))], [])

    def test_imports_without_torch_and_transformers(self):
        script = ("import sys; sys.modules['torch'] = sys.modules['transformers'] = None\n"
                  "import cachecard, cachecard.hf\n"
                  "print(sum(1 for name in sys.modules if name.split('.')[0] in ('torch', 'transformers')))")
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        self.assertEqual(done.stdout, "2\n")

    def test_is_typed(self):
        self.assertTrue((PACKAGE / "py.typed").is_file())

    def test_types_hold(self):
        use = self.folder / "typed_use.py"
        use.write_text(TYPED_USE)
        done = subprocess.run([sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent",
                               f"--config-file={HEADER.parents[3] / 'pyproject.toml'}", PACKAGE, use],
                              capture_output=True, text=True, env={**os.environ, "MYPYPATH": str(PACKAGE.parent)})
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_structs_are_laid_out_as_in_the_header(self):
        lines = ["#include <stdio.h>", f'#include "{HEADER}"', "int main(void) {"]
        expected = []
        for name, kind in STRUCTS.items():
            lines.append(f'printf("{name} %zu\\n", sizeof({name}));')
            expected.append(f"{name} {ctypes.sizeof(kind)}")
            for field, *_ in kind._fields_:
                lines.append(f'printf("{name}.{field} %zu\\n", offsetof({name}, {field}));')
                expected.append(f"{name}.{field} {getattr(kind, field).offset}")
        source = self.folder / "layout.c"
        source.write_text("\n".join([*lines, "return 0; }"]))
        subprocess.run([os.environ["CC"], source, "-o", self.folder / "layout"], check=True)
        shown = subprocess.run([self.folder / "layout"], capture_output=True, text=True, check=True)
        self.assertEqual(shown.stdout.splitlines(), expected)

    def test_every_struct_and_function_of_the_header_is_known(self):
        header = HEADER.read_text()
        structs = set(re.findall(r"^typedef struct (ccd_\w+) \{", header, re.M))
        self.assertEqual(structs - set(STRUCTS), {"ccd_source", "ccd_limits"})
        for name in _library._CALLS:
            if name.startswith("ccd_"):
                self.assertIn(f" {name}(", header)

    def test_every_code_of_the_header_has_its_class(self):
        codes = dict(re.findall(r"^  CCD_(\w+) = (\d+)", HEADER.read_text().split("typedef int32_t ccd_status;")[1]
                                .split("};")[0], re.M))
        codes.pop("OK")
        self.assertGreaterEqual(len(codes), 30)
        self.assertEqual({kind.name: kind.code for kind in errors.BY_CODE.values()},
                         {name.lower(): int(code) for name, code in codes.items()})

    def test_an_unknown_code_is_internal_and_keeps_its_number(self):
        error = errors.make_error(77, "later")
        self.assertIs(type(error), errors.InternalError)
        self.assertEqual((error.code, str(error), error.offset), (77, "later", None))


if __name__ == "__main__":
    package_test.main()
