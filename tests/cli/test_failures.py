"""Whatever goes wrong: one line, the right code, every file as it was."""

import os
import resource
import signal
import struct
import subprocess
import tempfile

from cli_runner import CACHES, CLI, ENVIRONMENT, MODEL, CommandTest, main, wait_for_handler


def big_state(path, token_count=20000):
    """A plain f16 sequence state of zeros in layout 10/3: tiny_llama's shape, about 20 MB."""
    with open(path, "wb") as out:
        out.write(struct.pack("<III", 0x67677371, 3, token_count))
        out.write(b"\x07\0\0\0" * token_count)
        out.write(struct.pack("<II", 1, token_count))
        out.write(b"".join(struct.pack("<iIi", i, 1, 0) for i in range(token_count)))
        out.write(struct.pack("<II", 0, 2))
        for _ in range(4):
            out.write(struct.pack("<iQ", 1, 256))
            out.write(bytes(256 * token_count))


class Failures(CommandTest):
    def test_inputs_that_cannot_be_read(self):
        (self.folder / "empty").touch()
        for command in (["inspect"], ["verify"], ["convert"], ["trim"], ["diff"]):
            rest = {"convert": ["out", "--model", MODEL], "trim": ["out", "--tokens", ":1"],
                    "diff": ["empty"]}.get(command[0], [])
            with self.subTest(command=command[0]):
                self.assertIn("No such file", self.expect(3, *command, "gone", *rest).stderr.decode())
                self.expect(3, *command, ".", *rest)
                self.expect(5, *command, "empty", *rest)
        self.assertEqual(self.files(), ["empty"])

    def test_bytes_that_are_nothing_known(self):
        (self.folder / "text").write_text("These are not the bytes of a cache. " * 50)
        said = self.expect(4, "convert", "text", "out", "--model", MODEL).stderr.decode()
        for part in ("neither a card nor", "nor a PyTorch file", "nor a llama.cpp state", "54 68 65 73"):
            self.assertIn(part, said)
        for command in ("inspect", "verify"):
            self.assertIn("bad_magic", self.expect(4, command, "text").stderr.decode())

    def test_a_damaged_input_leaves_the_output_as_it_was(self):
        data = self.card().read_bytes()
        (self.folder / "out").write_text("precious")
        damaged = self.folder / "damaged"
        for cut in range(0, len(data), 97):
            damaged.write_bytes(data[:cut])
            for arguments in (["convert", damaged, "out"], ["trim", damaged, "out", "--tokens", ":2"]):
                done = self.run_command(*arguments)
                self.assertIn(done.returncode, (4, 5), (cut, arguments, done.stderr))
                self.assertEqual((self.folder / "out").read_text(), "precious")
        for at in range(0, len(data), 131):
            damaged.write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1:])
            self.assertNotIn(self.run_command("verify", damaged).returncode, (0, 1), at)
        self.assertEqual(self.files(), ["damaged", "made.card", "out"])

    def test_a_cut_state_leaves_the_output_as_it_was(self):
        data = (CACHES / "llama_f16.seq").read_bytes()
        (self.folder / "out").write_text("precious")
        for cut in range(1, len(data), 61):
            (self.folder / "cut.seq").write_bytes(data[:cut])
            done = self.run_command("convert", "cut.seq", "out", "--model", MODEL)
            self.assertIn(done.returncode, (4, 5), (cut, done.stderr))
        self.assertEqual((self.folder / "out").read_text(), "precious")
        self.assertEqual(self.files(), ["cut.seq", "out"])

    def test_a_folder_that_cannot_be_written(self):
        card = self.card()
        locked = self.folder / "locked"
        locked.mkdir(0o555)
        # root writes anywhere, but not in /proc
        target = locked / "out" if os.geteuid() != 0 else "/proc/out"
        self.expect(3, "trim", card, target, "--tokens", ":2")
        self.expect(3, "convert", card, self.folder / "no" / "such" / "out")
        self.expect(3, "convert", card, locked)

    def test_a_full_disk(self):
        big_state(self.folder / "big.seq")
        (self.folder / "out").write_text("precious")

        def limit():  # a file that may not grow is a disk that is full, on any machine
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

        done = self.expect(3, "convert", "big.seq", "out", "--model", MODEL, preexec_fn=limit)
        self.assertIn("out: io", done.stderr.decode())
        self.assertEqual((self.folder / "out").read_text(), "precious")
        self.expect(0, "convert", "big.seq", "big.card", "--model", MODEL, "-q")
        self.expect(3, "convert", "big.card", "out", preexec_fn=limit)
        self.assertEqual(self.files(), ["big.card", "big.seq", "out"])
        self.assertEqual((self.folder / "out").read_text(), "precious")

    def test_a_report_that_nobody_can_take(self):
        card = self.card()
        with open("/dev/full", "wb") as full:
            done = subprocess.run([CLI, "inspect", card], stdout=full, stderr=subprocess.PIPE,
                                  env=ENVIRONMENT, check=False)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"standard output: io: No space left", done.stderr)

    def interrupt(self, arguments, stdin_bytes, delay_bytes):
        """Sends SIGINT while the command waits for the rest of its input."""
        with subprocess.Popen([CLI, *map(str, arguments)], stdin=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self.folder,
                              env=ENVIRONMENT) as process:
            wait_for_handler(process.pid, signal.SIGINT)
            process.stdin.write(stdin_bytes[:delay_bytes])
            process.stdin.flush()
            process.send_signal(signal.SIGINT)
            error = process.stderr.read().decode()
            process.wait()
        self.assertEqual(process.returncode, 130, error)
        self.assertEqual(len(error.splitlines()), 1, error)
        self.assertIn("interrupted", error)

    def test_interrupted_in_the_middle_of_the_input(self):
        card = self.card()
        data = card.read_bytes()
        state = (CACHES / "llama_f16.seq").read_bytes()
        (self.folder / "out").write_text("precious")
        self.interrupt(["verify", "-"], data, 5000)
        self.interrupt(["inspect", "-"], data, 5000)
        self.interrupt(["trim", "-", "out", "--tokens", ":2"], data, 5000)
        self.interrupt(["convert", "-", "out", "--model", MODEL], state, 3000)
        self.assertEqual((self.folder / "out").read_text(), "precious")
        self.assertEqual(self.files(), ["made.card", "out"])

    def test_interrupted_at_any_moment(self):
        big_state(self.folder / "big.seq")
        (self.folder / "out").write_text("precious")
        outcomes = set()
        for delay in (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08):
            with subprocess.Popen([CLI, "convert", "big.seq", "out", "--model", str(MODEL)],
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  cwd=self.folder, env=ENVIRONMENT) as process:
                wait_for_handler(process.pid, signal.SIGINT)
                try:
                    process.wait(delay)
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGINT)
                process.wait()
            outcomes.add(process.returncode)
            self.assertIn(process.returncode, (0, 130))
            self.assertEqual(self.files(), ["big.seq", "out"])
            if process.returncode == 130:
                self.assertEqual((self.folder / "out").read_text(), "precious")
            else:
                self.expect(0, "verify", "out", "-q")
                (self.folder / "out").write_text("precious")
        self.assertIn(130, outcomes)

    def test_no_temporary_files_stay_in_tmpdir(self):
        card = self.card()
        with tempfile.TemporaryDirectory() as tmpdir:
            environment = {"TMPDIR": tmpdir}
            self.expect(0, "inspect", "-", "--tokens", stdin=card.read_bytes(),
                        environment=environment)
            self.expect(5, "trim", "-", "out", "--tokens", ":2", stdin=card.read_bytes()[:900],
                        environment=environment)
            self.assertEqual(os.listdir(tmpdir), [])
        self.expect(3, "inspect", "-", "--tokens", stdin=card.read_bytes(),
                    environment={"TMPDIR": "/no/such/folder"})

    def test_hostile_text_is_printed_harmlessly(self):
        self.expect(0, "convert", CACHES / "llama_f16.seq", "a.card", "-q", "--model", MODEL,
                    "--source-id", "\x1b[31mred\x07\u0085 grün")
        text = self.expect(0, "inspect", "a.card").stdout.decode()
        self.assertNotIn("\x1b", text)
        self.assertIn("\\x1B[31mred\\x07\\xC2\\x85 grün", text)


if __name__ == "__main__":
    main()
