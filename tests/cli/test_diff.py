"""diff: what differs, what is only stored differently, and exit code 9."""

import json
import math
import struct

from cli_runner import CACHES, MODEL, CommandTest, main


def streams_of(path):
    """{(layer, stream): rows by token} of a safetensors file of f32."""
    data = path.read_bytes()
    size = struct.unpack_from("<Q", data)[0]
    streams = {}
    for name, facts in json.loads(data[8:8 + size]).items():
        if name == "__metadata__" or name.endswith(".2"):
            continue
        _, heads, tokens, width = facts["shape"]
        values = struct.unpack_from(f"<{heads * tokens * width}f", data, 8 + size + facts["data_offsets"][0])
        streams[int(name[:-2]), ("key", "value")[int(name[-1])]] = [
            [values[(h * tokens + t) * width + c] for h in range(heads) for c in range(width)] for t in range(tokens)]
    return streams


def norm(values):
    return math.sqrt(math.fsum(value * value for value in values))


class Diff(CommandTest):
    def streams(self, card):
        self.expect(0, "convert", card, "values.safetensors", "-q", "--dtype", "f32", "--pairing", "interleaved")
        return streams_of(self.folder / "values.safetensors")

    def test_a_card_is_identical_to_its_copy(self):
        report = self.json("diff", self.card(name="a.card"), self.card(name="b.card"))
        self.assertEqual(report["verdict"], "identical")
        self.assertEqual(report["equal_chunks"], 4)
        self.assertFalse(report["different"])

    def test_storage_is_no_difference(self):
        plain = self.card("llama_f32.seq", name="a.card")
        for flags in (["--zstd"], ["--chunk-tokens", "2"], ["--span-major", "--chunk-tokens", "1"],
                      ["--no-source-layout"]):
            with self.subTest(flags=flags):
                report = self.json("diff", plain, self.card("llama_f32.seq", *flags, name="b.card"))
                self.assertEqual(report["verdict"], "equal values, stored differently")
                self.assertEqual(report["different_chunks"], 0)
                self.assertNotEqual(report["storage"], [])

    def test_one_changed_value_is_found(self):
        state = bytearray((CACHES / "llama_f16.seq").read_bytes())
        state[-1] ^= 0x04
        (self.folder / "changed.seq").write_bytes(state)
        self.expect(0, "convert", "changed.seq", "b.card", "-q", "--model", MODEL)
        report = self.json("diff", self.card(), "b.card", exit_code=9)
        different = [c for c in report["chunks"] if c["verdict"] == "different"]
        self.assertEqual(len(different), 1)
        self.assertEqual((different[0]["layer"], different[0]["stream"]), (1, "value"))
        self.assertEqual(different[0]["differing"], 1)
        self.assertGreater(different[0]["max_abs"], 0)

    def test_tokens_identity_and_structure(self):
        report = self.json("diff", self.card(name="a.card"),
                           self.card("llama_f16.seq", "--source-id", "other", name="b.card"),
                           exit_code=9)
        self.assertEqual(report["identity"],
                         [{"what": "source_id", "left": "unknown", "right": "other"}])
        self.expect(0, "trim", "a.card", "c.card", "--tokens", ":3", "-q")
        what = {row["what"] for row in self.json("diff", "a.card", "c.card",
                                                 exit_code=9)["structure"]}
        self.assertLessEqual({"token_count", "next_position", "token_ids from token 3 on"}, what)

    def test_types_differ_and_values_are_compared(self):
        left = self.card("llama_f16.seq", name="a.card")
        right = self.card("llama_q8_0.seq", "--rotated", "yes", name="b.card")
        report = self.json("diff", left, right, exit_code=9)
        self.assertIn("key dtype of layers 0-1", {row["what"] for row in report["structure"]})
        self.assertEqual(report["different_chunks"], 4)
        self.assertLess(max(chunk["max_abs"] for chunk in report["chunks"]), 0.1)

    def test_a_state_is_compared_as_the_card_it_becomes(self):
        card = self.card()
        report = self.json("diff", card, CACHES / "llama_f16.session", "--model", MODEL)
        self.assertEqual(report["equal_chunks"], 4)
        self.expect(2, "diff", card, CACHES / "llama_f16.session")

    def test_errors_are_those_of_the_values(self):
        left = self.card("llama_f16.seq", name="a.card")
        right = self.card("llama_q8_0.seq", "--rotated", "yes", name="b.card")
        report = self.json("diff", left, right, exit_code=9)
        a, b = self.streams(left), self.streams(right)
        self.assertEqual(len(report["streams"]), len(a))
        for row in report["streams"]:
            rows = list(zip(a[row["layer"], row["stream"]], b[row["layer"], row["stream"]]))
            x = [value for row_a, _ in rows for value in row_a]
            y = [value for _, row_b in rows for value in row_b]
            errors = [norm([p - q for p, q in zip(*pair)]) / norm(pair[0]) for pair in rows]
            self.assertAlmostEqual(row["relative_error"], norm([p - q for p, q in zip(x, y)]) / norm(x), delta=1e-9)
            self.assertAlmostEqual(row["cosine"], math.fsum(p * q for p, q in zip(x, y)) / norm(x) / norm(y), delta=1e-9)
            self.assertAlmostEqual(row["max_abs"], max(abs(p - q) for p, q in zip(x, y)), delta=1e-9)
            self.assertEqual(row["worst_token"], errors.index(max(errors)))
            self.assertAlmostEqual(row["worst_token_error"], max(errors), delta=1e-9)
            self.assertEqual(row["differing"], sum(p != q for p, q in zip(x, y)))

    def test_tolerance(self):
        left = self.card("llama_f16.seq", name="a.card")
        right = self.card("llama_q8_0.seq", "--rotated", "yes", name="b.card")
        worst = max(row["relative_error"] for row in self.json("diff", left, right, exit_code=9)["streams"])
        report = self.json("diff", left, right, "--tolerance", worst * 1.001)
        self.assertEqual(report["verdict"], "different within the tolerance")
        self.assertTrue(report["different"])
        self.assertFalse(report["beyond_tolerance"])
        report = self.json("diff", left, right, "--tolerance", worst * 0.999, exit_code=9)
        self.assertEqual([row["relative_error"] for row in report["streams"] if row["beyond_tolerance"]], [worst])
        self.expect(2, "diff", left, right, "--tolerance", "-1")
        # Other tokens are no matter of tolerance, another identity is.
        self.expect(0, "trim", "a.card", "c.card", "--tokens", ":3", "-q")
        self.expect(9, "diff", "a.card", "c.card", "--tolerance", "1e9")
        other = self.card("llama_f16.seq", "--source-id", "other", name="d.card")
        self.expect(0, "diff", left, other, "--tolerance", "0")

    def test_one_change_in_a_chunk_of_many_is_measured_against_the_whole_stream(self):
        state = bytearray((CACHES / "llama_f32.seq").read_bytes())
        state[-1] ^= 0x80  # the sign of one value
        (self.folder / "changed.seq").write_bytes(state)
        self.expect(0, "convert", "changed.seq", "b.card", "-q", "--model", MODEL, "--chunk-tokens", "2")
        left = self.card("llama_f32.seq", "--chunk-tokens", "2")
        rows = self.json("diff", left, "b.card", exit_code=9)["streams"]
        row = next(row for row in rows if row["differing"])
        self.assertEqual([r["differing"] for r in rows].count(0), len(rows) - 1)
        values = [value for token in self.streams(left)[row["layer"], row["stream"]] for value in token]
        self.assertAlmostEqual(row["relative_error"], row["max_abs"] / norm(values), delta=1e-9)
        self.assertEqual(row["worst_token"], len(self.streams(left)[0, "key"]) - 1)

    def test_foreign_files_are_compared_like_cards(self):
        card = self.card()
        for name in ("cache.gguf", "cache.pt", "cache.safetensors", "cache.kv"):
            with self.subTest(name=name):
                self.expect(0, "convert", card, name, "-q")
                flags = [] if name == "cache.gguf" else ["--model", MODEL]
                report = self.json("diff", card, name, "--tolerance", "0", *flags)
                self.assertEqual({row["differing"] for row in report["streams"]}, {0})
        self.assertEqual(self.json("diff", card, "cache.gguf")["verdict"], "identical")
        self.json("diff", "cache.pt", "cache.safetensors", "--model", MODEL, "--tolerance", "0")

    def test_nonfinite_values_are_beyond_any_tolerance(self):
        state = bytearray((CACHES / "llama_f16.seq").read_bytes())
        state[-2:] = b"\x00\x7c"  # infinity
        (self.folder / "changed.seq").write_bytes(state)
        self.expect(0, "convert", "changed.seq", "b.card", "-q", "--model", MODEL)
        rows = self.json("diff", self.card(), "b.card", "--tolerance", "1e9", exit_code=9)["streams"]
        self.assertEqual([row["nonfinite"] for row in rows], [0, 0, 0, 1])

    def test_text_says_what_differs(self):
        left = self.card(name="a.card")
        right = self.card("llama_f32.seq", name="b.card")
        text = self.expect(9, "diff", left, right).stdout.decode()
        for part in ("verdict  different", "structure", "key dtype of layers 0-1", "f16", "f32", "relative error",
                     "worst token"):
            self.assertIn(part, text)


if __name__ == "__main__":
    main()
