"""The schema checker, rows and texts: what they refuse, and in which words."""
import json
import os
import tempfile
import unittest

import fidelity_rows
import text_set
from fidelity_error import FOREIGN, IO, USAGE, FidelityError
from schema_check import SchemaError, check

SCHEMA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "spec", "schemas", "fidelity.schema.json")


class Schema(unittest.TestCase):
    def setUp(self):
        with open(SCHEMA, encoding="utf-8") as file:
            self.schema = json.load(file)
        way = {"way": "text", "positions": 9, "kl": 0.1, "top1": 1.0, "dnll": -0.1}
        means = {"kl": 0.1, "kl_mean": 0.2, "top1": 0.5, "dnll": 0.0}
        sizes = {"file_bytes": 9, "value_count": 4, "bits_per_value": 18.0}
        row = {"name": "a", "codec": "b", "options": "", **sizes, **means, "against_q4_0": None, "near_floor": False,
               "peak_memory_bytes": None, "by_text": [{"text": "t", **sizes, **means, "ways": [way]}],
               "by_way": [{"way": "text", **means}]}
        self.facts = {"command": "", "commit": "", "runtime": "", "seed": 1, "bootstrap_samples": 1, "rows": [row],
                      "model": {"file": "", "sha256": "", "instrument": "f32"}, "contexts": [1], "receivers": ["r"],
                      "texts": [{"name": "t", "bytes": 1, "tokens": 1}], "native": [],
                      "long": [{"context_tokens": 1, "rows": [row]}], "deployed": None}

    def refused(self, words):
        with self.assertRaises(SchemaError) as caught:
            check(self.facts, self.schema)
        self.assertIn(words, str(caught.exception))

    def test_a_whole_document_passes(self):
        check(self.facts, self.schema)

    def test_every_missing_field_is_named(self):
        for name in list(self.facts):
            kept = self.facts.pop(name)
            self.refused(f"has no '{name}'")
            self.facts[name] = kept

    def test_unknown_fields_wrong_types_and_ranges(self):
        row = self.facts["rows"][0]
        for name, value, words in (("extra", 1, "$.rows[0] has 'extra'"), ("kl", "0", "$.rows[0].kl"),
                                   ("top1", 1.5, "above 1"), ("file_bytes", 0, "below 1"), ("kl", float("nan"), "kl"),
                                   ("near_floor", 1, "boolean"), ("file_bytes", True, "integer"), ("by_way", [], "fewer")):
            kept = dict(row)
            row[name] = value
            self.refused(words)
            row.clear()
            row.update(kept)

    def test_a_keyword_that_is_not_checked_is_an_error(self):
        with self.assertRaises(SchemaError):
            check("a", {"type": "string", "pattern": "b"})


class Rows(unittest.TestCase):
    def test_names_are_unique_and_smoke_rows_exist(self):
        names = [row.name for row in fidelity_rows.ROWS]
        self.assertEqual(len(names), len(set(names)))
        self.assertLessEqual(set(fidelity_rows.SMOKE), set(names))

    def test_floor_and_yardstick_are_always_there(self):
        names = [row.name for row in fidelity_rows.chosen(["raw"], ["mine=planes --bits 5,4"])]
        self.assertEqual(names, ["floor", "raw", "q4_0", "mine"])

    def test_unknown_and_malformed_rows_are_usage(self):
        for names, own in ((["q5"], []), (None, ["planes --bits 4,3"]), (None, ["mine="]), (None, ["raw=raw"])):
            with self.assertRaises(FidelityError) as caught:
                fidelity_rows.chosen(names, own)
            self.assertEqual(caught.exception.code, USAGE)


class Texts(unittest.TestCase):
    def refused(self, code, words, function, *given):
        with self.assertRaises(FidelityError) as caught:
            function(*given)
        self.assertEqual(caught.exception.code, code)
        self.assertIn(words, str(caught.exception))

    def test_folders(self):
        with tempfile.TemporaryDirectory() as folder:
            self.refused(USAGE, "no .txt", text_set.read_texts, folder)
            self.refused(IO, "No such", text_set.read_texts, os.path.join(folder, "none"))
            with open(os.path.join(folder, "bad.txt"), "wb") as file:
                file.write(b"good \xff bad")
            self.refused(FOREIGN, "bad.txt is not UTF-8: byte 5 is 0xff", text_set.read_texts, folder)

    def test_short_and_repeated_texts(self):
        long = text_set.Text("long.txt", 1, list(range(200)))
        short = text_set.Text("short.txt", 1, list(range(150)))
        self.refused(USAGE, "short.txt has 150 tokens", text_set.long_enough, [long, short], 120)
        kept, left_out = text_set.long_enough([long, short], 100)
        self.assertEqual(([text.name for text in kept], len(left_out)), (["long.txt"], 1))
        self.refused(USAGE, "long.txt, has 200", text_set.longest, [long, short], 300)

    def test_continuation_needs_a_target_for_each_position_and_ends_with_the_models_context(self):
        text = text_set.Text("a.txt", 1, list(range(500)))
        self.assertEqual(text.continuation(400, 8192), 99)
        self.assertEqual(text.continuation(100, 8192), 256)
        self.assertEqual(text.continuation(100, 150), 50)

    def test_receivers(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "receivers.json")
            one = {"name": "a", "system": "b", "user": "c"}
            for content, code in (("", FOREIGN), ("[]", FOREIGN), ("{}", FOREIGN), ('[{"name": "a"}]', FOREIGN),
                                  (json.dumps([one, one]), FOREIGN), (json.dumps([{**one, "name": "text"}]), FOREIGN),
                                  (json.dumps([{**one, "user": 3}]), FOREIGN)):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(content)
                self.refused(code, "receivers.json", text_set.read_receivers, path)
            self.refused(IO, "No such", text_set.read_receivers, os.path.join(folder, "none.json"))
            with open(path, "w", encoding="utf-8") as file:
                json.dump([one], file)
            self.assertEqual(text_set.read_receivers(path)[0].user, "c")


if __name__ == "__main__":
    unittest.main()
