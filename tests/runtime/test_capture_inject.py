"""A card between two real llama-servers: what works. Failures are in test_inject_failures.py."""
import json
import os
import threading
import unittest

import hand_off
from hand_off import cachecard, llama, read, server, slot_bytes, slot_flags, tokens_of, write

context = None


def setUpModule():
    global context
    hand_off.need_environment()
    context = hand_off.Context()


def tearDownModule():
    if context:
        context.remove()


class RuntimeCase(unittest.TestCase):
    def setUp(self):
        self.slot_dir = context.make_folder()

    def ok(self, answer):
        self.assertEqual(answer.code, 0, str(answer))
        return answer

    def inject(self, running, *more, slot=0, card=None):
        return self.ok(cachecard("inject", card or context.card, *slot_flags(running, slot=slot), "--json", *more))

    def assert_clean(self, folder):
        self.assertEqual([name for name in os.listdir(folder) if "cachecard" in name], [])

    def assert_holds_card(self, running, slot=0):
        """The server goes on as the one that read the context, and reads one token only."""
        answer, reused = tokens_of(running, context.tokens, slot=slot)
        self.assertEqual(reused, len(context.tokens) - 1)
        self.assertEqual(answer, context.answer)


class Capture(RuntimeCase):
    def test_makes_a_checked_card_and_leaves_nothing_else(self):
        facts = self.ok(context.capture).facts
        self.assertEqual(facts["token_count"], hand_off.CARD_TOKENS)
        self.assertEqual(facts["next_position"], hand_off.CARD_TOKENS)
        self.assertEqual(facts["file_bytes"], os.path.getsize(context.card))
        self.assertEqual(context.left_in_slot_dir, [])
        self.ok(cachecard("verify", "--decode", context.card))

    def test_card_gives_the_slot_file_back_byte_for_byte(self):
        state = context.path("again.slot")
        self.ok(cachecard("convert", context.card, state))
        self.assertEqual(read(state), read(context.slot_file))

    def test_options(self):
        with server(self.slot_dir) as source:
            llama.completion(source.url, context.tokens[:60], 1)
            plain = context.path("plain.card")
            self.ok(cachecard("capture", plain, *slot_flags(source), "--codec", "raw"))
            packed = context.path("packed.card")
            facts = self.ok(cachecard("capture", packed, *slot_flags(source), "--split", "--json")).facts
            self.assertLess(facts["file_bytes"], os.path.getsize(plain))
            piped = self.ok(cachecard("capture", "-", *slot_flags(source), "--codec", "raw"))
            self.assertIn("60", piped.error)
            with_text = context.path("text.card")
            facts = self.ok(cachecard("capture", with_text, *slot_flags(source), "--codec", "raw", "--text",
                                      "--keep-slot-file", "--json")).facts
            self.assertIn(b"lighthouse keeper", read(with_text))
            kept = os.path.join(self.slot_dir, facts["slot_file"])
            self.assertEqual(os.path.getsize(kept), facts["state_bytes"])
            os.unlink(kept)
            dry = cachecard("capture", context.path("dry.card"), *slot_flags(source), "--dry-run", "--json")
            self.assertEqual(self.ok(dry).facts["token_count"], 60)
            self.assertFalse(os.path.exists(context.path("dry.card")))
            self.assertEqual(os.listdir(self.slot_dir), [])


class Planes(RuntimeCase):
    def test_a_lossy_card_hands_off(self):
        with server(self.slot_dir) as source:
            llama.completion(source.url, context.tokens, 1)
            cards = {}
            for bits in ("8", "4,3"):
                cards[bits] = context.path(f"planes-{bits[0]}.card")
                facts = self.ok(cachecard("capture", cards[bits], *slot_flags(source), "--codec", "planes", "--bits", bits,
                                          "--json")).facts
                self.assertEqual(facts["raw_chunks"], 0)
        self.assertLess(facts["file_bytes"], 0.26 * facts["state_bytes"])  # a short context: frames and exact tokens weigh
        with server(self.slot_dir) as receiver:
            for bits, card in cards.items():
                with self.subTest(bits=bits):
                    answer = self.inject(receiver, "--ask", context.empty, "--n-predict", hand_off.ANSWER_TOKENS,
                                         card=card).facts["ask"]
                    self.assertEqual(answer["cache_n"], hand_off.CARD_TOKENS - 1)
                    self.assertFalse(answer["read_again"])
                    same = sum(a == b for a, b in zip(answer["tokens"], context.answer))
                    self.assertGreaterEqual(same, len(context.answer) if bits == "8" else 1)


