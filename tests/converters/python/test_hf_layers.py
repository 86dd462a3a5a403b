"""The layout of transformers 5 (cache.layers), held to without torch: numpy arrays stand in for tensors."""

import numpy as np
import numpy_caches as standin
import package_test

import cachecard
from cachecard import errors, hf

ALLOW = ["weights-unknown", "tokenizer-unknown"]
SOURCE = "test/standin"


class Layers(package_test.PackageTest):
    def save(self, config, tokens, **options):
        cache, given = standin.filled(config, self.random, tokens, options.pop("step", None))
        hf.save(cache, self.path, model=standin.model(config), input_ids=range(tokens), source_id=SOURCE, **options)
        return cache, given

    def load(self, config, **options):
        return hf.load(self.path, standin.model(config), source_id=SOURCE,
                       **{"allow": ALLOW, "into": standin.DynamicCache(config), **options})

    def assert_same_cache(self, left, right):
        self.assertEqual(len(left.layers), len(right.layers))
        for a, b in zip(left.layers, right.layers):
            self.assertIs(type(a), type(b))
            self.assert_same_bits(a.keys, b.keys)
            self.assert_same_bits(a.values, b.values)
            self.assertEqual(a.get_seq_length(), b.get_seq_length())

    def test_full_attention_comes_back(self):
        config = standin.config()
        cache, _ = self.save(config, 50, step=7)
        self.assert_same_cache(self.load(config), cache)

    def test_card_says_what_transformers_kept(self):
        config = standin.config()
        _, given = self.save(config, 50, text="fifty", positions=range(50))
        with cachecard.open(self.path) as card:
            for layer in range(3):
                self.assert_same_bits(card.read(layer, "key"), given[layer][0][0].transpose(1, 0, 2).copy())
                key = card.stream(layer, "key")
                self.assertEqual((key.rope_state, key.rope_pairing, key.window), ("post_rope", "half_split", 0))
            self.assertEqual(card.token_ids.tolist(), list(range(50)))
            self.assertEqual((card.facts.restorable, card.facts.next_position), ("any_prefix", 50))
            self.assertEqual(card.text, "fifty")
            identity = card.identity
            self.assertEqual((identity.architecture, identity.rope_type, identity.rope_base, identity.rope_scaling),
                             ("llama", "norm", 10000.0, "none"))
            self.assertEqual((identity.rope_dimension_count, identity.vocab_size, identity.adapters,
                              identity.source_id), (16, 100, "none", SOURCE))
            self.assertIsNone(identity.weights_digest)
            table = card.rope_table(0)
            self.assertEqual((table.pairing, table.magnitude, table.rotated_offset), ("half_split", 1.0, 0))
            expected = 10000.0 ** (-np.arange(0, 16, 2) / 16)
            self.assertTrue(np.allclose(table.inverse_frequencies, expected, rtol=1e-6))

    def test_sliding_layers_keep_their_absolute_positions(self):
        config = standin.sliding_config(window=16)
        for tokens in (5, 15, 16, 17, 60):
            for step in (None, 1):
                with self.subTest(tokens=tokens, step=step):
                    cache, given = self.save(config, tokens, step=step)
                    with cachecard.open(self.path) as card:
                        held = min(tokens, 15)
                        stream = card.stream(0, "key")
                        self.assertEqual((stream.window, stream.first_token, stream.token_count),
                                         (16, tokens - held, held))
                        self.assertEqual(card.facts.restorable, "from_count")
                        self.assertIsNone(card.rope_table(0))  # two sets of frequencies
                        self.assert_same_bits(card.read(0, "key"),
                                              given[0][0][0, :, tokens - held:].transpose(1, 0, 2).copy())
                    loaded = self.load(config)
                    self.assert_same_cache(loaded, cache)
                    more = self.values(1, 2, 3, 16)
                    for layer in range(3):
                        for one in (cache, loaded):
                            one.update(more, more, layer)
                    self.assert_same_cache(loaded, cache)

    def test_a_prefix_can_be_loaded(self):
        config = standin.config()
        _, given = self.save(config, 50)
        loaded = self.load(config, token_count=20)
        for layer, (keys, values) in zip(loaded.layers, given):
            self.assert_same_bits(layer.keys, keys[:, :, :20].copy())
            self.assert_same_bits(layer.values, values[:, :, :20].copy())
        config = standin.sliding_config()
        self.save(config, 60)
        with self.raises(errors.NotRestorableError, "50 of 60"):
            self.load(config, token_count=50)

    def test_loads_into_a_cache_that_has_no_layers_yet(self):
        config = standin.config()
        cache, _ = self.save(config, 10)
        lazy = standin.DynamicCache(config)
        lazy.layers, lazy.layer_class_to_replicate = [], standin.DynamicLayer
        self.assert_same_cache(self.load(config, into=lazy), cache)

    def test_what_a_given_cache_held_is_replaced(self):
        config = standin.sliding_config()
        cache, _ = self.save(config, 30)
        into, _ = standin.filled(config, self.random, 44)
        self.assertIs(self.load(config, into=into), into)
        self.assert_same_cache(into, cache)

    def test_a_failed_load_leaves_the_cache_as_it_was(self):
        config = standin.config()
        self.save(config, 30)
        data = bytearray(self.path.read_bytes())
        into, given = standin.filled(config, self.random, 44)
        layers = list(into.layers)

        def fails(kind, **options):
            with self.assertRaises(kind):
                self.load(config, into=into, **options)
            self.assertTrue(all(a is b for a, b in zip(into.layers, layers)))
            for layer, (keys, values) in zip(into.layers, given):
                self.assert_same_bits(layer.keys, keys)
                self.assert_same_bits(layer.values, values)

        fails(errors.IdentityUnknownError, allow=[])
        with cachecard.open(bytes(data)) as card:
            last = data.rfind(card.read_rows(2, "value")[5].tobytes())
        data[last] ^= 1
        self.path.write_bytes(data)
        fails(errors.ChecksumMismatchError)
        self.path.write_bytes(data[:-64])
        fails(errors.TruncatedError)

        def broken(keys, values):
            raise MemoryError("of the runtime")

        self.save(config, 30)
        into.layers[2].lazy_initialization = broken
        fails(MemoryError)

    def test_every_float_type_is_taken_and_given(self):
        config = standin.config()
        cache, given = standin.filled(config, self.random, 12, dtype=np.float16)
        hf.save(cache, self.path, model=standin.model(config), input_ids=range(12), source_id=SOURCE)
        self.assert_same_bits(self.load(config, dtype="f16").layers[1].keys, given[1][0])
        widened = self.load(config).layers[1].keys
        self.assert_same_bits(widened, given[1][0].astype(np.float32))
        for layer in cache.layers:
            layer.keys = layer.values = self.values(1, 2, 12, 16, dtype=np.uint16)
        hf.save(cache, self.path, model=standin.model(config), input_ids=range(12), source_id=SOURCE)
        with cachecard.open(self.path) as card:
            self.assertEqual(card.stream(0, "key").dtype, "bf16")
        self.assert_same_bits(self.load(config, dtype="bf16").layers[0].keys.view(np.uint16), cache.layers[0].keys)

    def test_pairs_and_triples_are_caches_too(self):
        config = standin.config()
        cache, _ = standin.filled(config, self.random, 12)
        pairs = tuple((layer.keys, layer.values) for layer in cache.layers)
        cards = []
        for source in (cache, pairs, list(pairs), [(k, v, None) for k, v in pairs]):
            hf.save(source, self.path, model=standin.model(config), input_ids=[list(range(12))])
            cards.append(self.path.read_bytes())
        self.assertEqual(len(set(cards)), 1)

    def test_keys_of_the_other_pairing_are_turned_round(self):
        config = standin.config(head_dim=20, rope_parameters={"rope_type": "default", "rope_theta": 10000.0,
                                                              "partial_rotary_factor": 0.8})
        _, given = self.save(config, 9)
        self.check_interleaved(config, given, [0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15, 16, 17, 18, 19])

    def check_interleaved(self, config, given, order):
        """The same keys as llama.cpp keeps them: pair i at channels 2i and 2i + 1."""
        with cachecard.open(self.path) as card:
            identity, table = card.identity, card.rope_table(0)
        writer = cachecard.Writer(layer_count=3)
        for layer, (keys, values) in enumerate(given):
            writer.add_stream(layer, "key", keys[0].transpose(1, 0, 2)[:, :, order], rope_state="post_rope",
                              rope_pairing="interleaved")
            writer.add_stream(layer, "value", values[0].transpose(1, 0, 2))
        writer.set_tokens(range(9))
        writer.identity = identity
        writer.rope_table = cachecard.RopeTable(table.inverse_frequencies, "interleaved")
        writer.write(self.path)
        for layer, (keys, values) in zip(self.load(config).layers, given):
            self.assert_same_bits(np.ascontiguousarray(layer.keys), keys)
            self.assert_same_bits(layer.values, values)

    def test_layers_without_rotation_are_marked(self):
        config = standin.config(model_type="smollm3", no_rope_layers=[1, 0, 1])
        cache, _ = self.save(config, 9)
        with cachecard.open(self.path) as card:
            states = [card.stream(layer, "key").rope_state for layer in range(3)]
        self.assertEqual(states, ["post_rope", "none", "post_rope"])
        self.assert_same_cache(self.load(config), cache)


if __name__ == "__main__":
    package_test.main()
