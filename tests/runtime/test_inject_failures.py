"""What goes wrong between a card and a real llama-server: one line, the right exit code, and the slot
as it was. CACHECARD_SEED repeats a run's random moments; it is printed."""
import json
import os
import random
import resource
import shutil
import signal
import struct
import subprocess
import threading
import time
import unittest

import hand_off
from hand_off import cachecard, llama, read, server, slot_bytes, slot_flags, tokens_of, write

SEED = int(os.environ.get("CACHECARD_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
KILLS_PER_SIGNAL = int(os.environ.get("CACHECARD_KILLS", "5"))
SERVER_KILLS = int(os.environ.get("CACHECARD_SERVER_KILLS", "5"))
NOBODY = 65534
context = None


def setUpModule():
    global context
    hand_off.need_environment()
    print(f"CACHECARD_SEED={SEED}")
    context = hand_off.Context()


def tearDownModule():
    if context:
        context.remove()


def inject_command(running, *more, slot=0, card=None):
    return ["inject", card or context.card, *slot_flags(running, slot=slot), *more]


class FailureCase(unittest.TestCase):
    def setUp(self):
        self.slot_dir = context.make_folder()

    def fails(self, answer, code, *words):
        """One line on stderr, beside notes, that has the words."""
        self.assertEqual(answer.code, code, str(answer))
        lines = [line for line in answer.error.splitlines() if not line.startswith("cachecard: note:")]
        self.assertEqual(len(lines), 1, answer.error)
        for word in words:
            self.assertIn(word, lines[0])

    def with_old_content(self, running, slot=0):
        llama.completion(running.url, context.old_tokens, 1, slot=slot)
        return slot_bytes(running, slot=slot)

    def assert_clean(self):
        self.assertEqual([name for name in os.listdir(self.slot_dir) if "cachecard" in name], [])

    def assert_unchanged(self, running, before, slot=0):
        self.assertEqual(slot_bytes(running, slot=slot), before)
        self.assert_clean()


class Refusals(FailureCase):
    """One server with something in its slot; nothing of all this may change it."""

    def test_leave_the_slot_as_it_was(self):
        with server(self.slot_dir) as receiver:
            before = self.with_old_content(receiver)
            for check in (self.damaged_cards, self.non_finite, self.wrong_folders, self.wrong_words,
                          self.busy, self.locked, self.no_space):
                with self.subTest(check.__name__):
                    check(receiver)
                    self.assert_unchanged(receiver, before)
            answer, reused = tokens_of(receiver, context.old_tokens, 3)
            self.assertEqual(reused, len(context.old_tokens) - 1)
            self.assertEqual(len(answer), 3)

    def damaged_cards(self, receiver):
        card = bytearray(read(context.card))
        middle = len(card) // 2
        card[middle] ^= 0x10
        flipped = write(context.path("flipped.card"), bytes(card))
        self.fails(cachecard(*inject_command(receiver, card=flipped)), 5, "checksum_mismatch", "is as it was")
        half = write(context.path("half.card"), bytes(card[:middle]))
        self.fails(cachecard(*inject_command(receiver, card=half)), 5)
        self.fails(cachecard(*inject_command(receiver, card=context.empty)), 5)
        self.fails(cachecard(*inject_command(receiver, card=context.slot_file)), 4, "bad_magic")
        cut = write(context.path("cut.slot"), read(context.slot_file)[: os.path.getsize(context.slot_file) // 2])
        self.fails(cachecard("convert", cut, context.path("cut.card"), "--model", hand_off.MODEL), 5, "truncated")
        self.fails(cachecard(*inject_command(receiver, "--like", cut)), 5, "truncated", "is as it was")

    def non_finite(self, receiver):
        state = bytearray(read(context.slot_file))
        state[-400:-398] = struct.pack("<H", 0x7E00)  # a NaN among the last layer's V
        nan = write(context.path("nan.slot"), bytes(state))
        card = context.path("nan.card")
        made = cachecard("convert", nan, card, "--model", hand_off.MODEL, "--adapters", "none")
        self.assertEqual(made.code, 0, str(made))
        self.fails(cachecard(*inject_command(receiver, card=card)), 5, "non_finite", "is as it was")

    def wrong_folders(self, receiver):
        elsewhere = context.make_folder()
        flags = ["--server", receiver.url, "--slot-dir"]
        self.fails(cachecard("inject", context.card, *flags, elsewhere), 2, "is not the server's --slot-save-path")
        self.assertEqual(os.listdir(elsewhere), [])
        for name in os.listdir(self.slot_dir):
            os.unlink(os.path.join(self.slot_dir, name))  # where the server saved instead
        self.fails(cachecard("inject", context.card, *flags, context.path("nowhere")), 3, "No such file")
        self.fails(cachecard("capture", context.path("x.card"), *flags, elsewhere), 2, "--slot-save-path")
        self.assertFalse(os.path.exists(context.path("x.card")))
        for name in os.listdir(self.slot_dir):
            os.unlink(os.path.join(self.slot_dir, name))
        if os.geteuid() == 0:  # root writes anywhere: become somebody
            answer = cachecard("inject", context.card, *flags, self.slot_dir, preexec_fn=become_nobody,
                               env=dict(os.environ, HOME="/nonexistent"))
            self.fails(answer, 3, "cannot write in the slot directory")

    def wrong_words(self, receiver):
        self.fails(cachecard(*inject_command(receiver, "--tokens", "0:301")), 2, "has 300")
        self.fails(cachecard(*inject_command(receiver, "--tokens", "5:10")), 2, "--tokens")
        self.fails(cachecard(*inject_command(receiver, "--allow", "everything")), 2, "everything")
        self.fails(cachecard(*inject_command(receiver, slot=1)), 2, "slot")
        self.fails(cachecard("inject", context.card, "--server", receiver.url), 2, "--slot-dir")
        self.fails(cachecard("inject", context.card, "--server", "ftp://x", "--slot-dir", "."), 2, "http")

    def busy(self, receiver):
        work = threading.Thread(target=llama.completion, args=(receiver.url, context.old_tokens),
                                kwargs={"n_predict": 100, "ignore_eos": True})
        work.start()
        while not llama.slots(receiver.url)[0]["is_processing"]:
            time.sleep(0.001)
        refused = cachecard(*inject_command(receiver, "--wait", "0"))
        still = llama.slots(receiver.url)[0]["is_processing"]
        captured = cachecard("capture", context.path("y.card"), *slot_flags(receiver), "--wait", "0.05")
        work.join()
        self.assertTrue(still, "the slot was idle too soon: nothing was tested")
        self.fails(refused, 3, "target_busy", "still at work")
        self.assertIn(captured.code, (0, 3))
        llama.erase(receiver.url)
        self.with_old_content(receiver)  # as the next check expects it

    def locked(self, receiver):
        import fcntl
        with open(os.path.join(self.slot_dir, ".cachecard-lock-0"), "w", encoding="ascii") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self.fails(cachecard(*inject_command(receiver)), 3, "another injection")
        os.unlink(os.path.join(self.slot_dir, ".cachecard-lock-0"))

    def no_space(self, receiver):
        def small_files():
            resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

        answer = cachecard(*inject_command(receiver), preexec_fn=small_files)
        self.fails(answer, 3, "cannot reserve", "is as it was")


def become_nobody():
    os.setgid(NOBODY)
    os.setuid(NOBODY)


class OtherServers(FailureCase):
    def test_unreachable(self):
        flags = ["--server", "http://127.0.0.1:9", "--slot-dir", self.slot_dir]
        self.fails(cachecard("inject", context.card, *flags), 3, "target_unavailable", "nothing answers")
        self.fails(cachecard("capture", context.path("z.card"), *flags), 3, "target_unavailable")
        self.fails(cachecard("inject", "--recover", *flags), 3, "target_unavailable")
        self.assert_clean()

    def test_a_slot_that_is_too_small_and_empty(self):
        with server(self.slot_dir, ctx=256) as receiver:
            self.fails(cachecard(*inject_command(receiver)), 3, "target_too_small", "256")
            self.fails(cachecard("capture", context.path("e.card"), *slot_flags(receiver)), 2, "no tokens")
            self.assertNotIn("id_task", llama.slots(receiver.url)[0])
            self.assert_clean()

    def test_another_model(self):
        """The same file with one weight changed, then with another RoPE base."""
        model = bytearray(read(hand_off.MODEL))
        model[-1000] ^= 1
        other = write(context.path("other.gguf"), bytes(model))
        with server(self.slot_dir, model=other) as receiver:
            self.fails(cachecard(*inject_command(receiver)), 6, "model_mismatch", "weights_digest")
            self.assert_clean()
        key = b"llama.rope.freq_base"
        at = model.find(key) + len(key) + 4
        self.assertEqual(struct.unpack("<If", model[at - 4: at + 4])[0], 6)
        model[-1000] ^= 1
        model[at: at + 4] = struct.pack("<f", 12345.0)
        write(other, bytes(model))
        with server(self.slot_dir, model=other) as receiver:
            self.fails(cachecard(*inject_command(receiver)), 6, "model_mismatch", "rope_base")
            self.assert_clean()


class Killed(FailureCase):
    """SIGKILL, SIGTERM, SIGINT at random moments of an injection."""

    def test_the_injector(self):
        moments = random.Random(SEED)
        with server(self.slot_dir) as receiver:
            old = self.with_old_content(receiver)
            for prepare, before in ((self.put_old_content, old), (self.emptied, None)):
                before = before or self.emptied(receiver)
                started = time.monotonic()
                self.assertEqual(cachecard(*inject_command(receiver)).code, 0)
                duration = time.monotonic() - started
                seen = {}
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
                    for _ in range(KILLS_PER_SIGNAL):
                        prepare(receiver, before)
                        outcome = self.kill_once(receiver, number, moments.uniform(0, duration), before)
                        seen[number.name, outcome] = seen.get((number.name, outcome), 0) + 1
                print(f"{prepare.__name__}: {duration * 1000:.0f} ms, {seen}")
            self.put_old_content(receiver, old)
            _, reused = tokens_of(receiver, context.old_tokens, 3)
            self.assertEqual(reused, len(context.old_tokens) - 1)

    def put_old_content(self, receiver, old):
        """Restored, not read again: that would change the last token's bits."""
        write(os.path.join(self.slot_dir, "old.bin"), old)
        llama.restore(receiver.url, "old.bin")

    def emptied(self, receiver, _=None):
        llama.erase(receiver.url)
        return slot_bytes(receiver)

    def kill_once(self, receiver, number, moment, before):
        process = subprocess.Popen([hand_off.CLI, *inject_command(receiver)], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        time.sleep(moment)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        outcome = "interrupted"
        if number == signal.SIGKILL and process.returncode != 0:
            recovered = cachecard("inject", "--recover", *slot_flags(receiver), "--json")
            self.assertEqual(recovered.code, 0, str(recovered))
            outcome = recovered.facts["outcome"]
        if process.returncode == 0 or outcome == "nothing" and self.holds_card(receiver):
            self.assertTrue(self.holds_card(receiver))  # it was done already
            self.assert_clean()
            return "done"
        # Before main() catches signals, they end the process as they end any other.
        self.assertIn(process.returncode, (130, -number), error)
        self.assert_unchanged(receiver, before)
        return outcome

    def holds_card(self, receiver):
        return llama.slots(receiver.url)[0].get("n_prompt_tokens") == hand_off.CARD_TOKENS

    def test_the_server(self):
        moments = random.Random(SEED + 1)
        receiver = server(self.slot_dir).start()
        try:
            before = self.with_old_content(receiver)
            duration = 0.06
            for _ in range(SERVER_KILLS):
                code, error = self.kill_server_once(receiver, moments.uniform(0.005, duration))
                receiver.stop()
                receiver = server(self.slot_dir).start()
                if code != 0:
                    self.assertEqual(code, 3, error)
                    self.assertEqual(len(error.splitlines()), 1, error)
                    self.check_after_restart(receiver, error, before)
                llama.erase(receiver.url)
                before = self.with_old_content(receiver)
        finally:
            receiver.stop()

    def kill_server_once(self, receiver, moment):
        process = subprocess.Popen([hand_off.CLI, *inject_command(receiver)], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE)
        time.sleep(moment)
        receiver.kill()
        _, error = process.communicate(timeout=60)
        return process.returncode, error.decode()

    def check_after_restart(self, receiver, error, before):
        """With a journal the old content comes back into the new server, as long as it was saved."""
        journal = os.path.join(self.slot_dir, ".cachecard-journal-0.json")
        if not os.path.exists(journal):
            self.assert_clean()
            return
        self.assertIn("--recover", error)
        step = json.loads(read(journal))["step"]
        self.assertIn("--recover", cachecard(*inject_command(receiver)).error)
        recovered = cachecard("inject", "--recover", *slot_flags(receiver), "--json")
        self.assertEqual(recovered.code, 0, str(recovered))
        if step == "saving":
            self.assertEqual(recovered.facts["outcome"], "untouched")
            self.assert_clean()
        else:
            self.assertEqual(recovered.facts["outcome"], "put_back")
            self.assert_unchanged(receiver, before)


class Recovery(FailureCase):
    """Every step of the journal, written by hand, against every content of the slot."""

    def journal(self, step, old_tokens, old_bytes):
        facts = {"cachecard_journal": 1, "server": "http://elsewhere", "instance": "", "slot": 0,
                 "process": 1, "step": step, "old_tokens": old_tokens, "old_bytes": old_bytes,
                 "new_tokens": 2, "new_digest": "0123456789abcdef"}
        write(os.path.join(self.slot_dir, ".cachecard-journal-0.json"), json.dumps(facts))

    def recover(self, receiver):
        answer = cachecard("inject", "--recover", *slot_flags(receiver), "--json")
        self.assertEqual(answer.code, 0, str(answer))
        return answer.facts

    def test_by_the_journal(self):
        safety = os.path.join(self.slot_dir, ".cachecard-old-0.bin")
        with server(self.slot_dir) as receiver:
            self.assertEqual(self.recover(receiver)["outcome"], "nothing")
            before = self.with_old_content(receiver)
            count = len(context.old_tokens)
            for step in ("saved", "restoring", "putting_back"):
                with self.subTest(step):
                    write(safety, before)
                    self.journal(step, count, len(before))
                    self.assertEqual(self.recover(receiver)["outcome"], "untouched")
                    llama.erase(receiver.url)
                    write(safety, before)
                    self.journal(step, count, len(before))
                    self.assertEqual(self.recover(receiver)["outcome"], "put_back")
                    self.assert_unchanged(receiver, before)
            self.damaged_safety_copy(receiver, before, safety)
            self.used_since(receiver, before, safety)
            self.probe(receiver)

    def damaged_safety_copy(self, receiver, before, safety):
        """A short file would end the server: it never sees it."""
        llama.erase(receiver.url)
        write(safety, before[:-1])
        self.journal("restoring", len(context.old_tokens), len(before))
        answer = cachecard("inject", "--recover", *slot_flags(receiver))
        self.fails(answer, 5)
        self.assertTrue(os.path.exists(safety))
        write(os.path.join(self.slot_dir, ".cachecard-journal-0.json"), "{}")
        self.fails(cachecard("inject", "--recover", *slot_flags(receiver)), 5, "journal.")
        self.assertEqual(llama.slots(receiver.url)[0]["n_prompt_tokens"], 0)

    def used_since(self, receiver, before, safety):
        write(safety, before)
        self.journal("restoring", len(context.old_tokens), len(before))
        llama.completion(receiver.url, context.tokens[:20], 1)
        later = slot_bytes(receiver)
        facts = self.recover(receiver)
        self.assertEqual(facts["outcome"], "left")
        kept = os.path.join(self.slot_dir, facts["kept"])
        self.assertEqual(read(kept), before)
        os.unlink(kept)
        self.assert_unchanged(receiver, later)

    def probe(self, receiver):
        llama.erase(receiver.url)
        llama.completion(receiver.url, [0], 0)
        self.journal("probing", 0, 0)
        self.assertEqual(self.recover(receiver)["outcome"], "put_back")
        self.assertEqual(llama.slots(receiver.url)[0]["n_prompt_tokens"], 0)
        self.assert_clean()


@unittest.skipUnless(os.geteuid() == 0 and shutil.which("mount"), "needs to mount a small disk")
class FullDisk(FailureCase):
    def test_is_said_and_undone(self):
        size = os.path.getsize(context.slot_file)
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size // 2}", "tmpfs", self.slot_dir],
                                 capture_output=True, check=False)
        if mounted.returncode != 0:
            self.skipTest("mounting is not allowed here")
        try:
            with server(self.slot_dir) as receiver:
                self.fails(cachecard(*inject_command(receiver)), 3, "No space left", "is as it was")
                self.assertEqual(llama.slots(receiver.url)[0]["n_prompt_tokens"], 0)
                self.assert_clean()
        finally:
            subprocess.run(["umount", self.slot_dir], check=False)


if __name__ == "__main__":
    unittest.main(verbosity=2)
