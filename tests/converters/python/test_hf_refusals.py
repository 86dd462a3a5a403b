"""What save() and load() refuse, each by its own class and with the reason; no file and no cache is touched."""

from types import SimpleNamespace

import numpy as np
import numpy_caches as standin
import package_test

import cachecard
from cachecard import errors, hf

ALLOW = ["weights-unknown", "tokenizer-unknown"]


def named(name, base=object, **attributes):
    """An object of a class of that name, as transformers has it."""
    return type(name, (base,), attributes)()


class RefuseToSave(package_test.PackageTest):
    def refuses(self, kind, *words, cache=None, config=None, tokens=8, ids=None, **options):
        config = config or standin.config()
        if cache is None:
            cache, _ = standin.filled(config, self.random, tokens)
        self.path.write_bytes(b"before")
        with self.raises(kind, *words) as raised:
            hf.save(cache, self.path, model=standin.model(config), input_ids=range(tokens) if ids is None else ids,
                    **options)
        self.assertEqual((self.path.read_bytes(), self.files()), (b"before", ["a.card"]))
        return raised.error

    def layers(self, **changes):
        cache, _ = standin.filled(standin.config(), self.random, 8)
        for name, change in changes.items():
            setattr(cache.layers[1], name, change(getattr(cache.layers[1], name, None)))
        return cache

    def test_more_than_one_sequence(self):
        twice = self.layers(keys=lambda keys: np.concatenate([keys, keys]))
        error = self.refuses(errors.BatchSizeError, "batch of 2", "layer 1", cache=twice)
        self.assertIsInstance(error, errors.InvalidArgumentError)
        self.refuses(errors.InvalidArgumentError, "input_ids", ids=np.zeros((2, 8), int))

    def test_another_shape_or_type(self):
        self.refuses(errors.CacheShapeError, "2 heads of 15", cache=self.layers(keys=lambda k: k[..., :15]))
        self.refuses(errors.CacheShapeError, "1 heads", cache=self.layers(values=lambda v: v[:, :1]))
        self.refuses(errors.CacheShapeError, "[1, head, token, channel]", cache=self.layers(keys=lambda k: k[0]))
        error = self.refuses(errors.CacheShapeError, "float64",
                             cache=self.layers(keys=lambda k: k.astype(np.float64)))
        self.assertEqual((error.code, error.name), (51, "geometry_mismatch"))
        deeper = standin.config(num_hidden_layers=4)
        self.refuses(errors.CacheShapeError, "3 layers, the model caches 4", config=deeper, cache=self.layers())

    def test_another_length(self):
        self.refuses(errors.CacheLengthError, "layer 0 holds 8 tokens", "9 ids", ids=range(9))
        self.refuses(errors.CacheLengthError, "8 tokens", "7 ids", ids=range(7))
        self.refuses(errors.CacheLengthError, "holds nothing", cache=standin.DynamicCache(standin.config()))
        sliding = standin.sliding_config()
        cache, _ = standin.filled(sliding, self.random, 40)
        self.refuses(errors.CacheLengthError, "seen 40 tokens", "39 ids", config=sliding, cache=cache, ids=range(39))

    def test_pruned_caches_by_name(self):
        pruned = self.layers(keys=lambda k: k[:, :, ::2], values=lambda v: v[:, :, ::2])
        self.refuses(errors.PrunedCacheError, "between 4 and 8 tokens", "pruned", cache=pruned)
        old = [self.values(1, 2, 5, 16)] * 3
        self.refuses(errors.PrunedCacheError, "has seen 8 tokens and holds 5",
                     cache=named("DynamicCache", key_cache=old, value_cache=old, _seen_tokens=8))
        self.refuses(errors.PrunedCacheError, "SinkCache", cache=named("SinkCache", key_cache=old, value_cache=old))

    def test_quantised_caches_by_name(self):
        quantised = self.layers(_quantized_keys=lambda _: object())
        self.refuses(errors.QuantizedCacheError, "DynamicCache, layer 1", "quantised", cache=quantised)
        layer = named("QuantoQuantizedLayer", keys=None, values=None)
        self.refuses(errors.QuantizedCacheError, "QuantoQuantizedLayer", cache=SimpleNamespace(layers=[layer]))
        old = named("HQQQuantizedCache", named("QuantizedCache").__class__, key_cache=[], value_cache=[])
        self.refuses(errors.QuantizedCacheError, "HQQQuantizedCache", cache=old)

    def test_other_kinds_by_name(self):
        self.refuses(errors.UnsupportedCacheError, "StaticLayer", "in full", cache=SimpleNamespace(
            layers=[named("StaticLayer", keys=None, values=None, max_cache_len=64)]))
        self.refuses(errors.UnsupportedCacheError, "LinearAttentionLayer", "recurrent", cache=SimpleNamespace(
            layers=[named("LinearAttentionLayer", recurrent_states=None)]))
        self.refuses(errors.UnsupportedCacheError, "HybridCache",
                     cache=named("HybridCache", key_cache=[], value_cache=[]))
        self.refuses(errors.UnsupportedCacheError, "encoder-decoder",
                     cache=named("EncoderDecoderCache", self_attention_cache=None))
        self.refuses(errors.UnsupportedCacheError, "MambaCache", cache=named("MambaCache", conv_states=None))
        self.refuses(errors.UnsupportedCacheError, "no pair", cache=[(1, 2, 3, 4)])
        self.refuses(errors.InvalidArgumentError, "dict", cache={})
        self.refuses(errors.CacheShapeError, "no tensor", cache=[(1, 2)] * 3)

    def test_models_whose_rope_is_not_known(self):
        error = self.refuses(errors.UnknownRopeError, "gpt_unknown",
                             config=standin.config(model_type="gpt_unknown"))
        self.assertEqual(error.code, 53)
        for kind in ("dynamic", "longrope", "mystery"):
            self.refuses(errors.UnknownRopeError, repr(kind), "than the position", config=standin.config(
                rope_parameters={"rope_type": kind, "rope_theta": 10000.0, "factor": 2.0}))
        self.refuses(errors.UnknownRopeError, "M-RoPE", config=standin.config(
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [16, 24, 24]}))
        self.refuses(errors.UnknownRopeError, "no rope_theta", config=standin.config(rope_parameters=None))

    def test_models_that_no_card_holds(self):
        self.refuses(errors.UnsupportedCacheError, "MLA", config=standin.config(kv_lora_rank=512))
        self.refuses(errors.UnsupportedCacheError, "encoder-decoder", config=standin.config(is_encoder_decoder=True))

    def test_weights_of_another_model(self):
        weights = package_test.FIXTURES / "caches" / "models" / "tiny_llama.gguf"
        self.refuses(errors.ModelMismatchError, "vocab_size", "259", weights=weights)
        same = standin.config(vocab_size=259, head_dim=64)
        self.refuses(errors.ModelMismatchError, "layers", config=same, weights=weights)
        heads = standin.config(vocab_size=259, head_dim=64, num_hidden_layers=2, num_key_value_heads=4)
        self.refuses(errors.ModelMismatchError, "KV heads", config=heads, weights=weights)
        self.refuses(errors.CardIOError, "open", weights=self.folder / "none.gguf")
        (self.folder / "a.card").rename(self.folder / "no.gguf")
        with self.raises(errors.ForeignInputError):
            hf.model_identity(standin.model(same), weights=self.folder / "no.gguf")


