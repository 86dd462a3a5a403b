"""inspect: the golden text, the JSON that others rely on, and the parts on demand."""

import os
import pathlib

from cli_runner import CACHES, CommandTest, main

GOLDEN = pathlib.Path(__file__).parent / "golden"


class Inspect(CommandTest):
    def check_golden(self, name, text):
        """CACHECARD_BLESS=1 writes the golden anew; say in the commit why."""
        path = GOLDEN / name
        if os.environ.get("CACHECARD_BLESS"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        self.assertEqual(text, path.read_text(), f"run with CACHECARD_BLESS=1 to write {name} anew")

    def plain_card(self):
        """Without zstd, whose bytes differ by its version."""
        return self.card("llama_f16.seq", "--no-source-layout", "--chunk-tokens", "2",
                         "--source-id", "made by the tests").name

    def test_golden_text(self):
        text = self.expect(0, "inspect", self.plain_card()).stdout.decode()
        self.check_golden("inspect.txt", text)

    def test_golden_details(self):
        text = self.expect(0, "inspect", self.plain_card(), "--streams", "--map", "--tokens",
                           "--sections", "--provenance", "--source-layout").stdout.decode()
        self.check_golden("inspect_details.txt", text)

    def test_json_has_what_others_rely_on(self):
        card = self.card()
        facts = self.json("inspect", card)
        self.assertEqual(facts["format_version"], "0.2")
        self.assertEqual(facts["token_count"], 5)
        self.assertEqual(facts["value_count"], 2560)
        self.assertEqual(facts["file_bytes"], card.stat().st_size)
        self.assertAlmostEqual(facts["bits_per_value"], 8 * card.stat().st_size / 2560)
        self.assertEqual(facts["identity"]["architecture"], "llama")
        self.assertEqual(facts["streams"][0]["layers"], [0, 1])
        self.assertEqual(sum(width["value_count"] for width in facts["widths"]), 2560)

    def test_stages_add_up_to_the_file(self):
        for state in ("llama_f32.seq", "llama_f16.session", "server_llama_f16.slot"):
            with self.subTest(state=state):
                facts = self.json("inspect", self.card(state))
                stages = sum(s["stored_size"] + s["framing_size"] for s in facts["stages"])
                self.assertEqual(stages + sum(facts["rest"].values()), facts["file_bytes"])

    def test_a_pipe_says_the_same_as_the_file(self):
        card = self.card()
        data = card.read_bytes()
        for flags in ([], ["--tokens", "--map"], ["--sections", "--provenance", "--streams"]):
            with self.subTest(flags=flags):
                self.assertEqual(self.json("inspect", card, *flags),
                                 self.json("inspect", "-", *flags, stdin=data))

    def test_tokens_and_map(self):
        facts = self.json("inspect", self.card(), "--tokens", "--map")
        self.assertEqual(facts["token_ids"], [11, 48, 85, 122, 159])
        self.assertEqual(facts["positions"],
                         [{"token_count": 5, "first_position": 0, "step": 1}])
        self.assertEqual({row["width_bits"] for row in facts["map"]}, {16.0})
        unknown = self.json("inspect", self.card("llama_f16_no_tokens.seq"), "--tokens")
        self.assertIsNone(unknown["token_ids"])
        self.assertIn("tokens_unknown", unknown["flags"])

    def test_widths_of_quantised_types_are_in_bits(self):
        facts = self.json("inspect", self.card("llama_q8_0.seq", "--rotated", "yes"))
        self.assertEqual({row["width_bits"] for row in facts["widths"]}, {8.5})
        self.assertEqual(facts["streams"][0]["hadamard_size"], 64)

    def test_sections_tile_the_file(self):
        sections = self.json("inspect", self.card(), "--sections")["sections"]
        for before, after in zip(sections, sections[1:]):
            self.assertEqual(before["offset"] + 128 + -(-before["stored_size"] // 64) * 64,
                             after["offset"])
        self.assertEqual([s["section_type"] for s in sections[-2:]], ["summary", "directory"])

    def test_opaque_state_stands_beside_the_ratio(self):
        card = self.folder / "lfm2.card"
        self.expect(0, "convert", CACHES / "lfm2.seq", card, "-q", "--model",
                    CACHES / "models" / "tiny_lfm2.gguf")
        facts = self.json("inspect", card)
        self.assertGreater(facts["opaque_bytes"], 0)
        if facts["value_count"] == 0:
            self.assertIsNone(facts["bits_per_value"])

    def test_a_state_is_described(self):
        facts = self.json("inspect", CACHES / "server_llama_f16.slot")
        self.assertEqual(facts["container"], "sequence")
        self.assertEqual(facts["layout"], "11/4")
        self.assertTrue(facts["server_token_list"])
        self.assertEqual(facts["file_bytes"], (CACHES / "server_llama_f16.slot").stat().st_size)
        self.assertEqual(facts["caches"][0]["key_types"], "f16")
        text = self.expect(0, "inspect", CACHES / "gemma3_f16.seq", "--model",
                           CACHES / "models" / "tiny_gemma3.gguf").stdout.decode()
        self.assertIn("sliding-window pair", text)
        self.expect(2, "inspect", CACHES / "llama_f16.seq", "--tokens")
        piped = self.json("inspect", "-", stdin=(CACHES / "server_llama_f16.slot").read_bytes())
        self.assertEqual(piped, facts)

    def test_quiet_prints_nothing(self):
        self.assertEqual(self.expect(0, "inspect", self.card(), "-q").stdout, b"")


if __name__ == "__main__":
    main()
