"""trim: kept values stay the same, what cannot be kept is named."""

from cli_runner import CACHES, MODEL, CommandTest, main


class Trim(CommandTest):
    def test_a_prefix_keeps_its_values(self):
        card = self.card("llama_f16.seq", "--chunk-tokens", "2")
        report = self.json("trim", card, "t.card", "--tokens", ":3")
        self.assertIn("source_layout", report["dropped"])
        self.assertGreater(report["copied_chunks"] + report["cut_chunks"], 0)
        self.expect(0, "verify", "--decode", "-q", "t.card")
        facts = self.json("inspect", "t.card", "--tokens")
        self.assertEqual(facts["token_ids"], [11, 48, 85])
        self.assertEqual(facts["flags"], [])
        compared = self.json("diff", "t.card", card, exit_code=9)
        self.assertEqual(compared["different_chunks"], 0)

    def test_a_middle_is_not_a_prefix(self):
        self.expect(0, "trim", self.card(), "t.card", "--tokens", "1:4", "-q")
        facts = self.json("inspect", "t.card", "--tokens")
        self.assertEqual(facts["token_ids"], [48, 85, 122])
        self.assertIn("not_a_prefix", facts["flags"])
        self.assertEqual(facts["positions"][0]["first_position"], 1)

    def test_layers_keep_their_numbers(self):
        self.expect(0, "trim", self.card(), "t.card", "--layers", "1:", "-q")
        facts = self.json("inspect", "t.card")
        self.assertIn("partial_layers", facts["flags"])
        self.assertEqual({layer for s in facts["streams"] for layer in s["layers"]}, {1})
        self.assertEqual(facts["layer_count"], 2)

    def test_a_whole_cut_changes_no_value(self):
        card = self.card("llama_q4_0.seq", "--rotated", "yes")
        self.expect(0, "trim", card, "t.card", "--tokens", "0:5", "-q")
        self.assertEqual(self.json("diff", card, "t.card")["different_chunks"], 0)

    def test_trim_then_convert_is_a_shorter_state(self):
        self.expect(0, "trim", self.card(), "t.card", "--tokens", ":3", "-q")
        self.expect(0, "convert", "t.card", "out", "-q", "--layout", "10/3", "--container",
                    "sequence")
        self.expect(0, "convert", "out", "again.card", "-q", "--model", MODEL)
        self.assertEqual(self.json("diff", "t.card", "again.card")["different_chunks"], 0)

    def test_provenance_grows_by_a_hop(self):
        card = self.card()
        self.expect(0, "trim", card, "t.card", "--tokens", ":3", "-q")
        steps = self.json("inspect", "t.card", "--provenance")["provenance"]
        self.assertEqual([step["operation"] for step in steps], ["convert", "trim"])
        self.assertEqual(steps[1]["parent_root"], self.json("inspect", card)["root"])

    def test_cuts_that_cannot_be_are_refused(self):
        card = self.card()
        for flags in (["--tokens", "0:6"], ["--tokens", "5:"], ["--layers", "2:"],
                      ["--layers", "0:3"], ["--tokens", "3:3"], ["--tokens", ":"]):
            with self.subTest(flags=flags):
                done = self.run_command("trim", card, "out", *flags)
                self.assertEqual(done.returncode, 0 if flags[1] == ":" else 2, done.stderr)
        window = self.folder / "window.card"
        self.expect(0, "convert", CACHES / "gemma3_f16.seq", window, "-q", "--model",
                    CACHES / "models" / "tiny_gemma3.gguf")
        self.expect(6, "trim", window, "out", "--tokens", ":3")

    def test_dry_run_writes_nothing(self):
        card = self.card()
        dry = self.json("trim", card, "t.card", "--tokens", ":3", "--dry-run")
        self.assertEqual(self.files(), ["made.card"])
        wet = self.json("trim", card, "t.card", "--tokens", ":3")
        self.assertEqual(dry["root"], wet["root"])
        self.assertEqual(wet["file_bytes"], (self.folder / "t.card").stat().st_size)

    def test_a_card_may_replace_itself(self):
        card = self.card()
        self.expect(0, "trim", card, card, "--tokens", ":2", "-q")
        self.assertEqual(self.json("inspect", card)["token_count"], 2)
        self.assertEqual(self.files(), ["made.card"])


if __name__ == "__main__":
    main()
