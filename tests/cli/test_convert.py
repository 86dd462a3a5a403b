"""convert: state to card and back, byte for byte, and what it refuses."""

import json

from cli_runner import CACHES, MODEL, CommandTest, main

FACTS = json.loads((CACHES / "caches.json").read_text())["files"]


def is_quantised(entry):
    return any(name and "q" in name for name in (entry["type_k"], entry["type_v"]))


def flags_of(entry):
    """What the file does not say about itself."""
    flags = ["--model", CACHES / "models" / entry["model"]]
    if entry["container"] in ("sequence_memory", "whole_context"):
        flags += ["--layout", entry["layout"]]
    if entry["layout"] == "10/3" and is_quantised(entry):
        flags += ["--rotated", "yes" if entry["rotated"] else "no"]
    return flags


class Convert(CommandTest):
    def test_every_convertible_state_comes_back_byte_for_byte(self):
        for entry in FACTS:
            if entry["convertible"] == "refused":
                continue
            with self.subTest(file=entry["file"]):
                state = CACHES / entry["file"]
                self.expect(0, "convert", state, "a.card", "-q", *flags_of(entry))
                self.expect(0, "verify", "--decode", "-q", "a.card")
                self.expect(0, "convert", "a.card", "back", "-q")
                self.assertEqual((self.folder / "back").read_bytes(), state.read_bytes())

    def test_refused_states_leave_nothing(self):
        for entry in FACTS:
            if entry["convertible"] != "refused":
                continue
            with self.subTest(file=entry["file"]):
                done = self.run_command("convert", CACHES / entry["file"], "a.card",
                                        *flags_of(entry))
                self.assertIn(done.returncode, (4, 5))
                self.assertEqual(self.files(), [])

    def test_like_takes_a_states_layout_types_and_rotation(self):
        """Layer 0 of what a float cache becomes is what llama.cpp wrote itself; its own state comes back whole."""
        self.expect(0, "convert", CACHES / "llama_f32.seq", "a.card", "-q", "--model", MODEL)
        for name, flags in (("llama_f16.mem", []), ("server_llama_f16_4_slots.slot", []), ("llama_q8_0.seq", ["--rotated", "yes"]),
                            ("llama_q4_0.seq", ["--rotated", "yes"]), ("llama_q8_0_unrotated.seq", ["--rotated", "no"])):
            with self.subTest(like=name):
                report = self.json("convert", "a.card", "out", "--like", CACHES / name, *flags)
                self.assertGreater(report["max_conversion_loss"], 0)
                self.assertIn("was converted to", report["notes"][0])
        like = (CACHES / "llama_q8_0_unrotated.seq").read_bytes()
        made = (self.folder / "out").read_bytes()
        self.assertEqual(len(made), len(like))
        at = len(like) - 4 * (12 + 5 * 136) + 12  # layer 0's keys: two layers of K, then of V
        self.assertEqual(made[at:at + 5 * 136], like[at:at + 5 * 136])
        self.expect(0, "convert", "a.card", "out", "-q", "--like", CACHES / "llama_f32.seq")
        self.assertEqual((self.folder / "out").read_bytes(), (CACHES / "llama_f32.seq").read_bytes())

    def test_like_refuses_what_shows_nothing(self):
        self.expect(0, "convert", CACHES / "llama_f32.seq", "a.card", "-q", "--model", MODEL)
        for code, flags in ((2, ["--like", CACHES / "llama_q8_0.seq"]), (6, ["--like", CACHES / "server_llama_empty.slot"]),
                            (3, ["--like", "no_such"]), (2, ["--like", CACHES / "llama_f32.seq", "--layout", "10/3"])):
            with self.subTest(flags=flags):
                done = self.expect(code, "convert", "a.card", "out", *flags)
                self.assertIn("--like", done.stderr.decode())
                self.assertFalse((self.folder / "out").exists())

    def test_report_as_json(self):
        report = self.json("convert", CACHES / "llama_f16.seq", "a.card", "--model", MODEL)
        self.assertEqual(report["token_count"], 5)
        self.assertEqual(report["layer_count"], 2)
        self.assertEqual(report["input_bytes"], 5276)
        self.assertEqual(report["file_bytes"], (self.folder / "a.card").stat().st_size)
        self.assertEqual(report["value_count"], 2 * 2 * 5 * 128)
        self.assertAlmostEqual(report["bits_per_value"], 8 * report["file_bytes"] / 2560)
        stages = sum(stage["stored_size"] + stage["framing_size"] for stage in report["stages"])
        self.assertEqual(stages + sum(report["rest"].values()), report["file_bytes"])

    def test_dry_run_tells_the_size_and_writes_nothing(self):
        dry = self.json("convert", CACHES / "llama_f16.seq", "a.card", "--model", MODEL, "--dry-run")
        self.assertEqual(self.files(), [])
        wet = self.json("convert", CACHES / "llama_f16.seq", "a.card", "--model", MODEL)
        self.assertTrue(dry.pop("dry_run"))
        self.assertFalse(wet.pop("dry_run"))
        self.assertEqual(dry, wet)
        back = self.json("convert", "a.card", "b.seq", "--dry-run")
        self.assertEqual(back["file_bytes"], 5276)
        self.assertEqual(self.files(), ["a.card"])

    def test_same_input_and_options_give_the_same_bytes(self):
        bytes_of = []
        for threads in (1, 2, 5):
            card = self.card("llama_f16.seq", "--zstd=5", "--chunk-tokens", "2", "--threads", threads)
            bytes_of.append(card.read_bytes())
        self.assertEqual(len(set(bytes_of)), 1)

    def test_time_is_recorded_only_when_asked_for(self):
        def time_of(*flags, environment=None):
            self.expect(0, "convert", CACHES / "llama_f16.seq", "a.card", "--model", MODEL, *flags,
                        environment=environment)
            return self.json("inspect", "a.card", "--provenance")["provenance"][0]["time"]

        self.assertIsNone(time_of())
        self.assertEqual(time_of("--time", "86400"), "1970-01-02T00:00:00Z")
        self.assertEqual(time_of(environment={"SOURCE_DATE_EPOCH": "172800"}),
                         "1970-01-03T00:00:00Z")
        self.expect(2, "convert", CACHES / "llama_f16.seq", "a.card", "--model", MODEL,
                    "--time", "yesterday")

    def test_compression_is_undone(self):
        plain = self.card("llama_f32.seq", name="plain.card")
        for flags in (["--zstd"], ["--zstd=19"], ["--split"], ["--split", "--zstd=9"]):
            with self.subTest(flags=flags):
                packed = self.card("llama_f32.seq", *flags, name="packed.card")
                self.expect(0, "convert", packed, "back", "-q")
                self.assertEqual((self.folder / "back").read_bytes(),
                                 (CACHES / "llama_f32.seq").read_bytes())
                self.assertEqual(self.json("diff", plain, packed)["different_chunks"], 0)

    def test_split_is_refused_for_block_types(self):
        done = self.expect(2, "convert", CACHES / "llama_q4_0.seq", "a.card", "--model", MODEL,
                           "--rotated", "yes", "--split")
        self.assertIn("use --zstd", done.stderr.decode())

    def test_chunks_follow_the_flags(self):
        self.card("llama_f16.seq", "--chunk-tokens", "2", "--span-major")
        facts = self.json("inspect", "made.card", "--sections")
        self.assertEqual(facts["segments"][0]["chunk_order"], "span_major")
        chunks = [frame for frame in facts["sections"] if frame["section_type"] == "chunk"]
        # 5 tokens in chunks of 2: a remainder under half joins its neighbour.
        self.assertEqual([chunk["token_count"] for chunk in chunks], [2] * 4 + [3] * 4
                         if len(chunks) == 8 else [2] * 4 + [2] * 4 + [1] * 4)

    def test_without_source_layout_the_layout_must_be_said(self):
        self.card("llama_f16.seq", "--no-source-layout")
        self.assertIn("--layout", self.expect(2, "convert", "made.card", "out").stderr.decode())
        self.assertIn("--container",
                      self.expect(2, "convert", "made.card", "out", "--layout", "10/3").stderr.decode())
        self.expect(0, "convert", "made.card", "out", "-q", "--layout", "10/3", "--container",
                    "sequence")
        self.assertEqual((self.folder / "out").read_bytes(), (CACHES / "llama_f16.seq").read_bytes())

    def test_layouts_of_choice_read_back_as_the_same_values(self):
        card = self.card("llama_f16.seq")
        for flags in (["--layout", "11/4"], ["--v-trans", "yes"], ["--container", "session"],
                      ["--layout", "11/4", "--server-tokens"]):
            with self.subTest(flags=flags):
                self.expect(0, "convert", card, "out", "-q", *flags)
                again = self.folder / "again.card"
                self.expect(0, "convert", "out", again, "-q", "--model", MODEL)
                report = self.json("diff", card, again)
                self.assertEqual(report["different_chunks"], 0)
                self.assertEqual(report["structure"], [])

    def test_geometry_flags_stand_in_for_the_model(self):
        flags = ["--layers", "2", "--kv-heads", "2", "--head-dim", "64", "--rope", "norm"]
        self.expect(0, "convert", CACHES / "llama_f16.seq", "a.card", "-q", *flags)
        self.assertEqual(self.json("diff", "a.card", self.card(), exit_code=9)["structure"], [])
        self.expect(2, "convert", CACHES / "llama_f16.seq", "a.card", "--model", MODEL, *flags)

    def test_nonfinite_values_are_counted(self):
        state = bytearray((CACHES / "llama_f16.seq").read_bytes())
        state[-2:] = b"\x00\x7e"  # the last value of the last V row: NaN
        (self.folder / "nan.seq").write_bytes(state)
        done = self.expect(0, "convert", "nan.seq", "a.card", "--model", MODEL)
        self.assertIn("1 of 2,560 values are NaN or infinite", done.stderr.decode())
        self.expect(0, "convert", "a.card", "back", "-q")
        self.assertEqual((self.folder / "back").read_bytes(), state)


if __name__ == "__main__":
    main()
