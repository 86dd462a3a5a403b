"""Hops between real servers: A reads, B goes on from A's card, and what B saved makes the next card of A's, which C serves."""
import os
import shutil
import unittest

import hand_off
import server_client as llama

READ, MORE = 200, 280
CODECS = {"raw": ("--codec", "raw"), "planes": ("--codec", "planes"), "entropy": ("--codec", "entropy", "--bits", "2")}


class ExtendedServer(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        hand_off.need_environment()
        cls.context = hand_off.Context()

    @classmethod
    def tearDownClass(cls):
        cls.context.remove()

    def expect(self, *arguments):
        done = hand_off.cachecard(*arguments)
        self.assertEqual(done.code, 0, str(done))
        return done.facts

    def hop(self, codec, flags, base_slots, more_slots):
        """A's card, then the next one of the slot file of a server that went on from it."""
        tokens = self.context.tokens
        base, state, new = (self.context.path(f"{codec}.{kind}") for kind in ("base.card", "slot", "new.card"))
        with hand_off.server(base_slots) as a:
            llama.completion(a.url, tokens[:READ], 1)
            self.expect("capture", base, *hand_off.slot_flags(a), "--json", *flags)
        with hand_off.server(more_slots) as b:
            self.expect("inject", base, *hand_off.slot_flags(b), "--json")
            answer = llama.completion(b.url, tokens[:MORE], 1, slot=0)
            self.assertGreaterEqual(hand_off.reused(answer), READ - 1)
            llama.save(b.url, "more.slot")
            shutil.move(os.path.join(more_slots, "more.slot"), state)
            expected, _ = hand_off.tokens_of(b, tokens[:MORE])
        report = self.expect("extend", base, state, "-o", new, "--model", hand_off.MODEL, "--adapters", "none",
                             "--check", "--json")
        self.expect("verify", "--decode", new, "--json")
        return report, new, state, expected

    def test_the_next_card_serves_all_that_the_last_server_read(self):
        for codec, flags in CODECS.items():
            with self.subTest(codec=codec):
                folders = [self.context.make_folder() for _ in range(3)]
                report, new, state, expected = self.hop(codec, flags, *folders[:2])
                self.assertEqual((report["kept_tokens"], report["encoded_tokens"]), (READ, MORE - READ))
                self.assertEqual(report["shared_lanes"], codec == "entropy")
                # What B saved comes back: with raw, all of it; from lossy cards, another file of the same size.
                back = self.context.path("back.slot")
                self.expect("convert", new, back, "--json")
                self.assertEqual(os.path.getsize(back), os.path.getsize(state))
                if codec == "raw":
                    self.assertEqual(hand_off.read(back), hand_off.read(state))
                with hand_off.server(folders[2]) as c:
                    self.expect("inject", new, *hand_off.slot_flags(c), "--json")
                    # The slot holds the card's values: saved, it is the card again.
                    saved = hand_off.write(self.context.path("saved.slot"), hand_off.slot_bytes(c))
                    again = self.context.path("again.card")
                    self.expect("convert", saved, again, "--model", hand_off.MODEL, "--adapters", "none", "--json")
                    compared = hand_off.cachecard("diff", new, again, "--json")
                    self.assertEqual(compared.facts["different_chunks"], 0, str(compared))
                    answer, reused = hand_off.tokens_of(c, self.context.tokens[:MORE])
                    self.assertGreaterEqual(reused, MORE - 1)
                    if codec == "raw":
                        self.assertEqual(answer, expected)


if __name__ == "__main__":
    unittest.main()
