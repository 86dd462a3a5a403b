"""--codec entropy: convert, trim, diff, and what is refused."""

from cli_runner import CACHES, MODEL, CommandTest, main


class Entropy(CommandTest):
    def test_verifies_and_says_its_widths(self):
        card = self.card("llama_f32.seq", "--codec", "entropy", "--bits", "1000", "--exact-tokens", "1")
        self.expect(0, "verify", "--decode", "-q", card)
        facts = self.json("inspect", card)
        self.assertIn("entropy", [stage["codec"] for stage in facts["stages"]])
        rows = self.json("inspect", card, "--map")["map"]
        widths = {row["first_token"]: row["width_bits"] for row in rows if row["streams"].startswith("key")}
        self.assertEqual(widths[0], 32)
        self.assertEqual(widths[1], 8)

    def test_comes_back_as_a_state_of_the_same_layout(self):
        card = self.card("llama_f32.seq", "--codec", "entropy", "--bits", "1000")
        self.expect(0, "convert", card, "out.seq", "-q")
        self.assertEqual((self.folder / "out.seq").stat().st_size, (CACHES / "llama_f32.seq").stat().st_size)

    def test_refuses_what_it_cannot_do(self):
        def says(*options):
            done = self.run_command("convert", CACHES / "llama_f32.seq", "out.card", "--model", MODEL, "--codec", "entropy",
                                    *options)
            self.assertEqual(done.returncode, 2)
            self.assertFalse((self.folder / "out.card").exists())
            return done.stderr.decode()

        self.assertIn("one number", says("--bits", "4,3"))
        self.assertIn("one number", says("--bits", "0"))
        self.assertIn("one number", says("--bits", "nan"))
        self.assertIn("the least is", says("--bits", "0.1"))
        self.assertIn("--codec planes", says("--map", "none.csv"))

    def test_layers_and_newest_tokens_have_steps_of_their_own(self):
        state, model = CACHES / "gemma3_f16.seq", CACHES / "models" / "tiny_gemma3.gguf"
        costs = self.folder / "costs.csv"
        costs.write_text("0:3,100,100\n3:6,1,1\n", encoding="utf-8")

        def made(name, *flags):
            self.expect(0, "convert", state, name, "--model", model, "-q", *flags)
            return self.folder / name

        flags = ["--codec", "entropy", "--bits", "16"]
        own = made("own.card", "--codec", "raw")

        def ratio(card):
            found = self.json("diff", own, card, exit_code=9)["streams"]
            errors = {stream["layer"]: stream["relative_error"] for stream in found if stream["stream"] == "key"}
            return errors[4] / errors[0]

        self.assertAlmostEqual(ratio(made("flat.card", *flags)), 1.0, delta=0.2)
        self.assertAlmostEqual(ratio(made("shared.card", *flags, "--sensitivity", costs)), 100 ** 0.375, delta=1.5)
        newest = made("newest.card", *flags, "--newest-tokens", "8")
        rows = [row for row in self.json("inspect", newest, "--map")["map"] if row["streams"].startswith("key")]
        self.assertEqual([(row["first_token"], row["offset"]) for row in rows][-2:], [(4, 0), (52, 2)])
        costs.write_text("0:1,100,100\n", encoding="utf-8")
        self.expect(2, "convert", state, "out.card", "--model", model, *flags, "--sensitivity", costs)

    def test_trim_cuts_behind_and_not_in_front(self):
        card = self.card("llama_f32.seq", "--codec", "entropy", "--bits", "1000")
        self.expect(0, "trim", card, "short.card", "--tokens", "0:3", "-q")
        self.expect(0, "verify", "--decode", "-q", "short.card")
        self.assertIn("beginning", self.expect(6, "trim", card, "no.card", "--tokens", "2:5").stderr.decode())


if __name__ == "__main__":
    main()
