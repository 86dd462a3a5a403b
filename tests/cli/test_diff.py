"""diff: what differs, what is only stored differently, and exit code 9."""

from cli_runner import CACHES, MODEL, CommandTest, main


class Diff(CommandTest):
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

    def test_text_says_what_differs(self):
        left = self.card(name="a.card")
        right = self.card("llama_f32.seq", name="b.card")
        text = self.expect(9, "diff", left, right).stdout.decode()
        for part in ("verdict  different", "structure", "key dtype of layers 0-1", "f16", "f32"):
            self.assertIn(part, text)


if __name__ == "__main__":
    main()
