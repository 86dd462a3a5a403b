"""Walks the exit-code table (`cachecard codecs --errors`) through real commands."""

import json
import signal
import subprocess

import card_patch
from cli_runner import CACHES, CLI, ENVIRONMENT, MODEL, CommandTest, main, wait_for_handler

NOT_HERE = {
    "ok", "internal", "buffer_too_small", "out_of_memory", "differences",
    # Of a server or a live cache: tests/runtime.
    "model_mismatch", "position_mismatch", "identity_unknown", "target_busy", "target_too_small",
    # Of codecs of later issues.
    "non_finite",
}


class ExitCodes(CommandTest):
    """Each witness makes one error happen and returns its JSON object."""

    def patched(self, data, name="bad.card"):
        path = self.folder / name
        path.write_bytes(data)
        return path

    def error_of(self, *arguments, **options):
        done = self.run_command(*arguments, "--json", **options)
        return done.returncode, json.loads(done.stdout)["error"]

    def witnesses(self):
        card = self.card()
        data = card.read_bytes()
        frames = self.json("inspect", card, "--sections")["sections"]
        first = {frame["section_type"]: frame["offset"] for frame in reversed(frames)}
        chunk = first["chunk"]
        map_encoding = 24  # in the bit_width_map record
        verify = lambda bad: self.error_of("verify", self.patched(bad))
        partial = self.folder / "partial.card"
        self.expect(0, "trim", card, partial, "--layers", "0:1", "-q")
        unknown = self.card("llama_f16_no_tokens.seq", name="unknown.card")
        prologue, frame = card_patch.patch_prologue, card_patch.patch_frame
        to_state = ("--layout", "11/4", "--container", "sequence")
        return {
            "bad_magic": lambda: verify(b"\x89PNG" + data[4:]),
            "unsupported_version": lambda: verify(prologue(data, "format_major", 9)),
            "unsupported_feature": lambda: verify(prologue(data, "required_features", 1 << 40)),
            "unsupported_codec": lambda: verify(frame(data, chunk, "codec", 4)),
            "foreign_input": lambda: self.error_of(
                "convert", CACHES / "llama_empty.seq", "out", "--model", MODEL),
            "truncated": lambda: verify(data[:len(data) // 2]),
            "corrupt": lambda: verify(data + b"more"),
            "checksum_mismatch": lambda: verify(
                data[:chunk + 130] + bytes([data[chunk + 130] ^ 1]) + data[chunk + 131:]),
            "reserved_not_zero": lambda: verify(frame(data, chunk, "reserved", 1)),
            "bad_offset": lambda: verify(data[:chunk] + data[chunk - 192:]),
            "bad_size": lambda: verify(prologue(data, "header_size", 8)),
            "bad_enum": lambda: verify(card_patch.patch_small_payload(
                data, first["bit_width_map"], map_encoding, 9)),
            "limit_exceeded": lambda: verify(prologue(data, "header_size", 1 << 30)),
            "invalid_argument": lambda: self.error_of("trim", card, "out", "--tokens", "0:900"),
            "geometry_mismatch": lambda: self.error_of(
                "convert", self.card("llama_q8_0.seq", "--rotated", "yes", name="q8.card"), "out",
                *to_state, "--v-trans", "yes"),
            "tokens_unknown": lambda: self.error_of("convert", unknown, "out", *to_state),
            "not_restorable": lambda: self.error_of(
                "trim", self.window_card(), "out", "--tokens", ":2"),
            "partial_card": lambda: self.error_of("convert", partial, "out", *to_state),
            "io": lambda: self.error_of("inspect", "no_such.card"),
            "target_unavailable": lambda: self.error_of(
                "inject", card, "--server", "http://127.0.0.1:1", "--slot-dir", self.folder,
                "--model", MODEL),
            "interrupted": self.interrupted_error,
        }

    def window_card(self):
        path = self.folder / "window.card"
        self.expect(0, "convert", CACHES / "gemma3_f16.seq", path, "-q", "--model",
                    CACHES / "models" / "tiny_gemma3.gguf")
        return path

    def interrupted_error(self):
        with subprocess.Popen([CLI, "verify", "-", "--json"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
            wait_for_handler(process.pid)
            process.send_signal(signal.SIGTERM)
            output = process.stdout.read()
            process.wait()
        return process.returncode, json.loads(output)["error"]

    def test_every_error_of_the_table_ends_with_its_exit_code(self):
        table = {row["name"]: row["exit_code"]
                 for row in self.json("codecs", "--errors")["errors"]}
        witnesses = self.witnesses()
        self.assertEqual(set(table) - NOT_HERE, set(witnesses))
        for name, witness in witnesses.items():
            with self.subTest(error=name):
                exit_code, error = witness()
                self.assertEqual(error["code"], name, error)
                self.assertEqual(exit_code, table[name])
                self.assertEqual(error["exit_code"], table[name])

    def test_every_exit_code_is_in_the_table(self):
        codes = {row["exit_code"] for row in self.json("codecs", "--errors")["errors"]}
        self.assertEqual(codes, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 130})

    def test_differences_end_with_9(self):
        left, right = self.card(), self.card("llama_f32.seq", name="other.card")
        self.expect(0, "diff", left, left)
        self.expect(9, "diff", left, right)

    def test_usage_errors_end_with_2(self):
        card = self.card()
        for arguments in ([], ["frobnicate"], ["inspect"], ["inspect", card, "more"],
                          ["inspect", card, "--frobnicate"], ["trim", card, "out"],
                          ["trim", card, "out", "--tokens", "5:2"],
                          ["trim", card, "out", "--tokens", "two"],
                          ["convert", card, "out", "--from", "frobnicate"],
                          ["convert", card, "out", "--tokens", "ids"],
                          ["convert", card, "out", "--libtorch"],
                          ["convert", card, "out", "--dtype", "f16"],
                          ["convert", card, "out.pt", "--layout", "10/3"],
                          ["convert", card, "out", "--to", "card"],
                          ["convert", card, "out", "--codec", "raw"],
                          ["convert", CACHES / "llama_f16.seq", "out"],
                          ["convert", CACHES / "llama_f16.seq", "out", "--zstd=99"],
                          ["verify", card, "--threads", "0"], ["diff", "-", "-"],
                          ["extend", card], ["extend", card, CACHES / "llama_f16.seq"],
                          ["extend", card, CACHES / "llama_f16.seq", "-o", "out"],
                          ["extend", card, CACHES / "llama_f16.seq", "-o", "out", "--model", MODEL, "--bits", "two"],
                          ["calibrate"], ["calibrate", "--model", MODEL, "--text", self.folder],
                          ["calibrate", "--model", MODEL, "--text", self.folder, "-o", "out"],
                          *(["calibrate", "--model", MODEL, "--text", CACHES, "-o", "out", *more]
                            for more in (["--layers", "5:5"], ["--layers", "two"], ["--context", "1"],
                                         ["--cost-windows", "0"], ["--texts", "0"]))):
            with self.subTest(arguments=arguments):
                self.expect(2, *arguments)
        self.assertEqual(self.files(), ["made.card"])

    def test_extend_ends_with_the_code_of_what_is_wrong(self):
        card, state = self.card(), CACHES / "llama_f16.seq"
        broken = self.patched(card.read_bytes()[:-1], "broken.card")
        before = self.files()
        for exit_code, base, source, model in ((3, "no.card", state, MODEL), (3, card, "no.seq", MODEL),
                                               (3, card, state, "no.gguf"), (5, broken, state, MODEL),
                                               (4, state, state, MODEL), (4, card, CACHES / "llama_empty.seq", MODEL),
                                               (6, card, CACHES / "gemma3_f16.seq", CACHES / "models" / "tiny_gemma3.gguf")):
            with self.subTest(base=base, source=source, model=model):
                done = self.expect(exit_code, "extend", base, source, "-o", "out", "--model", model)
                self.assertEqual(done.stderr.count(b"\n"), 1, done.stderr)
        self.assertEqual(self.files(), before)

    def test_calibrate_ends_with_the_code_of_what_is_wrong(self):
        texts = self.folder / "texts"
        texts.mkdir()
        before = self.files()
        self.expect(3, "calibrate", "--model", MODEL, "--text", "none", "-o", "out")
        (texts / "a.txt").write_text("text")
        self.expect(2, "calibrate", "--model", MODEL, "--text", self.folder, "-o", "out")  # no .txt in it
        self.assertEqual(self.files(), before)

    def test_a_missing_flag_is_named(self):
        state = CACHES / "llama_f16.seq"
        given = ["--layers", "2", "--kv-heads", "2", "--head-dim", "64", "--rope", "norm"]
        for missing in range(0, len(given), 2):
            flags = given[:missing] + given[missing + 2:]
            done = self.expect(2, "convert", state, "out", *flags)
            self.assertIn(given[missing] + " is missing", done.stderr.decode())
        self.expect(0, "convert", state, "out", *given)

    def test_a_codec_that_does_not_fit_is_named(self):
        done = self.expect(2, "convert", CACHES / "llama_q8_0.seq", "out", "--model", MODEL,
                           "--rotated", "yes", "--codec", "raw")
        self.assertIn("layer 0 key is q8_0, which ggml keeps", done.stderr.decode())

    def test_help_and_version_end_with_0(self):
        self.assertIn(b"Exit codes", self.expect(0, "--help").stdout)
        self.assertIn(b"card format", self.expect(0, "--version").stdout)
        for command in ("convert", "inspect", "verify", "capture", "inject", "extend", "trim", "diff",
                        "calibrate", "plan", "codecs"):
            self.assertIn(command.encode(), self.expect(0, command, "--help").stdout)


if __name__ == "__main__":
    main()