class RefuseToLoad(package_test.PackageTest):
    def setUp(self):
        super().setUp()
        self.config = standin.config()
        self.cache, _ = standin.filled(self.config, self.random, 20)
        hf.save(self.cache, self.path, model=standin.model(self.config), input_ids=range(20), source_id="a/b")

    def refuses(self, kind, *words, config=None, **options):
        config = config or self.config
        into = options.pop("into", None) or standin.DynamicCache(config)
        layers = getattr(into, "layers", None)
        with self.raises(kind, *words) as raised:
            hf.load(self.path, standin.model(config), into=into, **{"allow": ALLOW, "source_id": "a/b", **options})
        self.assertIs(getattr(into, "layers", None), layers)
        return raised.error

    def rewrite(self, change=None, **facts):
        """The card again, with a change to its writer."""
        writer = cachecard.Writer(layer_count=3, **facts)
        with cachecard.open(self.path) as card:
            writer.identity = card.identity
            for stream in card.streams:
                writer.add_stream(stream.layer, stream.stream, card.read(stream.layer, stream.stream),
                                  rope_state=stream.rope_state, rope_pairing=stream.rope_pairing)
        writer.set_tokens(range(20))
        if change:
            change(writer)
        writer.write(self.path)

    def test_identity_refuses_until_overridden_by_name(self):
        self.refuses(errors.IdentityUnknownError, "weights_digest", allow=[])
        self.refuses(errors.IdentityUnknownError, "tokenizer_digest", allow=["weights-unknown"])
        self.refuses(errors.IdentityUnknownError, "weights_digest", source_id=None)
        self.refuses(errors.IdentityUnknownError, "weights_digest", source_id="else/where")
        self.refuses(errors.ModelMismatchError, "adapters", adapters="style@1")
        self.refuses(errors.InvalidArgumentError, "force", allow=["force"])
        self.refuses(errors.ModelMismatchError, "vocab_size", config=standin.config(vocab_size=101))
        self.refuses(errors.ModelMismatchError, "rope_base", config=standin.config(
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0}))
        self.refuses(errors.ModelMismatchError, "architecture", config=standin.config(model_type="qwen2"))

    def test_another_geometry(self):
        self.refuses(errors.GeometryMismatchError, "3 layers", "has 4", config=standin.config(num_hidden_layers=4))
        error = self.refuses(errors.CacheShapeError, "2 heads of 16", "4 of 16",
                             config=standin.config(num_key_value_heads=4))
        self.assertEqual(error.field, "stream.kv_head_count")

    def test_a_context_too_small(self):
        self.refuses(errors.ContextTooSmallError, "20 tokens", "context 19",
                     config=standin.config(max_position_embeddings=19))

    def test_cards_that_are_no_prefix(self):
        self.rewrite(not_a_prefix=True)
        self.refuses(errors.PartialCardError, "not a prefix")
        self.rewrite(partial_layers=True)
        self.refuses(errors.PartialCardError, "lacks layers")

    def test_positions_that_transformers_would_not_give(self):
        self.rewrite(lambda writer: writer.set_tokens(range(20), np.arange(20) + 5))
        self.refuses(errors.PositionMismatchError, "0, 1, 2")

    def test_values_that_are_not_finite(self):
        for value in (np.nan, np.inf):
            self.cache.layers[2].values[0, 1, 7, 3] = value
            hf.save(self.cache, self.path, model=standin.model(self.config), input_ids=range(20), source_id="a/b")
            self.refuses(errors.NonFiniteError, "value of layer 2, token 7")
            loaded = hf.load(self.path, standin.model(self.config), into=standin.DynamicCache(self.config), allow=ALLOW,
                             source_id="a/b", allow_nonfinite=True)
            self.assert_same_bits(loaded.layers[2].values, self.cache.layers[2].values)
        self.cache.layers[2].values[0, 1, 7, 3] = 1e6
        hf.save(self.cache, self.path, model=standin.model(self.config), input_ids=range(20), source_id="a/b")
        self.refuses(errors.NonFiniteError, "infinite as f16", dtype="f16")

    def test_other_frequencies(self):
        def change(writer):
            numbers = 10000.0 ** (-np.arange(0, 16, 2) / 16)
            writer.rope_table = cachecard.RopeTable(numbers * 1.001, "half_split")

        self.rewrite(change)
        self.refuses(errors.ModelMismatchError, "layer 0", "frequencies")

    def test_prefixes_that_do_not_exist(self):
        self.refuses(errors.InvalidArgumentError, "holds 20 tokens", token_count=21)
        self.rewrite(restorable="whole_only")
        self.refuses(errors.NotRestorableError, "19 of 20", token_count=19)

    def test_targets_of_another_kind(self):
        self.refuses(errors.UnsupportedCacheError, "SimpleNamespace", into=SimpleNamespace(a=1))
        static = SimpleNamespace(layers=[named("StaticLayer", max_cache_len=64)] * 3)
        self.refuses(errors.UnsupportedCacheError, "StaticLayer", into=static)
        two = standin.DynamicCache(standin.config(num_hidden_layers=2))
        self.refuses(errors.CacheShapeError, "has 2 layers", into=two)

    def test_damage_before_anything_is_made(self):
        data = bytearray(self.path.read_bytes())
        for size in (0, 63, 1000, len(data) - 1):
            self.path.write_bytes(data[:size])
            with self.assertRaises(errors.DamagedError):
                hf.load(self.path, standin.model(self.config), into=standin.DynamicCache(self.config))


if __name__ == "__main__":
    package_test.main()