class Receivers(RuntimeCase):
    """Whose look at the tokens counts, of agents that are declared."""

    @unittest.skipUnless(os.path.exists(os.path.join(os.path.dirname(os.environ.get("CACHECARD_CLI", "")), "cachecard_llama.so")),
                         "built without libllama: nothing reads probes")
    def test_a_capture_for_a_link_hands_off(self):
        graph, card = context.path("graph.json"), context.path("link.card")
        budget = 600_000
        write(graph, json.dumps({"agents": [{"name": "a"}, {"name": "b", "probe_text": "What does the keeper do?"}],
                                 "links": [{"from": "a", "to": "b", "bandwidth": 2 * budget, "seconds": 0.5}]}).encode())
        with server(self.slot_dir) as source:
            llama.completion(source.url, context.tokens, 1)
            facts = self.ok(cachecard("capture", card, *slot_flags(source), "--topology", graph, "--link", "a:b", "--json")).facts
            self.assertEqual(os.listdir(self.slot_dir), [])
        self.assertLess(facts["file_bytes"], 1.01 * budget)
        self.assertGreater(facts["file_bytes"], 0.95 * budget)
        steps = self.ok(cachecard("inspect", card, "--provenance", "--json")).facts["provenance"]
        self.assertIn("token weights of b (link a -> b)", steps[-1]["text"])
        with server(self.slot_dir) as receiver:
            answer = self.inject(receiver, "--ask", context.empty, "--n-predict", 4, card=card).facts["ask"]
            self.assertEqual(answer["cache_n"], hand_off.CARD_TOKENS - 1)


class HandOff(RuntimeCase):
    def test_one_slot(self):
        with server(self.slot_dir) as receiver:
            facts = self.inject(receiver, "--ask", context.empty, "--n-predict", hand_off.ANSWER_TOKENS).facts
            self.assertEqual(facts["token_count"], hand_off.CARD_TOKENS)
            self.assertEqual(facts["next_position"], hand_off.CARD_TOKENS)
            self.assertEqual(facts["old_tokens"], 0)
            self.assertEqual(facts["ask"]["cache_n"], hand_off.CARD_TOKENS - 1)
            self.assertFalse(facts["ask"]["read_again"])
            self.assertEqual(facts["ask"]["tokens"], context.answer)
            self.assertGreater(facts["ask"]["first_token_since_start_seconds"], 0)
            self.assert_clean(self.slot_dir)
            self.replaces_what_was_there(receiver)
            self.asks_in_three_forms(receiver)
            self.takes_a_prefix(receiver)
            self.changes_nothing_when_rehearsing(receiver)

    def replaces_what_was_there(self, receiver):
        llama.completion(receiver.url, context.old_tokens, 1)
        facts = self.inject(receiver).facts
        self.assertEqual(facts["old_tokens"], len(context.old_tokens))
        self.assertEqual(facts["template_from"], "slot 0")
        self.assert_holds_card(receiver)
        self.assert_clean(self.slot_dir)

    def asks_in_three_forms(self, receiver):
        question = write(context.path("question.txt"), hand_off.QUESTION)
        asked = self.inject(receiver, "--ask", question, "--n-predict", 2).facts["ask"]
        self.assertEqual(asked["cache_n"], hand_off.CARD_TOKENS)
        self.assertEqual(asked["prompt_tokens"], hand_off.CARD_TOKENS + len(context.question_tokens))
        body = {"prompt": context.tokens + context.question_tokens, "n_predict": 2, "temperature": 0.0}
        same = self.inject(receiver, "--ask", write(context.path("body.json"), json.dumps(body))).facts["ask"]
        self.assertEqual(same["tokens"], asked["tokens"])
        self.assertEqual(same["covered"], hand_off.CARD_TOKENS)
        chat = write(context.path("chat.json"), json.dumps([{"role": "user", "content": "Hello"}]))
        other = self.inject(receiver, "--ask", chat, "--n-predict", 1).facts["ask"]
        self.assertEqual(other["covered"], 0)
        self.assertFalse(other["read_again"])  # nothing was promised

    def takes_a_prefix(self, receiver):
        facts = self.inject(receiver, "--tokens", "0:100", "--ask", context.empty, "--n-predict", 1).facts
        self.assertEqual(facts["token_count"], 100)
        self.assertEqual(facts["ask"]["cache_n"], 99)

    def changes_nothing_when_rehearsing(self, receiver):
        before = slot_bytes(receiver)
        facts = self.inject(receiver, "--dry-run").facts
        self.assertEqual(facts["token_count"], hand_off.CARD_TOKENS)
        self.assertEqual(slot_bytes(receiver), before)
        self.assert_clean(self.slot_dir)

    def test_transposed_values_and_hidden_slots(self):
        with server(self.slot_dir, no_flash_attn=True, no_slots_endpoint=True) as receiver:
            self.inject(receiver)
            _, reused = tokens_of(receiver, context.tokens)
            self.assertEqual(reused, hand_off.CARD_TOKENS - 1)
            llama.completion(receiver.url, context.old_tokens, 1)
            before = slot_bytes(receiver)
            self.inject(receiver)
            self.inject(receiver, "--like", write(context.path("like.slot"), before))
            self.assert_clean(self.slot_dir)

    def test_api_key(self):
        with server(self.slot_dir, api_key="secret") as receiver:
            for content in (None, "wrong\n"):
                more = ["--api-key-file", write(context.path("wrong.key"), content)] if content else []
                refused = cachecard("inject", context.card, *slot_flags(receiver), *more)
                self.assertEqual(refused.code, 3, str(refused))
                self.assertIn("401", refused.error)
            self.inject(receiver, "--api-key-file", write(context.path("right.key"), "secret\n"))


