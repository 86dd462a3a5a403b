"""Pipes both ways: the same bytes and verdicts as files."""

import os
import subprocess
import threading

from cli_runner import CACHES, CLI, ENVIRONMENT, MODEL, CommandTest, main


class Pipes(CommandTest):
    def test_a_state_through_pipes_is_the_same_card(self):
        state = CACHES / "llama_f16.seq"
        done = self.expect(0, "convert", "-", "-", "--model", MODEL, stdin=state.read_bytes())
        self.assertEqual(done.stdout, self.card().read_bytes())
        self.assertIn(b"bits per value", done.stderr)

    def test_a_card_through_pipes_is_the_state(self):
        done = self.expect(0, "convert", "-", "-", stdin=self.card().read_bytes())
        self.assertEqual(done.stdout, (CACHES / "llama_f16.seq").read_bytes())

    def test_with_json_standard_output_is_only_the_data(self):
        done = self.expect(0, "convert", "-", "-", "--json", stdin=self.card().read_bytes())
        self.assertEqual(done.stdout, (CACHES / "llama_f16.seq").read_bytes())
        self.assertIn(b'"token_count": 5', done.stderr)

    def test_verify_gives_the_same_verdict_for_file_and_pipe(self):
        data = self.card().read_bytes()
        bad = self.folder / "bad.card"
        cases = [data[:cut] for cut in range(0, len(data), 211)]
        cases += [data[:at] + bytes([data[at] ^ 4]) + data[at + 1:]
                  for at in range(7, len(data), 223)]
        for case in [data, data + b"x", *cases]:
            bad.write_bytes(case)
            file = self.run_command("verify", bad, "--json")
            pipe = self.run_command("verify", "-", "--json", stdin=case)
            self.assertEqual(file.returncode, pipe.returncode)
            self.assertEqual(file.stdout.replace(os.fsencode(bad), b"standard input"), pipe.stdout)

    def test_trim_takes_and_gives_pipes(self):
        card = self.card()
        self.expect(0, "trim", card, "file.card", "--tokens", ":3", "-q")
        done = self.expect(0, "trim", "-", "-", "--tokens", ":3", stdin=card.read_bytes())
        self.assertEqual(done.stdout, (self.folder / "file.card").read_bytes())

    def test_a_named_pipe_is_a_pipe(self):
        card = self.card()
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        for command in (["verify", fifo], ["inspect", fifo], ["inspect", fifo, "--tokens"],
                        ["diff", card, fifo], ["trim", fifo, "out", "--tokens", ":2"]):
            with self.subTest(command=command[0]):
                writer = threading.Thread(target=fifo.write_bytes, args=(card.read_bytes(),))
                writer.start()
                self.expect(0, *command)
                writer.join()

    def test_a_named_pipe_takes_output(self):
        card = self.card()
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        taken = []
        reader = threading.Thread(target=lambda: taken.append(fifo.read_bytes()))
        reader.start()
        self.expect(0, "convert", card, fifo)
        reader.join()
        self.assertEqual(taken, [(CACHES / "llama_f16.seq").read_bytes()])

    def test_a_reader_that_goes_away_is_an_io_error(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        done = subprocess.run([CLI, "convert", self.card(), "-"], stdout=write_end,
                              stderr=subprocess.PIPE, env=ENVIRONMENT, check=False)
        os.close(write_end)
        self.assertEqual(done.returncode, 3)
        self.assertIn(b"standard output: io", done.stderr)


if __name__ == "__main__":
    main()
