"""extend: the next hop's card, from real states and from long ones that are built here."""

import struct

from cli_runner import CACHES, MODEL, CommandTest, main
from state_builder import token_id, write_state

CODECS = {"raw": (), "zstd": ("--zstd", "--split"), "planes": ("--codec", "planes"),
          "entropy": ("--codec", "entropy", "--bits", "4")}


class Extend(CommandTest):
    def state(self, tokens, name=None, **options):
        return write_state(self.folder / (name or f"{tokens}.seq"), tokens, **options)

    def base(self, tokens, *options):
        return self.card(self.state(tokens), "--chunk-tokens", "64", *options, name="base.card")

    def extend(self, base, state, *options, exit_code=0, output="new.card"):
        return self.json("extend", base, state, "-o", output, "--model", MODEL, *options, exit_code=exit_code)

    def refused(self, exit_code, *arguments):
        """The error of a refusal, which leaves nothing behind."""
        before = self.files()
        error = self.json(*arguments, exit_code=exit_code)["error"]
        self.assertEqual(self.files(), before)
        return error

    def test_a_hop_keeps_values_and_gives_the_state_back(self):
        for codec, flags in CODECS.items():
            with self.subTest(codec=codec):
                base, state = self.base(200, *flags), self.state(260)
                report = self.extend(base, state, "--check")
                self.assertEqual((report["kept_tokens"], report["encoded_tokens"]), (200, 60))
                self.assertIsNone(report["parting"])
                self.assertEqual(report["shared_lanes"], codec == "entropy")
                self.expect(0, "verify", "--decode", "-q", "new.card")
                compared = self.json("diff", base, "new.card", exit_code=9)
                self.assertEqual(compared["different_chunks"], 0)
                facts = self.json("inspect", "new.card", "--tokens", "--provenance")
                self.assertEqual(facts["token_ids"], [token_id(i) for i in range(260)])
                step = facts["provenance"][-1]
                self.assertEqual((step["operation"], step["hop"]), ("extend", 1))
                self.assertEqual(step["parent_root"], self.json("inspect", base)["root"])
                self.assertEqual(report["root"], facts["root"])
                # The state's own file comes back, exact codecs byte for byte.
                self.expect(0, "convert", "new.card", "back.seq", "-q")
                back = (self.folder / "back.seq").read_bytes()
                self.assertEqual(len(back), state.stat().st_size)
                if codec in ("raw", "zstd"):
                    self.assertEqual(back, state.read_bytes())

    def test_an_edit_of_several_hops_still_works(self):
        for codec, flags in CODECS.items():
            with self.subTest(codec=codec):
                self.extend(self.base(150, *flags), self.state(200))
                self.extend("new.card", self.state(230), output="three.card")
                self.expect(0, "verify", "--decode", "-q", "three.card")
                facts = self.json("inspect", "three.card")
                self.assertEqual([s["token_count"] for s in facts["segments"]], [150, 50, 30])
                self.assertEqual(self.json("diff", "new.card", "three.card", exit_code=9)["different_chunks"], 0)
                self.expect(0, "inspect", "--streams", "--map", "--sections", "-q", "three.card")
                self.expect(0, "trim", "three.card", "cut.card", "--tokens", ":170", "-q")
                self.expect(0, "verify", "--decode", "-q", "cut.card")
                self.assertEqual(self.json("diff", "cut.card", "three.card", exit_code=9)["different_chunks"], 0)

    def test_real_states_continue_each_other(self):
        state = CACHES / "server_llama_f16.slot"
        base = self.card("server_llama_f16_1_token.slot", name="one.card")
        report = self.extend(base, state)
        self.assertEqual((report["kept_tokens"], report["encoded_tokens"]), (1, 15))
        self.expect(0, "convert", "new.card", "back", "-q")
        self.assertEqual((self.folder / "back").read_bytes(), state.read_bytes())

    def test_the_codec_is_that_of_the_base_unless_asked_for(self):
        base = self.base(200, *CODECS["planes"])
        stages = lambda card: {s["codec"] for s in self.json("inspect", card)["stages"] if s["section_type"] == "chunk"}
        self.extend(base, self.state(230))
        self.assertEqual(stages("new.card"), {"planes"})
        report = self.extend(base, self.state(230), "--codec", "entropy", "--bits", "6")
        self.assertFalse(report["shared_lanes"])
        self.assertEqual(stages("new.card"), {"planes", "entropy"})
        self.extend(base, self.state(230), "--codec", "raw")
        self.assertEqual(stages("new.card"), {"planes", "raw"})
        self.expect(0, "verify", "--decode", "-q", "new.card")
        self.expect(2, "extend", base, self.state(230), "-o", "x.card", "--model", MODEL, "--codec", "ggml")

    def test_where_they_part_is_said_and_whole_chunks_before_are_kept(self):
        base = self.base(200, *CODECS["entropy"])
        ids = [token_id(i) for i in range(210)]
        ids[150] = 99
        other = self.state(210, name="other.seq", ids=ids)
        done = self.expect(0, "extend", base, other, "-o", "new.card", "--model", MODEL)
        self.assertIn(f"note: STATE leaves BASE at token 150: BASE has id {token_id(150)}, STATE id 99; 128 tokens are kept",
                      done.stderr.decode())
        report = self.extend(base, other)
        self.assertEqual(report["parting"], {"token": 150, "base_id": token_id(150), "state_id": 99,
                                             "base_position": 150, "state_position": 150})
        self.assertEqual((report["kept_tokens"], report["encoded_tokens"]), (128, 82))
        self.expect(0, "verify", "--decode", "-q", "new.card")
        self.expect(0, "trim", base, "start.card", "--tokens", ":128", "-q")
        self.assertEqual(self.json("diff", "start.card", "new.card", exit_code=9)["different_chunks"], 0)
        self.expect(0, "convert", "new.card", "back.seq", "-q")

    def test_nothing_new_is_a_hop_all_the_same(self):
        base = self.base(100, *CODECS["entropy"])
        done = self.expect(0, "extend", base, self.state(100), "-o", "new.card", "--model", MODEL)
        self.assertIn("note: STATE has no token beyond BASE's", done.stderr.decode())
        facts = self.json("inspect", "new.card", "--provenance")
        self.assertEqual(len(facts["segments"]), 1)
        self.assertEqual(facts["provenance"][-1]["hop"], 1)
        self.assertEqual(self.json("diff", base, "new.card")["different_chunks"], 0)

    def test_what_is_no_continuation_is_refused(self):
        base = self.base(100)
        shorter = self.refused(6, "extend", base, self.state(60), "-o", "x.card", "--model", MODEL)
        self.assertIn("trim --tokens :60", shorter["message"])
        self.assertTrue(shorter["what"].endswith("60.seq"))
        other = self.state(110, name="other.seq", ids=[5 + token_id(i) for i in range(110)])
        start = self.refused(6, "extend", base, other, "-o", "x.card", "--model", MODEL)
        self.assertEqual(start["code"], "position_mismatch")
        self.assertIn("BASE has id 0 at position 0, STATE id 5 at position 0", start["message"])
        hd32 = CACHES / "models" / "tiny_llama_hd32.gguf"
        model = self.refused(6, "extend", base, CACHES / "llama_hd32_f16.seq", "-o", "x.card", "--model", hd32)
        self.assertIn(model["code"], ("geometry_mismatch", "model_mismatch"))
        dtype = self.refused(6, "extend", base, CACHES / "llama_bf16.seq", "-o", "x.card", "--model", MODEL)
        self.assertIn("BASE has f16, STATE bf16", dtype["message"])
        nothing = self.refused(6, "extend", base, CACHES / "llama_f16_no_tokens.seq", "-o", "x.card", "--model", MODEL)
        self.assertEqual(nothing["code"], "tokens_unknown")
        state = self.state(110)
        self.refused(2, "extend", base, state, "-o", "x.card")  # no model: heads and identity are not known
        self.refused(6, "extend", base, state, "-o", "x.card", "--model", MODEL, "--adapters", "none")
        self.refused(2, "extend", base, state, "-o", "x.card", "--model", MODEL, "--allow", "everything")
        self.refused(2, "extend", base, base, "-o", "x.card", "--model", MODEL)  # a card is no state
        self.refused(4, "extend", state, state, "-o", "x.card", "--model", MODEL)  # a state is no card
        self.refused(2, "extend", "-", "-", "-o", "x.card", "--model", MODEL)
        self.refused(3, "extend", base, "absent.seq", "-o", "x.card", "--model", MODEL)

    def test_check_names_the_first_row_that_is_off(self):
        for codec, flags in CODECS.items():
            with self.subTest(codec=codec):
                base = self.base(120, *flags)
                other = self.state(140, name="other.seq", changed={(1, "key", 70), (1, "value", 20)})
                self.extend(base, other)
                error = self.json("extend", base, other, "-o", "x.card", "--model", MODEL, "--check", exit_code=6)["error"]
                self.assertEqual((error["code"], error["field"]), ("model_mismatch", "values"))
                self.assertIn("layer 1 key, token 70: STATE is ", error["message"])

    def test_a_damaged_base_is_blamed_and_nothing_is_written(self):
        base = self.base(100)
        content = bytearray(base.read_bytes())
        content[len(content) // 2] ^= 1
        base.write_bytes(content)
        error = self.refused(5, "extend", base, self.state(110), "-o", "x.card", "--model", MODEL)
        self.assertTrue(error["what"].endswith("base.card"))

    def test_windows_and_recurrent_state(self):
        gemma, mamba = (CACHES / "models" / f"tiny_{name}.gguf" for name in ("gemma3", "mamba"))
        for state, model in (("gemma3_f16.seq", gemma), ("mamba.seq", mamba)):
            base = self.folder / "base.card"
            self.expect(0, "convert", CACHES / state, base, "--model", model, "-q")
            self.json("extend", base, CACHES / state, "-o", "new.card", "--model", model)
            self.expect(0, "verify", "--decode", "-q", "new.card")
            self.expect(0, "convert", "new.card", "back", "-q")
            self.assertEqual((self.folder / "back").read_bytes(), (CACHES / state).read_bytes())

    def test_a_window_moves_on(self):
        """BASE's window holds tokens 42 to 57 in chunks of 4, STATE's 44 to 59: whole chunks stay, and STATE's file comes back."""
        gemma = CACHES / "models" / "tiny_gemma3.gguf"
        base, state = self.folder / "base.card", self.folder / "state.seq"
        self.expect(0, "convert", CACHES / "server_gemma3_f16.slot", base, "--model", gemma, "--chunk-tokens", "4", "-q")
        ids = self.json("inspect", base, "--tokens")["token_ids"] + [7, 8]
        content = bytearray((CACHES / "gemma3_f16.seq").read_bytes())
        content[12:12 + 240] = struct.pack("<60i", *ids)
        state.write_bytes(content)
        report = self.json("extend", base, state, "-o", "new.card", "--model", gemma)
        self.assertEqual((report["kept_tokens"], report["encoded_tokens"]), (58, 2))
        self.expect(0, "verify", "--decode", "-q", "new.card")
        facts = self.json("inspect", "new.card")
        window = next(s for s in facts["streams"] if s["window"] == 16)
        self.assertEqual((window["first_token"], window["token_count"]), (42, 18))
        self.assertEqual(facts["restorable_from"], 57)
        self.expect(0, "convert", "new.card", "back.seq", "-q")
        self.expect(0, "convert", "back.seq", "again.card", "--model", gemma, "-q")
        back = self.json("inspect", "again.card", "--tokens")
        self.assertEqual(back["token_ids"], ids)
        self.assertEqual((self.folder / "back.seq").stat().st_size, len(content))
        self.assertEqual((self.folder / "back.seq").read_bytes()[:252], bytes(content[:252]))

    def test_new_may_be_base_and_streams_may_be_pipes(self):
        base, state = self.base(100), self.state(120)
        self.extend(base, state)
        new = (self.folder / "new.card").read_bytes()
        piped = self.expect(0, "extend", "-", state, "-o", "-", "--model", MODEL, "-q", stdin=base.read_bytes())
        self.assertEqual(piped.stdout, new)
        dry = self.extend(base, state, "--dry-run", output="dry.card")
        self.assertFalse((self.folder / "dry.card").exists())
        self.assertEqual(dry["file_bytes"], len(new))
        self.extend(base, state, output=base)
        self.assertEqual(base.read_bytes(), new)


if __name__ == "__main__":
    main()