class SeveralSlots(RuntimeCase):
    def test_four_slots_of_their_own(self):
        with server(self.slot_dir, ctx=4 * 512, parallel=4) as receiver:
            llama.completion(receiver.url, context.old_tokens, 1, slot=1)
            neighbour = slot_bytes(receiver, slot=1)
            facts = self.inject(receiver, slot=2).facts
            self.assertEqual(facts["template_from"], "slot 1")
            self.assertEqual(facts["notes"], [])
            self.assert_holds_card(receiver, slot=2)
            self.assertEqual(slot_bytes(receiver, slot=1), neighbour)
            missing = cachecard("inject", context.card, *slot_flags(receiver, slot=4))
            self.assertEqual(missing.code, 2, str(missing))
            self.assertIn("4 is not one of the server's 4 slots", missing.error)

    def test_a_shared_cache(self):
        with server(self.slot_dir, ctx=1500, parallel=4, kv_unified=True,
                    no_cache_idle_slots=True) as receiver:
            facts = self.inject(receiver, slot=3).facts
            self.assertEqual(facts["template_from"], "one token in slot 3")
            self.assertIn("slots share one cache", " ".join(facts["notes"]))
            facts = self.inject(receiver, slot=0).facts
            self.assertEqual(facts["template_from"], "slot 3")
            self.assert_holds_card(receiver, slot=0)
            self.does_not_probe_beside_work(receiver)

    def does_not_probe_beside_work(self, receiver):
        """Slot 1 is empty, slot 2 at work, 0 and 3 emptied: a probe could hurt slot 2."""
        for slot in (0, 3):
            llama.erase(receiver.url, slot)
        work = threading.Thread(target=llama.completion, args=(receiver.url, context.old_tokens),
                                kwargs={"n_predict": 200, "slot": 2, "ignore_eos": True})
        work.start()
        while not llama.slots(receiver.url)[2]["is_processing"]:
            pass
        refused = cachecard("inject", context.card, *slot_flags(receiver, slot=1), "--json")
        busy = llama.slots(receiver.url)[2]["is_processing"]
        work.join()
        self.assertTrue(busy, "the neighbour had ended: nothing was tested")
        self.assertEqual(refused.code, 3, str(refused))
        self.assertIn("--like", refused.facts["error"]["detail"])
        self.assert_clean(self.slot_dir)


class PromptCover(RuntimeCase):
    def cover(self, running, prompt, card=None):
        text = prompt if isinstance(prompt, str) else json.dumps(prompt)
        path = write(context.path("prompt"), text)
        answer = cachecard("inject", card or context.card, "--server", running.url, "--prompt", path, "--json")
        return self.ok(answer).facts

    def test_says_how_far_and_why(self):
        with server(self.slot_dir) as running:
            def detokenized(tokens):
                return llama.request(running.url, "/detokenize", {"tokens": tokens})["content"]

            text = detokenized(context.tokens)
            whole = self.cover(running, text + hand_off.QUESTION)
            self.assertEqual((whole["cause"], whole["covered"]), ("none", hand_off.CARD_TOKENS))
            early = self.cover(running, detokenized(context.tokens[:50]))
            self.assertEqual((early["cause"], early["covered"]), ("prompt_ends", 50))
            other = self.cover(running, text[:200] + " penguins and violins")
            self.assertEqual(other["cause"], "text")
            self.assertIn("penguins", other["prompt"]["text"])
            bos = self.cover(running, {"prompt": [1] + context.tokens})
            self.assertEqual((bos["cause"], bos["covered"]), ("bos", 0))
            cut = {"prompt": context.tokens[:40] + [token for character in detokenized(context.tokens[40:60])
                                                    for token in llama.tokenize(running.url, character, False)]}
            boundary = self.cover(running, cut)
            self.assertEqual(boundary["cause"], "token_boundary")
            self.assertLess(boundary["covered"], 60)
            self.chats(running)

    def chats(self, running):
        def turns(thinking):
            return [{"role": "system", "content": "You keep the harbour's ledger."},
                    {"role": "user", "content": "How many ships came?"},
                    {"role": "assistant", "content": thinking + "Eleven ships came."},
                    {"role": "user", "content": "And yesterday?"}]

        prompt = llama.apply_template(running.url, turns("<think>\nEight and three.\n</think>\n\n"))
        llama.completion(running.url, prompt, 1)
        card = context.path("chat.card")
        self.ok(cachecard("capture", card, *slot_flags(running), "--codec", "raw"))
        same = self.cover(running, turns("<think>\nEight and three.\n</think>\n\n"), card)
        self.assertEqual((same["cause"], same["covered"]), ("none", same["card_tokens"]))
        stripped = self.cover(running, turns(""), card)
        self.assertEqual(stripped["cause"], "stripped_thinking")
        self.assertIn("think", stripped["card"]["text"])
        no_system = self.cover(running, {"messages": turns("")[1:]}, card)
        self.assertEqual(no_system["cause"], "template")


if __name__ == "__main__":
    unittest.main(verbosity=2)
