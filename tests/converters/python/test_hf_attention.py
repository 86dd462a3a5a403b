"""Attention seen by hooks is the attention that the model computes."""

import cachecard
import numpy as np
import package_test
import smollm2
import torch
from transformers import DynamicCache, Gemma2Config, Gemma2ForCausalLM, MistralConfig, MistralForCausalLM, Phi3Config
from transformers import Phi3ForCausalLM

from cachecard import errors, hf

TOKENS, LAST = 90, 32
SIZES = {"vocab_size": 211, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
         "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256}


def expected(attentions, kv_heads, last):
    """sqrt of the sum of A^2 over the last queries and the query heads of each KV head."""
    weights = []
    for attention in attentions:
        _, heads, _, tokens = attention.shape
        tail = attention[0, :, -last:].reshape(kv_heads, heads // kv_heads, -1, tokens)
        weights.append(tail.pow(2).sum((1, 2)).sqrt().numpy())
    return weights


class Attention(package_test.PackageTest):
    def check(self, model, ids, steps, kv_heads, last=LAST, tolerance=2e-5):
        """Hooks over several passes against one eager pass that shows its attention."""
        eager = model(ids, output_attentions=True, use_cache=False).attentions
        cache = DynamicCache()
        with hf.record_attention(model, last=last) as attention:
            first = 0
            for step in steps:
                model(ids[:, first:first + step], past_key_values=cache, use_cache=True)
                first += step
        self.assertEqual(first, ids.shape[1])
        found = attention.weights(cache)
        wanted = expected(eager, kv_heads, last)
        self.assertEqual(len(found), len(wanted))
        for mine, theirs in zip(found, wanted):
            self.assertEqual((mine.shape, mine.dtype), (theirs.shape, np.float32))
            self.assertLess(np.abs(mine - theirs).max(), tolerance)

    def test_real_model(self):
        model = smollm2.load_model()
        self.check(model, smollm2.token_ids(60), [40, 10, 1, 9], 3)
        self.check(model, smollm2.token_ids(9), [9], 3)  # fewer tokens than asked for
        self.check(model, smollm2.token_ids(20), [19, 1], 3, last=1)

    def test_what_was_looked_at_is_kept_more_finely(self):
        model, ids = smollm2.load_model(), smollm2.token_ids(300)
        with hf.record_attention(model, last=LAST) as attention:
            cache = model(ids, use_cache=True).past_key_values
        looked = attention.weights(cache)
        profile = package_test.FIXTURES / "profiles" / "smollm2-135m.profile"
        options = {"model": model, "input_ids": ids, "weights": smollm2.MODEL_FILE, "codec": "entropy", "bits": 1.5,
                   "profile": profile}
        hf.save(cache, self.path, attention=attention, **options)
        agreement = []
        with cachecard.open(self.path) as card:
            for layer, weights in enumerate(looked):
                widths = card.bit_widths(layer, "value")[:, 4:].astype(int)  # the sinks are kept at 8 bits
                for head, row in enumerate(weights[:, 4:]):
                    order = np.argsort(row)
                    agreement.append(widths[head, order[-30:]].mean() - widths[head, order[:30]].mean())
        self.assertGreater(min(agreement), 0)
        self.assertGreater(np.mean(agreement), 2)
        restored = hf.load(self.path, model, weights=smollm2.MODEL_FILE)
        with cachecard.open(self.path) as card:
            for layer in (0, 29):
                held = restored.value_cache[layer][0].permute(1, 0, 2).numpy()
                self.assertTrue(np.array_equal(held, card.read(layer, "value")))
        with self.raises(errors.InvalidArgumentError, "leave token_weights out"):
            hf.save(cache, self.path, attention=attention, token_weights=np.ones(300), **options)
        with self.raises(errors.InvalidArgumentError, "for entropy"):
            hf.save(cache, self.path, attention=attention, **{**options, "codec": "planes", "bits": 4})

    def small(self, kind, config, **changes):
        torch.manual_seed(1)
        model = kind(config(attn_implementation="eager", pad_token_id=0, **{**SIZES, **changes})).eval()
        return model, smollm2.token_ids(TOKENS, 211)

    def test_windows(self):
        model, ids = self.small(MistralForCausalLM, MistralConfig, sliding_window=16)
        self.check(model, ids, [TOKENS], 2)

    def test_soft_caps_and_scales(self):
        model, ids = self.small(Gemma2ForCausalLM, Gemma2Config, sliding_window=64, query_pre_attn_scalar=8,
                                attn_logit_softcapping=0.5)
        eager = model(ids[:, :50], output_attentions=True, use_cache=False).attentions
        cache = DynamicCache()
        with hf.record_attention(model, last=8) as attention:
            model(ids[:, :50], past_key_values=cache, use_cache=True)
        for mine, theirs in zip(attention.weights(cache), expected(eager, 2, 8)):
            self.assertLess(np.abs(mine - theirs).max(), 2e-5)

    def test_fused_projections(self):
        sizes = {name: size for name, size in SIZES.items() if name != "head_dim"}
        torch.manual_seed(1)
        model = Phi3ForCausalLM(Phi3Config(attn_implementation="eager", pad_token_id=0, **sizes)).eval()
        self.check(model, smollm2.token_ids(TOKENS, 211), [60, 30], 2)

    def test_hooks_are_gone_afterwards(self):
        model, ids = self.small(MistralForCausalLM, MistralConfig)
        with self.assertRaisesRegex(RuntimeError, "mine"):
            with hf.record_attention(model):
                raise RuntimeError("mine")
        self.assertFalse(any(module._forward_hooks for module in model.modules()))

    def test_what_cannot_be_recorded(self):
        model, ids = self.small(MistralForCausalLM, MistralConfig)
        with self.raises(errors.InvalidArgumentError, "last is 0"):
            hf.AttentionRecord(model, 0)
        with self.raises(errors.BatchSizeError, "batch of 2"):
            with hf.record_attention(model):
                model(ids.repeat(2, 1))
        with self.raises(errors.UnsupportedCacheError, "attention modules"):
            hf.AttentionRecord(torch.nn.Linear(2, 2), 4)
        with hf.record_attention(model) as attention:
            pass
        cache = DynamicCache()
        model(ids, past_key_values=cache)
        with self.raises(errors.InvalidArgumentError, "no pass of layer 0"):
            attention.weights(cache)


if __name__ == "__main__":
    package_test.main()
