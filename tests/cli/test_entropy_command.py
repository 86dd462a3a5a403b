"""--codec entropy: convert, trim, diff, and what is refused."""

from cli_runner import CACHES, MODEL, CommandTest, main


class Entropy(CommandTest):
    def test_verifies_and_says_its_widths(self):
        card = self.card("llama_f32.seq", "--codec", "entropy", "--bits", "32", "--exact-tokens", "1")
        self.expect(0, "verify", "--decode", "-q", card)
        facts = self.json("inspect", card)
        self.assertIn("entropy", [stage["codec"] for stage in facts["stages"]])
        rows = self.json("inspect", card, "--map")["map"]
        widths = {row["first_token"]: row["width_bits"] for row in rows if row["streams"].startswith("key")}
        self.assertEqual(widths[0], 32)
        self.assertEqual(widths[1], 8)

    def test_comes_back_as_a_state_of_the_same_layout(self):
        card = self.card("llama_f32.seq", "--codec", "entropy", "--bits", "32")
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

    def test_trim_cuts_behind_and_not_in_front(self):
        card = self.card("llama_f32.seq", "--codec", "entropy", "--bits", "32")
        self.expect(0, "trim", card, "short.card", "--tokens", "0:3", "-q")
        self.expect(0, "verify", "--decode", "-q", "short.card")
        self.assertIn("beginning", self.expect(6, "trim", card, "no.card", "--tokens", "2:5").stderr.decode())


if __name__ == "__main__":
    main()
