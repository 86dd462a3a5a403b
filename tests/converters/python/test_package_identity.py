"""Identity as a typed mapping, and its match by the library's own rules."""

import json
import subprocess

import package_test
from package_test import CLI, FIXTURES

import cachecard
from cachecard import errors
from cachecard._hf_model import MODELS
from cachecard._model_file import read_model_file, rope_type

MODEL = FIXTURES / "caches" / "models" / "tiny_llama.gguf"
BASE = {"architecture": "llama", "weights_digest": b"w" * 16, "source_id": "a/b", "weights_quantization": "Q4_1",
        "adapters": "none", "tokenizer_digest": b"t" * 16, "rope_type": "norm", "rope_base": 10000.0,
        "rope_dimension_count": 64, "rope_scaling": "none"}


class Identity(package_test.PackageTest):
    def test_is_a_mapping_and_has_attributes(self):
        identity = cachecard.Identity(BASE)
        self.assertEqual((identity["architecture"], identity.architecture), ("llama", "llama"))
        self.assertIsNone(identity.vocab_size)
        identity.vocab_size = 5
        identity.rope_base = 500000
        self.assertEqual((identity["vocab_size"], identity["rope_base"]), (5, 500000.0))
        self.assertIs(type(identity.rope_base), float)
        identity.vocab_size = None
        self.assertNotIn("vocab_size", identity)
        other = identity.copy()
        del other["adapters"]
        self.assertIn("adapters", identity)

    def test_wrong_names_and_types_are_refused(self):
        identity = cachecard.Identity()
        for name, value in (("arch", "llama"), ("architecture", 1), ("vocab_size", "5"), ("vocab_size", -1),
                            ("vocab_size", True), ("weights_digest", b"short"), ("rope_base", "10000")):
            with self.subTest(name), self.assertRaises(errors.InvalidArgumentError):
                identity[name] = value
        self.assertEqual(len(identity), 0)

    def test_every_field_of_a_card_comes_back(self):
        with cachecard.open(FIXTURES / "valid" / "identity_every_field.card") as card:
            identity = card.identity
        self.assertEqual(set(identity), set(cachecard.Identity.FIELDS))
        values = {(0, "key"): self.values(2, 1, 8)}
        cachecard.write(self.path, values, identity=identity)
        with cachecard.open(self.path) as card:
            self.assertEqual(card.identity, identity)
        with cachecard.open(FIXTURES / "valid" / "identity_unknown_field.card") as card:
            unknown = [name for name in card.identity if name.startswith("field_")]
            self.assertTrue(unknown)
            cachecard.write(self.path, values, identity=card.identity)
            with cachecard.open(self.path) as copy:
                self.assertEqual(copy.identity, card.identity)

    def match(self, changes, allow=()):
        cachecard.write(self.path, {(0, "key"): self.values(2, 1, 8)}, identity=BASE)
        with cachecard.open(self.path) as card:
            return card.match({k: v for k, v in {**BASE, **changes}.items() if v is not None}, allow=allow)

    def test_match_gives_a_verdict_for_each_field(self):
        verdicts = {v.field: v.verdict for v in self.match({"template_digest": b"x" * 16})}
        self.assertEqual((verdicts["architecture"], verdicts["template_digest"], verdicts["vocab_size"]),
                         ("equal", "compatible", "compatible"))

    def test_match_refuses_by_class_and_field(self):
        with self.raises(errors.ModelMismatchError, "rope_base") as raised:
            self.match({"rope_base": 500000.0})
        self.assertEqual(raised.error.field, "identity.rope_base")
        self.assertEqual({v.field for v in raised.error.verdicts if v.verdict == "different"}, {"rope_base"})
        with self.raises(errors.IdentityUnknownError, "tokenizer_digest"):
            self.match({"tokenizer_digest": None})

    def test_overrides_lift_one_verdict_each_by_name(self):
        other = {"weights_digest": b"o" * 16, "weights_quantization": "F16"}
        with self.raises(errors.ModelMismatchError, "weights_digest") as raised:
            self.match(other)
        verdict = next(v for v in raised.error.verdicts if v.field == "weights_digest")
        self.assertEqual((verdict.verdict, verdict.override), ("compatible_with_loss", "weights-quantization"))
        verdicts = self.match(other, allow=["weights-quantization"])
        self.assertTrue(next(v for v in verdicts if v.field == "weights_digest").overridden)
        with self.raises(errors.ModelMismatchError):
            self.match(other, allow=["weights-unknown", "weights-container"])
        with self.raises(errors.InvalidArgumentError, "everything"):
            self.match({}, allow=["everything"])

    def test_a_model_file_is_read_as_the_command_reads_it(self):
        made = self.folder / "made.card"
        subprocess.run([CLI, "convert", FIXTURES / "caches" / "llama_f16.seq", made, "--model", MODEL, "-q"], check=True)
        shown = json.loads(subprocess.run([CLI, "inspect", made, "--json"], capture_output=True, check=True).stdout)
        file = read_model_file(MODEL)
        self.assertEqual({k: v.hex() if isinstance(v, bytes) else v for k, v in file.identity.items()},
                         shown["identity"])
        self.assertEqual([(s.kv_head_count, s.key_head_dim, s.value_head_dim, s.rotated) for s in file.layers],
                         [(2, 64, 64, True)] * 2)
        with self.raises(errors.ForeignInputError):
            read_model_file(made)
        with self.raises(errors.CardIOError):
            read_model_file(self.folder / "none.gguf")

    def test_rope_types_are_llama_cpps(self):
        known = {name: rope_type(name) for name in ("llama", "qwen2", "gemma3", "phi3", "glm4", "nothing")}
        self.assertEqual(known, {"llama": "norm", "qwen2": "neox", "gemma3": "neox", "phi3": "neox", "glm4": "norm",
                                 "nothing": None})
        for architecture, _pairing in MODELS.values():
            self.assertIsNotNone(rope_type(architecture), architecture)

    def test_digest_is_xxh3(self):
        self.assertEqual(cachecard.digest128(b"").hex(), "99aa06d3014798d86001c324468d497f")


if __name__ == "__main__":
    package_test.main()
