"""--codec entropy: convert, trim, diff, and what is refused."""
import struct

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
        self.assertLess(widths[1], 32)

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
        self.assertIn("needs --profile", says("--queries", "newest"))
        self.assertIn("leave --queries out", says("--queries", "recency", "--weights", "none.npy"))
        self.assertIn("give one of them", says("--profile", "none", "--sensitivity", "none.csv"))

    def test_weights_say_how_finely_tokens_are_kept(self):
        state, model = CACHES / "gemma3_f16.seq", CACHES / "models" / "tiny_gemma3.gguf"
        facts = self.json("convert", state, "made.card", "--model", model, "--codec", "raw")
        count = facts["token_count"]

        def npy(name, text, values, kind="f"):
            header = text.encode() + b" " * (117 - len(text)) + b"\n"
            (self.folder / name).write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
                                             + struct.pack(f"<{len(values)}{kind}", *values))

        def shape(*sizes):
            return str({"descr": "<f4", "fortran_order": False, "shape": sizes})

        flags = ["--model", model, "-q", "--codec", "entropy", "--bits", "16"]
        npy("w.npy", shape(count), [100.0 if token == 20 else 1.0 for token in range(count)])
        self.expect(0, "convert", state, "w.card", *flags, "--weights", "w.npy")
        rows = self.json("inspect", "w.card", "--map")["map"]
        self.assertEqual({row["offset"] for row in rows if row["first_token"] == 20}, {6})
        npy("long.npy", shape(count + 1), [1.0] * (count + 1))
        npy("rows.npy", shape(3, count), [1.0] * 3 * count)
        npy("low.npy", shape(count), [-1.0] * count)
        npy("nan.npy", shape(count), [float("nan")] * count)
        npy("cut.npy", shape(count), [1.0] * (count - 1))
        npy("wide.npy", shape(2**32, 2**32), [])
        npy("double.npy", shape(count).replace("f4", "i4"), [1.0] * count)
        (self.folder / "empty.npy").write_bytes(b"")
        of_half_bits = shape(count).replace("<f4", "|i1")
        npy("half.npy", of_half_bits, [9] * count, "b")
        npy("own.npy", of_half_bits, [-7 if token < 30 else 8 for token in range(count)], "b")
        self.expect(0, "convert", state, "own.card", *flags, "--weights", "own.npy")
        rows = self.json("inspect", "own.card", "--map")["map"]
        self.assertEqual([row["offset"] for row in rows if row["streams"].startswith("key")][-2:], [-7, 8])
        for name, said in (("long", "the cache has"), ("rows", "found 3 rows"), ("low", "found -1"), ("nan", "found nan"),
                           ("cut", "its header says"), ("wide", "found"), ("double", "f32, f64 and i8"), ("empty", "no .npy"), ("half", "found 9")):
            stderr = self.expect(2, "convert", state, "no.card", *flags, "--weights", f"{name}.npy").stderr.decode()
            self.assertIn(f"--weights {name}.npy: ", stderr)
            self.assertIn(said, stderr)
        self.assertIn("--weights none.npy: ", self.expect(3, "convert", state, "no.card", *flags, "--weights", "none.npy").stderr.decode())
        planes = ["--model", model, "--codec", "planes", "--weights", "w.npy"]
        self.assertIn("--codec entropy", self.expect(2, "convert", state, "no.card", *planes).stderr.decode())
        self.assertFalse((self.folder / "no.card").exists())

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

    def test_parts_can_be_left_out(self):
        def sections(name, *flags):
            state, model = CACHES / "gemma3_f16.seq", CACHES / "models" / "tiny_gemma3.gguf"
            self.expect(0, "convert", state, name, "--model", model, "-q", "--codec", "entropy", "--bits", "16", *flags)
            self.expect(0, "verify", "--decode", "-q", name)
            rows = self.json("inspect", name, "--sections")["sections"]
            return {row["section_type"]: row["stored_size"] for row in rows}

        whole = sections("whole.card")
        self.assertNotIn("references", sections("alone.card", "--without", "references"))
        lanes = sections("bare.card", "--without", "means,scales,references")
        self.assertLess(lanes["lanes"], whole["lanes"])
        self.assertNotIn("references", lanes)
        refused = self.run_command("convert", CACHES / "llama_f32.seq", "no.card", "--model", MODEL, "--codec", "entropy", "--without", "meanness")
        self.assertEqual(refused.returncode, 2)
        refused = self.run_command("convert", CACHES / "llama_f32.seq", "no.card", "--model", MODEL, "--codec", "planes", "--without", "means")
        self.assertEqual(refused.returncode, 2)
        self.assertFalse((self.folder / "no.card").exists())

    def test_trim_takes_bits_and_bytes_as_sizes(self):
        card = self.card("llama_f32.seq", "--codec", "entropy", "--bits", "1000", "--exact-tokens", "0")
        wrong = [("--bits", "2,3"), ("--bits", "0.01"), ("--bytes", "3Q"), ("--bytes", "0"), ("--bytes", "1k"),
                 ("--bits", "2", "--bytes", "1M"), ("--bits", "2", "--tokens", "0:2")]
        for flags in wrong:
            self.expect(2, "trim", card, "no.card", *flags)
        facts = self.json("trim", card, "same.card", "--bytes", "0.5MiB")
        self.assertEqual(facts["coded_chunks"], 4)
        self.expect(0, "verify", "--decode", "-q", "same.card")
        planes = self.card("llama_f32.seq", "--codec", "planes")
        self.assertIn("planes", self.expect(2, "trim", planes, "no.card", "--bytes", "1M").stderr.decode())

    def test_trim_cuts_behind_and_not_in_front(self):
        card = self.card("llama_f32.seq", "--codec", "entropy", "--bits", "1000", "--exact-tokens", "0")
        self.expect(0, "trim", card, "short.card", "--tokens", "0:3", "-q")
        self.expect(0, "verify", "--decode", "-q", "short.card")
        self.assertIn("beginning", self.expect(6, "trim", card, "no.card", "--tokens", "2:5").stderr.decode())


if __name__ == "__main__":
    main()
