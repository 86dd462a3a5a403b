"""tools/examples/plot_card.py draws what is in the file."""

import importlib.util
import pathlib
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "cli"))

import h5py  # noqa: E402
import numpy  # noqa: E402
from cli_runner import CACHES, CommandTest, main  # noqa: E402

EXAMPLE = HERE.parents[1] / "tools" / "examples" / "plot_card.py"


def example():
    spec = importlib.util.spec_from_file_location("plot_card", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Plot(CommandTest):
    def picture(self, *arguments):
        done = subprocess.run([sys.executable, "-B", EXAMPLE, "made.h5", *arguments, "-o", "made.png"], cwd=self.folder,
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        self.assertTrue((self.folder / "made.png").read_bytes().startswith(b"\x89PNG"))

    def test_the_map_of_a_card_with_mixed_widths(self):
        (self.folder / "map.txt").write_text("0:1,exact,exact\n1:3,6,4\n3:100,2,1\n")
        tokens = self.json("inspect", self.card())["token_count"]
        (self.folder / "map.txt").write_text(f"0:1,exact,exact\n1:3,6,4\n3:{tokens},2,1\n")
        card = self.card("llama_f16.seq", "--codec", "planes", "--map", "map.txt")
        self.expect(0, "convert", card, "made.h5", "-q")
        module = example()
        with h5py.File(self.folder / "made.h5") as file:
            for layer in module.layers_with(file, "key"):
                for stream, wanted in (("key", (16, 6, 6, 2)), ("value", (16, 4, 4, 1))):
                    bits = module.bits_of(file, layer, stream)
                    numpy.testing.assert_array_equal(bits, [*wanted[:3], *[wanted[3]] * (tokens - 3)])
            figure = module.plot(file, 1, "value")
            values = file["layers/01/value/values"][()]
            drawn = figure.axes[0].images[0].get_array()
            numpy.testing.assert_array_equal(drawn, values.reshape(len(values), -1).T)
            self.assertEqual(len(figure.axes[2].lines), values.shape[1])
        self.picture("1", "value")

    def test_windows_blocks_and_latents(self):
        for state, model, stream in (("server_gemma3_f16.slot", "gemma3", "key"), ("llama_q8_0.seq", "llama", "value"),
                                     ("server_deepseek2_f16.slot", "deepseek2", "latent")):
            with self.subTest(state):
                self.expect(0, "convert", CACHES / state, "made.card", "--model", CACHES / "models" / f"tiny_{model}.gguf",
                            "-q", "--rotated", "yes")
                self.expect(0, "convert", "made.card", "made.h5", "-q")
                with h5py.File(self.folder / "made.h5") as file:
                    stream = stream if stream in file["layers/00"] else "key"
                    bits = example().bits_of(file, 0, stream)
                    group = file[f"layers/00/{stream}"].attrs
                    held = slice(int(group["first_token"]), int(group["first_token"] + group["token_count"]))
                    self.assertTrue(numpy.isfinite(bits[held]).all())
                    self.assertEqual(int(numpy.isfinite(bits).sum()), int(group["token_count"]))
                self.picture("0", stream)


if __name__ == "__main__":
    main()
