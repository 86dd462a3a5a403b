"""An f16 card enters a llama-server whose cache is q8_0 or q4_0, and serves about as well as the server's own reading."""
import math
import unittest

import hand_off
from hand_off import cachecard, llama, server, slot_bytes, slot_flags, tokens_of

TOP = 40
context = None


def setUpModule():
    global context
    hand_off.need_environment()
    context = hand_off.Context()


def tearDownModule():
    if context:
        context.remove()


def next_token(running):
    """Probabilities of the next token, the TOP most likely ones."""
    answer = llama.completion(running.url, context.tokens, 1, n_probs=TOP, temperature=1.0, samplers=[])
    return {row["id"]: row["logprob"] for row in answer["completion_probabilities"][0]["top_logprobs"]}


def divergence(p, q):
    """KL over the tokens that both lists have; the rest of the mass is small and left out."""
    return sum(math.exp(p[token]) * (p[token] - q[token]) for token in p if token in q)


class QuantisedServer(unittest.TestCase):
    def exact(self):
        with server(context.make_folder()) as running:
            llama.completion(running.url, context.tokens[:-1], 1)
            return next_token(running)

    def native(self, options):
        with server(context.make_folder(), **options) as running:
            llama.completion(running.url, context.tokens[:-1], 1)
            return next_token(running)

    def injected(self, options):
        with server(context.make_folder(), **options) as running:
            answer = cachecard("inject", context.card, *slot_flags(running), "--json")
            self.assertEqual(answer.code, 0, str(answer))
            self.assertGreater(answer.facts["max_conversion_loss"], 0)
            self.assertTrue(any("f16 was converted to " in note for note in answer.facts["notes"]), answer)
            found = next_token(running)
            self.assertIn("completion_probabilities", llama.completion(running.url, context.tokens, 1, n_probs=1))
            answer_tokens, reused = tokens_of(running, context.tokens)
            self.assertEqual(reused, len(context.tokens) - 1)
            return found, answer_tokens

    def check(self, dtype, bound):
        options = {"cache_type_k": dtype, "cache_type_v": dtype}
        exact = self.exact()
        own = divergence(exact, self.native(options))
        found, tokens = self.injected(options)
        given = divergence(exact, found)
        print(f"{dtype}: KL to the f16 server {given:.5f} injected, {own:.5f} read by the server itself")
        self.assertLess(given, bound)
        self.assertEqual(max(found, key=found.get), max(exact, key=exact.get))
        return tokens

    def test_q8_0(self):
        self.assertEqual(self.check("q8_0", 0.02), context.answer)

    def test_q4_0(self):
        self.check("q4_0", 0.1)

    def test_a_quantised_slot_comes_back_from_its_own_card_byte_for_byte(self):
        options = {"cache_type_k": "q4_0", "cache_type_v": "q8_0"}
        with server(context.make_folder(), **options) as running:
            llama.completion(running.url, context.tokens[:60], 1)
            before = slot_bytes(running)
            card = context.path("quantised.card")
            self.assertEqual(cachecard("capture", card, *slot_flags(running), "--codec", "raw").code, 0)
            llama.erase(running.url)
            answer = cachecard("inject", card, *slot_flags(running), "--json")
            self.assertEqual(answer.code, 0, str(answer))
            self.assertEqual(answer.facts["max_conversion_loss"], 0)
            self.assertEqual(slot_bytes(running), before)


if __name__ == "__main__":
    unittest.main()
