"""Caches as GGUF files, read and written by gguf-py, and by the command."""

import pathlib
import sys

import gguf
import numpy

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "cli"))
from cli_runner import CACHES, MODEL, FIXTURES, CommandTest, main  # noqa: E402


def value_of(reader, key):
    return reader.get_field(key).contents()


class Gguf(CommandTest):
    def made(self, state="llama_f16.seq", *flags):
        card = self.card(state, *flags)
        self.expect(0, "convert", card, "cache.gguf", "-q")
        return card, gguf.GGUFReader(self.folder / "cache.gguf")

    def test_gguf_py_reads_keys_and_tensors(self):
        card, reader = self.made()
        self.assertEqual(value_of(reader, "general.type"), "kv-cache")
        self.assertEqual(value_of(reader, "general.architecture"), "llama")
        facts = self.json("inspect", card, "--tokens", "--streams")
        self.assertEqual(value_of(reader, "kv_cache.token_ids"), facts["token_ids"])
        self.assertEqual(value_of(reader, "kv_cache.positions"), list(range(len(facts["token_ids"]))))
        self.assertEqual(value_of(reader, "kv_cache.stream.layer"), [0, 0, 1, 1])
        self.assertEqual(value_of(reader, "kv_cache.rope.pairing"), 1)
        self.assertEqual(value_of(reader, "kv_cache.identity.architecture"), "llama")
        tensors = {tensor.name: tensor for tensor in reader.tensors}
        self.assertLessEqual({"cache_k_l0", "cache_v_l0", "cache_k_l1", "cache_v_l1"}, set(tensors))
        self.assertEqual(tensors["cache_k_l0"].tensor_type, gguf.GGMLQuantizationType.F16)

    def test_values_are_those_of_the_state(self):
        _, reader = self.made()
        state = (CACHES / "llama_f16.seq").read_bytes()
        for tensor in reader.tensors:
            if tensor.name.startswith("cache_k"):
                self.assertIn(tensor.data.tobytes(), state, tensor.name)

    def test_cards_come_back_with_their_root(self):
        for state, *flags in (("llama_f16.seq",), ("llama_q8_0.seq", "--rotated", "yes"), ("llama_q4_0.seq", "--rotated", "yes"),
                              ("llama_iq4_nl.seq", "--rotated", "yes"), ("llama_q8_0.seq", "--rotated", "yes", "--zstd=7"),
                              ("llama_q8_0.seq", "--rotated", "no", "--span-major", "--chunk-tokens", "2"),
                              ("llama_f16_no_tokens.seq",), ("llama_f16_hole.seq",)):
            with self.subTest(state=state, flags=flags):
                card, _ = self.made(state, *flags)
                self.expect(0, "convert", "cache.gguf", "again.card", "-q")
                self.assertEqual((self.folder / "again.card").read_bytes(), card.read_bytes())

    def test_a_pipe_takes_and_gives_them(self):
        card = self.card("llama_q8_0.seq", "--rotated", "yes")
        piped = self.expect(0, "convert", "-", "-", "--to", "gguf", "-q", stdin=card.read_bytes()).stdout
        self.assertEqual(self.expect(0, "convert", "-", "-", "-q", stdin=piped).stdout, card.read_bytes())

    def test_quantised_values_are_dequantised_alike(self):
        card = self.card("llama_q8_0.seq", "--rotated", "no")
        self.expect(0, "convert", card, "q8.gguf", "-q")
        self.expect(0, "convert", card, "f32.gguf", "-q", "--dtype", "f32")
        whole = {t.name: t for t in gguf.GGUFReader(self.folder / "f32.gguf").tensors}
        for tensor in gguf.GGUFReader(self.folder / "q8.gguf").tensors:
            if tensor.name.startswith("cache_k"):
                numpy.testing.assert_array_equal(gguf.quants.dequantize(tensor.data, tensor.tensor_type),
                                                 whole[tensor.name].data)

    def test_a_lossy_card_is_decoded(self):
        card = self.card("llama_f16.seq", "--codec", "planes", "--bits", "8")
        said = self.expect(0, "convert", card, "cache.gguf").stderr.decode()
        self.assertIn("lossy", said)
        self.expect(0, "convert", "cache.gguf", "again.card", "-q")
        report = self.json("diff", card, "again.card")
        self.assertEqual(report["different_chunks"], 0)

    def test_a_cache_that_gguf_py_wrote(self):
        """Nothing of CacheCard's own in it: the convention is enough to write one."""
        _, reader = self.made("llama_q8_0.seq", "--rotated", "yes")
        writer = gguf.GGUFWriter(self.folder / "other.gguf", "llama")
        for name, field in reader.fields.items():
            if name.startswith(("GGUF.", "cachecard.")) or name == "general.architecture":
                continue
            kind = field.types[0]
            writer.add_key_value(name, field.contents(), kind, sub_type=field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None)
        for tensor in reader.tensors:
            if tensor.name.startswith("cache_"):
                writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        self.expect(0, "convert", "other.gguf", "other.card", "-q")
        self.expect(0, "verify", "other.card", "--decode", "-q")
        report = self.json("diff", "made.card", "other.card")
        self.assertEqual(report["different_chunks"], 0)
        self.assertEqual(report["identity"], [])

    def test_bad_input_is_refused_in_one_line(self):
        self.made()
        whole = (self.folder / "cache.gguf").read_bytes()
        (self.folder / "out.card").write_text("precious")
        for cut in range(1, len(whole), 509):
            (self.folder / "cut.gguf").write_bytes(whole[:cut])
            self.assertIn(self.run_command("convert", "cut.gguf", "out.card").returncode, (4, 5), cut)
        self.assertIn("general.type", self.expect(4, "convert", MODEL, "out.card").stderr.decode())
        self.expect(2, "convert", "cache.gguf", "out.card", "--model", MODEL)
        self.expect(2, "convert", "cache.gguf", "out.card", "--tokens", "ids")
        self.expect(2, "convert", "made.card", "out.gguf", "--layout", "10/3")
        self.assertEqual((self.folder / "out.card").read_text(), "precious")

    def test_every_card_of_the_fixtures_is_read_by_gguf_py(self):
        for card in sorted((FIXTURES / "valid").glob("*.card")):
            with self.subTest(card=card.name):
                self.expect(0, "convert", card, "cache.gguf", "-q")
                reader = gguf.GGUFReader(self.folder / "cache.gguf")
                self.assertEqual(value_of(reader, "general.type"), "kv-cache")


if __name__ == "__main__":
    main()
