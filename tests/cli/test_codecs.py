"""codecs: types with their widths, the table of errors, the names that --allow takes."""

from cli_runner import CommandTest, main


class Codecs(CommandTest):
    def test_types_and_widths(self):
        types = {row["dtype"]: row["width_bits"] for row in self.json("codecs")["types"]}
        self.assertEqual(types, {"f32": 32, "f16": 16, "bf16": 16, "q8_0": 8.5, "q5_1": 6,
                                 "q5_0": 5.5, "q4_1": 5, "q4_0": 4.5, "iq4_nl": 4.5})

    def test_lists(self):
        lists = self.json("codecs")
        self.assertEqual([row["codec"] for row in lists["codecs"]], ["raw", "ggml", "planes", "entropy"])
        self.assertEqual(len(lists["compressors"]), 3)
        self.assertTrue(all(row["meaning"] for row in lists["overrides"]))
        self.assertIn({"limit": "header_bytes", "value": 262144}, lists["limits"])

    def test_text_has_the_same_rows(self):
        text = self.expect(0, "codecs", "--errors").stdout.decode()
        for row in self.json("codecs", "--errors")["errors"]:
            self.assertIn(row["name"], text)
        self.assertIn("iq4_nl", self.expect(0, "codecs").stdout.decode())


if __name__ == "__main__":
    main()
