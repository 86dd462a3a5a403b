"""transformers 4.46 on torch 1.13 with a real model: bits come back, and generation goes on as from the original."""

import package_test
import smollm2
import torch
from transformers import DynamicCache

import cachecard
from cachecard import errors, hf

TOKENS = 80


class Transformers(package_test.PackageTest):
    @classmethod
    def setUpClass(cls):
        cls.model = smollm2.load_model()
        cls.ids = smollm2.token_ids(TOKENS)
        cls.legacy = cls.model(cls.ids, use_cache=True).past_key_values

    def save(self, cache, ids=None, **options):
        return hf.save(cache, self.path, model=self.model, input_ids=self.ids if ids is None else ids,
                       **{"weights": smollm2.MODEL_FILE, **options})

    def load(self, **options):
        return hf.load(self.path, self.model, **{"weights": smollm2.MODEL_FILE, **options})

    def assert_same_tensors(self, cache, pairs):
        self.assertIs(type(cache), DynamicCache)
        self.assertEqual(len(cache), len(pairs))
        for layer, (keys, values) in enumerate(pairs):
            for mine, wanted in ((cache.key_cache[layer], keys), (cache.value_cache[layer], values)):
                self.assertEqual((mine.dtype, mine.shape), (wanted.dtype, wanted.shape))
                self.assertTrue(torch.equal(mine, wanted))

    def test_legacy_tuples_come_back_bit_for_bit(self):
        self.assertIsInstance(self.legacy, tuple)
        self.save(self.legacy)
        cachecard.verify(self.path, decode=True)
        cache = self.load()
        self.assert_same_tensors(cache, self.legacy)
        self.assertEqual(cache.get_seq_length(), TOKENS)

    def test_object_caches_come_back_bit_for_bit(self):
        given = DynamicCache()
        self.model(self.ids, past_key_values=given, use_cache=True)
        self.save(given, compressor="split_zstd", chunk_tokens=64, threads=2)
        self.assert_same_tensors(self.load(threads=3), given.to_legacy_cache())

    def test_half_types_come_back_bit_for_bit(self):
        for dtype in (torch.float16, torch.bfloat16):
            with self.subTest(dtype):
                pairs = [(k.to(dtype), v.to(dtype)) for k, v in self.legacy]
                self.save(pairs)
                with cachecard.open(self.path) as card:
                    self.assertEqual(card.stream(0, "key").dtype, "f16" if dtype == torch.float16 else "bf16")
                self.assert_same_tensors(self.load(dtype=dtype), pairs)
                self.assert_same_tensors(self.load(), [(k.float(), v.float()) for k, v in pairs])

    def test_tensors_of_any_strides_are_saved(self):
        wide = [(torch.randn(1, TOKENS, 3, 128)[..., ::2].transpose(1, 2), v.clone().requires_grad_())
                for _, v in self.legacy]
        self.save(wide)
        self.assert_same_tensors(self.load(), wide)

    def test_generation_goes_on_as_from_the_original(self):
        self.save(self.legacy)
        expected = smollm2.generate(self.model, DynamicCache.from_legacy_cache(self.legacy), 42, 8)
        found = smollm2.generate(self.model, self.load(), 42, 8)
        self.assertEqual(found[0], expected[0])
        self.assertTrue(torch.equal(found[1], expected[1]))

    def test_planes_go_on_within_their_error(self):
        first = smollm2.generate(self.model, DynamicCache.from_legacy_cache(self.legacy), 42, 1)[1][0].log_softmax(-1)
        divergence = {}
        for bits in (8, (4, 3)):
            self.save(self.legacy, codec="planes", bits=bits)
            cachecard.verify(self.path, decode=True)
            found = smollm2.generate(self.model, self.load(), 42, 1)[1][0].log_softmax(-1)
            divergence[bits] = float((first.exp() * (first - found)).sum())
        self.assertLess(divergence[8], 1e-3)
        self.assertLess(divergence[4, 3], 0.1)
        with cachecard.open(self.path) as card:
            self.assertEqual(sorted(set(card.bit_widths(3, "key")[0].tolist())), [8, 64])

    def test_generation_goes_on_from_a_prefix(self):
        self.save(self.legacy)
        again = self.model(self.ids[:, 50:], past_key_values=self.load(token_count=50), use_cache=True)
        whole = self.model(self.ids, use_cache=True)
        self.assertLess((again.logits[0, -1] - whole.logits[0, -1]).abs().max(), 1e-3)

    def test_loads_into_a_given_cache_or_leaves_it(self):
        self.save(self.legacy)
        into = DynamicCache()
        self.model(self.ids[:, :7], past_key_values=into, use_cache=True)
        before = into.to_legacy_cache()
        with self.raises(errors.IdentityUnknownError, "weights_digest"):
            self.load(weights=None, into=into)
        self.assert_same_tensors(into, before)
        self.assertEqual(into.get_seq_length(), 7)
        self.assertIs(self.load(into=into), into)
        self.assert_same_tensors(into, self.legacy)

    def test_identity_is_that_of_the_weights_file(self):
        self.save(self.legacy)
        with cachecard.open(self.path) as card:
            identity = card.identity
            self.assertEqual(card.token_ids.tolist(), self.ids[0].tolist())
            table = card.rope_table(0)
        self.assertEqual((identity.architecture, identity.weights_quantization, identity.weights_container,
                          identity.rope_type, identity.rope_base), ("llama", "Q4_1", "gguf", "norm", 100000.0))
        self.assertEqual(len(identity.weights_digest), 16)
        self.assertEqual(len(identity.tokenizer_digest), 16)
        self.assertIn("transformers 4.46.3, torch 1.13", identity.producer)
        self.assertEqual(table.inverse_frequencies.tolist(),
                         self.model.model.rotary_emb.inv_freq.double().tolist())

    def test_without_the_weights_file_only_the_source_speaks(self):
        self.save(self.legacy, weights=None, source_id="org/smollm2")
        with self.raises(errors.IdentityUnknownError, "weights_digest"):
            self.load(weights=None, source_id="org/smollm2")
        self.assert_same_tensors(self.load(weights=None, source_id="org/smollm2",
                                           allow=["weights-unknown", "tokenizer-unknown"]), self.legacy)
        with cachecard.open(self.path) as card:
            self.assertNotIn(str(smollm2.MODEL_FILE.parent), str(card.inspect()))  # no path of this machine

    def test_adapters_are_not_overlooked(self):
        self.model.peft_config = {"default": object()}
        try:
            self.save(self.legacy)
            with cachecard.open(self.path) as card:
                self.assertIsNone(card.identity.adapters)
            with self.raises(errors.IdentityUnknownError, "adapters"):
                self.load()
        finally:
            del self.model.peft_config

    def test_tensors_on_no_device_are_refused(self):
        meta = [(k.to("meta"), v) for k, v in self.legacy]
        with self.raises(errors.DeviceError, "keys of layer 0", "meta"):
            self.save(meta)
        with self.raises(errors.DeviceError, "another device"):
            cachecard.write(self.path, {(0, "key"): OnGpu()})

    def test_batches_are_refused(self):
        with self.raises(errors.BatchSizeError, "batch of 2"):
            self.save([(torch.cat([k, k]), torch.cat([v, v])) for k, v in self.legacy])

    def test_caches_that_drop_tokens_are_refused_by_name(self):
        from transformers import SinkCache

        with self.raises(errors.PrunedCacheError, "SinkCache"):
            self.save(SinkCache(64, 4))


class OnGpu:
    def __dlpack_device__(self):
        return 2, 0


if __name__ == "__main__":
    package_test.main()
