"""--codec planes: convert, trim --bits, the map file, and what is refused."""

from cli_runner import CACHES, MODEL, CommandTest, main

TOKENS = 5


class Planes(CommandTest):
    def map_file(self, text, name="map.csv"):
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path

    def widths(self, card):
        rows = self.json("inspect", card, "--map")["map"]
        return {(row["streams"].split()[0], row["first_token"]): row["width_bits"] for row in rows}

    def test_bits_and_exact_tokens(self):
        card = self.card("llama_f16.seq", "--codec", "planes", "--bits", "5,2", "--exact-tokens", "1")
        self.expect(0, "verify", "--decode", "-q", card)
        widths = self.widths(card)
        self.assertEqual(widths[("key", 1)], 5)
        self.assertEqual(widths[("value", 1)], 2)
        self.assertEqual(widths[("key", 0)], 16)
        facts = self.json("inspect", card)
        self.assertIn("planes", [stage["codec"] for stage in facts["stages"]])
        self.assertEqual(facts["bits_per_value"], 8 * facts["file_bytes"] / facts["value_count"])

    def test_a_setting_of_planes_means_planes(self):
        self.assertEqual(self.widths(self.card("llama_f16.seq", "--bits", "3,3"))[("value", 4)], 3)

    def test_comes_back_as_a_state_of_the_same_layout(self):
        card = self.card("llama_f16.seq", "--codec", "planes", "--bits", "8")
        self.expect(0, "convert", card, "out.seq", "-q")
        self.assertEqual((self.folder / "out.seq").stat().st_size, (CACHES / "llama_f16.seq").stat().st_size)
        self.expect(0, "convert", "out.seq", "again.card", "-q", "--model", MODEL)
        report = self.json("diff", card, "again.card")
        self.assertEqual(report["equal_value_chunks"], len(report["chunks"]))  # the values are those of the card, stored raw

    def test_the_map_says_the_bits_of_every_token(self):
        path = self.map_file("# sinks, then two widths\n0:1,exact,exact\n1:3, 8,6\n3:5,2,1\n")
        widths = self.widths(self.card("llama_f16.seq", "--codec", "planes", "--map", path))
        self.assertEqual([widths[("key", t)] for t in (0, 1, 3)], [16, 8, 2])
        self.assertEqual([widths[("value", t)] for t in (0, 1, 3)], [16, 6, 1])

    def test_maps_that_are_wrong_are_refused_by_line(self):
        cases = {"a hole": "0:1,4,4\n2:5,4,4\n", "an overlap": "0:3,4,4\n2:5,4,4\n", "too short": "0:4,4,4\n",
                 "too long": "0:6,4,4\n", "nine bits": "0:5,9,4\n", "no bits": "0:5,0,4\n", "no comma": "0:5 4 4\n",
                 "empty span": "0:0,4,4\n", "empty": "", "backwards": "5:0,4,4\n", "not a number": "0:5,four,4\n"}
        for name, text in cases.items():
            with self.subTest(map=name):
                done = self.run_command("convert", CACHES / "llama_f16.seq", "out.card", "--model", MODEL, "--codec",
                                        "planes", "--map", self.map_file(text))
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)
                self.assertFalse((self.folder / "out.card").exists())
        done = self.run_command("convert", CACHES / "llama_f16.seq", "out.card", "--model", MODEL, "--codec", "planes",
                                "--map", "missing.csv")
        self.assertEqual(done.returncode, 3, done.stderr)

    def test_layers_may_have_bits_of_their_own(self):
        path = self.map_file("0:1,6,5\n1:2,3,2\n", "layers.csv")
        rows = self.json("inspect", self.card("llama_f16.seq", "--layer-map", path, "--exact-tokens", "0"), "--map")["map"]
        self.assertEqual({row["streams"]: row["width_bits"] for row in rows},
                         {"key of layers 0": 6, "key of layers 1": 3, "value of layers 0": 5, "value of layers 1": 2})
        for text, more in (("0:1,4,4\n", []), ("0:2,exact,4\n", []), ("0:2,4,4\n", ["--bits", "4"])):
            done = self.run_command("convert", CACHES / "llama_f16.seq", "out.card", "--model", MODEL, "--layer-map",
                                    self.map_file(text, "wrong.csv"), *more)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertFalse((self.folder / "out.card").exists())

    def test_bits_of_tokens_come_on_top_of_those_of_layers(self):
        layers = self.map_file("0:1,6,5\n1:2,3,2\n", "layers.csv")
        tokens = self.map_file("0:1,exact,exact\n1:3,6,5\n3:5,4,3\n", "tokens.csv")
        card = self.card("llama_f16.seq", "--layer-map", layers, "--map", tokens)
        rows = self.json("inspect", card, "--map")["map"]
        found = sorted((row["streams"], row["first_token"], row["width_bits"]) for row in rows if "key" in row["streams"])
        self.assertEqual(found, [("key of layers 0", 0, 16), ("key of layers 0", 1, 8), ("key of layers 0", 3, 6),
                          ("key of layers 1", 0, 16), ("key of layers 1", 1, 5), ("key of layers 1", 3, 3)])
        for text in ("0:5,7,4\n", "0:5,4,1\n"):  # 9 bits in layer 0, none in layer 1
            done = self.expect(2, "convert", CACHES / "llama_f16.seq", "out.card", "--model", MODEL, "--layer-map", layers,
                               "--map", self.map_file(text, "wrong.csv"))
            self.assertIn(b"allowed 1 to 8", done.stderr)

    def test_layers_share_bits_by_what_their_errors_cost(self):
        path = self.map_file("# two layers\n0:1,64,16\n1:2,4,1\n", "costs.csv")
        card = self.card("llama_f16.seq", "--sensitivity", path, "--bits", "5,4", "--exact-tokens", "0")
        self.assertEqual(self.widths_by_stream(card), {"key of layers 0": 6, "key of layers 1": 4,
                                                       "value of layers 0": 5, "value of layers 1": 3})
        for text in ("0:2,1,-1\n", "0:2,1,nan\n", "0:2,1,inf\n", "0:1,1,1\n", "0:3,1,1\n", "0:2,x,1\n"):
            with self.subTest(costs=text):
                self.expect(2, "convert", CACHES / "llama_f16.seq", "out.card", "--model", MODEL, "--sensitivity",
                            self.map_file(text, "wrong.csv"))
        for flags in (["--layer-map", path], ["--map", path], ["--codec", "raw"]):
            self.expect(2, "convert", CACHES / "llama_f16.seq", "out.card", "--model", MODEL, "--sensitivity", path, *flags)
        self.expect(3, "convert", CACHES / "llama_f16.seq", "out.card", "--model", MODEL, "--sensitivity", "missing.csv")
        self.assertFalse((self.folder / "out.card").exists())

    def test_newest_tokens_get_a_bit_more(self):
        card = self.card("llama_f16.seq", "--bits", "4,3", "--exact-tokens", "1", "--newest-tokens", "2")
        widths = self.widths(card)
        self.assertEqual([widths.get(("key", t)) for t in (0, 1, 3)], [16, 4, 5])
        self.assertEqual([widths.get(("value", t)) for t in (0, 1, 3)], [16, 3, 4])
        full = self.widths(self.card("llama_f16.seq", "--bits", "8,3", "--newest-tokens", "2", name="full.card"))
        self.assertNotIn(("key", 3), {k for k, width in full.items() if width > 8 and k[1] == 3})
        path = self.map_file("0:1,64,16\n1:2,4,1\n", "costs.csv")
        shared = self.card("llama_f16.seq", "--bits", "5,4", "--exact-tokens", "0", "--sensitivity", path,
                           "--newest-tokens", "5", name="shared.card")  # all tokens are: what they get more, layers get less
        self.assertEqual(sum(self.widths_by_stream(shared).values()), 18)

    def widths_by_stream(self, card):
        return {row["streams"]: row["width_bits"] for row in self.json("inspect", card, "--map")["map"]}

    def test_flags_that_do_not_go_together_are_refused(self):
        path = self.map_file(f"0:{TOKENS},4,4\n")
        for flags in (["--codec", "raw", "--bits", "4"], ["--bits", "0,3"], ["--bits", "4,9"], ["--bits", "4,3,2"],
                      ["--bits", "x"], ["--map", path, "--bits", "4"], ["--map", path, "--exact-tokens", "2"],
                      ["--map", path, "--newest-tokens", "2"],
                      ["--newest-tokens", "-3"], ["--exact-tokens", "-3"],
                      ["--codec", "ggml", "--keep-nonfinite"], ["--codec", "nonsense"]):
            with self.subTest(flags=flags):
                done = self.run_command("convert", CACHES / "llama_f16.seq", "out.card", "--model", MODEL, *flags)
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertFalse((self.folder / "out.card").exists())
        done = self.run_command("convert", CACHES / "llama_q4_0.seq", "out.card", "--model", MODEL, "--rotated", "yes",
                                "--codec", "planes")
        self.assertEqual(done.returncode, 2)
        self.assertIn(b"q4_0", done.stderr)

    def test_trim_drops_planes(self):
        card = self.card("llama_f16.seq", "--codec", "planes", "--bits", "6", "--exact-tokens", "0")
        report = self.json("trim", card, "t.card", "--bits", "3,1")
        self.assertEqual(report["copied_chunks"], 0)
        self.assertGreater(report["lowered_chunks"], 0)
        self.assertLess(report["file_bytes"], report["input_bytes"])
        self.expect(0, "verify", "--decode", "-q", "t.card")
        self.assertEqual(self.widths("t.card"), {("key", 0): 3, ("value", 0): 1})
        again = self.json("trim", "t.card", "u.card", "--bits", "5")
        self.assertEqual(again["lowered_chunks"], 0)
        self.assertEqual(self.json("diff", "t.card", "u.card")["different_chunks"], 0)
        for bits in ("0", "9", "4,", "many"):
            self.assertEqual(self.run_command("trim", card, "v.card", "--bits", bits).returncode, 2, bits)

    def test_trim_bits_of_an_exact_card_changes_no_value(self):
        card = self.card()
        report = self.json("trim", card, "t.card", "--bits", "2")
        self.assertEqual(report["lowered_chunks"], 0)
        self.assertEqual(self.json("diff", card, "t.card")["different_chunks"], 0)


if __name__ == "__main__":
    main()
