"""verify: whole cards pass, every flipped byte is found."""

import random

from cli_runner import CommandTest, main


class Verify(CommandTest):
    def test_a_whole_card(self):
        card = self.card()
        report = self.json("verify", card, "--decode")
        self.assertTrue(report["ok"])
        self.assertEqual(report["file_bytes"], card.stat().st_size)
        self.assertEqual(report["root"], self.json("inspect", card)["root"])
        text = self.expect(0, "verify", card).stdout.decode()
        self.assertTrue(text.startswith("ok "))
        self.assertIn(report["root"], text)

    def test_random_flipped_bits(self):
        data = self.card().read_bytes()
        seed = 20261124
        chosen = random.Random(seed)
        for _ in range(60):
            at, bit = chosen.randrange(len(data)), chosen.randrange(8)
            with self.subTest(seed=seed, at=at, bit=bit):
                bad = data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1:]
                error = self.json("verify", "-", exit_code=self.run_command(
                    "verify", "-", stdin=bad).returncode, stdin=bad)["error"]
                self.assertIn(error["exit_code"], (4, 5))

    def test_the_error_names_offset_and_field(self):
        data = bytearray(self.card().read_bytes())
        data[20] ^= 1
        (self.folder / "bad.card").write_bytes(data)
        error = self.json("verify", "bad.card", exit_code=5)["error"]
        self.assertEqual(error["code"], "checksum_mismatch")
        self.assertEqual(error["field"], "prologue.check")
        self.assertEqual(error["offset"], 60)


if __name__ == "__main__":
    main()
