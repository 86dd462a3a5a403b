"""cachecard.hf with torch 2.x and transformers 5.x on a GPU: one file, no network, a log of a few lines.

    python3 tests/device/check_hf_cuda.py                      builds the package here (g++, cmake, libzstd-dev,
                                                               libxxhash-dev, libhwy-dev)
    python3 tests/device/check_hf_cuda.py --wheel FILE.whl     takes one that was built elsewhere
    ... --device cpu                                           the same checks without a GPU
    ... --large                                                also times a card of Llama-3.1-8B's shape, 8,192 tokens

Models are small, random and made from their configs: what counts is that a loaded cache is the saved one bit for bit
and that generation goes on from it equally. Exit code 0: all held.
"""

import argparse
import copy
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
import types

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOURCE = {"source_id": "test/random", "allow": ["weights-unknown", "tokenizer-unknown"]}
SEED = 20261124


def install(wheel, folder):
    what = [wheel] if wheel else ["--no-build-isolation", str(ROOT)]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                    "--disable-pip-version-check", "--target", folder, *what], check=True)
    sys.path.insert(0, folder)


class Checks:
    """One log line a check; a check that raises is counted and does not stop the others."""

    def __init__(self, device, folder):
        self.device, self.path, self.failed = device, pathlib.Path(folder) / "a.card", 0

    def run(self, name, check):
        started = time.perf_counter()
        try:
            detail = check() or ""
            print(f"ok      {name} {detail} ({time.perf_counter() - started:.2f} s)", flush=True)
        except Exception:
            self.failed += 1
            print(f"FAILED  {name}\n{traceback.format_exc()}", flush=True)

    # ---- what the checks share ----

    def model(self, kind, config):
        torch.manual_seed(SEED)
        return kind(config).to(self.device).eval()

    def ids(self, count):
        numbers = torch.arange(count, device=self.device)
        return ((numbers * 7919 + numbers // 5) % 997 + 1)[None]

    def fill(self, model, ids, step=None):
        cache = DynamicCache(config=model.config)
        for first in range(0, ids.shape[1], step or ids.shape[1]):
            model(ids[:, first:first + (step or ids.shape[1])], past_key_values=cache, use_cache=True)
        return cache

    def save(self, cache, model, ids, **options):
        return hf.save(cache, self.path, model=model, input_ids=ids, source_id=SOURCE["source_id"], **options)

    def load(self, model, **options):
        return hf.load(self.path, model, **{**SOURCE, **options})

    def generate(self, model, cache, count=24):
        token, logits = torch.tensor([[5]], device=self.device), []
        for _ in range(count):
            outputs = model(token, past_key_values=cache, use_cache=True)
            token = outputs.logits[:, -1].argmax(-1, keepdim=True)
            logits.append(outputs.logits[0, -1])
        return torch.stack(logits)

    def same(self, mine, wanted):
        assert type(mine) is type(wanted), (type(mine), type(wanted))
        assert len(mine.layers) == len(wanted.layers)
        for index, (a, b) in enumerate(zip(mine.layers, wanted.layers)):
            assert type(a) is type(b), (index, a, b)
            for what in ("keys", "values"):
                x, y = getattr(a, what), getattr(b, what)
                assert (x.dtype, x.device, x.shape) == (y.dtype, y.device, y.shape), (index, what, x.shape, y.shape)
                assert torch.equal(x, y), f"layer {index} {what} differ"
            assert a.get_seq_length() == b.get_seq_length(), (index, a.get_seq_length(), b.get_seq_length())

    def raises(self, kind, call):
        try:
            call()
        except kind as error:
            assert type(error) is kind, type(error)
            return str(error)
        raise AssertionError(f"no {kind.__name__}")

    # ---- the checks ----

    def round_trip(self, model, tokens, step=None):
        ids = self.ids(tokens)
        cache = self.fill(model, ids, step)
        report = self.save(cache, model, ids)
        cachecard.verify(self.path, decode=True)
        loaded = self.load(model)
        self.same(loaded, cache)
        expected = self.generate(model, copy.deepcopy(cache))
        found = self.generate(model, loaded)
        assert torch.equal(found, expected), f"logits differ by {(found - expected).abs().max()}"
        return f"{tokens} tokens, {len(cache.layers)} layers, {report.file_size} bytes, logits equal"

    def prefix(self, model):
        ids = self.ids(300)
        cache = self.fill(model, ids)
        self.save(cache, model, ids)
        loaded = self.load(model, token_count=200)
        for mine, whole in zip(loaded.layers, cache.layers):
            assert torch.equal(mine.keys, whole.keys[:, :, :200]) and mine.get_seq_length() == 200
        found = model(ids[:, 200:], past_key_values=loaded, use_cache=True).logits[0, -1].float()
        wanted = model(ids, use_cache=False).logits[0, -1].float()
        difference = float((found - wanted).norm() / wanted.norm())
        assert difference < 0.05, difference
        return f"last logits differ by {difference:.1e}"

    def pairs(self, model):
        ids = self.ids(100)
        cache = self.fill(model, ids)
        roots = {self.save(source, model, ids).root
                 for source in (cache, list(cache), [(layer.keys, layer.values) for layer in cache.layers])}
        assert len(roots) == 1

    def given_cache(self, model):
        ids = self.ids(120)
        cache = self.fill(model, ids)
        self.save(cache, model, ids)
        into = self.fill(model, self.ids(50))
        before, layers = copy.deepcopy(into), into.layers
        self.raises(errors.IdentityUnknownError, lambda: self.load(model, into=into, allow=[]))
        data = bytearray(self.path.read_bytes())
        data[len(data) // 2] ^= 1
        self.path.write_bytes(data)
        self.raises(errors.ChecksumMismatchError, lambda: self.load(model, into=into))
        assert into.layers is layers
        self.same(into, before)
        data[len(data) // 2] ^= 1
        self.path.write_bytes(data)
        assert self.load(model, into=into) is into
        self.same(into, cache)

    def planes(self, model):
        ids = self.ids(300)
        cache = self.fill(model, ids)
        wanted = self.generate(model, copy.deepcopy(cache), 1)[0].float().log_softmax(-1)
        self.save(cache, model, ids, codec="planes", bits=8)
        found = self.generate(model, self.load(model), 1)[0].float().log_softmax(-1)
        divergence = float((wanted.exp() * (wanted - found)).sum())
        assert divergence < 0.01, divergence
        return f"8 bits, KL {divergence:.1e}"

    def refusals(self, model):
        ids = self.ids(20)
        static = StaticCache(config=model.config, max_cache_len=64)
        model(ids, past_key_values=static, use_cache=True)
        self.raises(errors.UnsupportedCacheError, lambda: self.save(static, model, ids))
        both = DynamicCache(config=model.config)
        model(ids.repeat(2, 1), past_key_values=both, use_cache=True)
        self.raises(errors.BatchSizeError, lambda: self.save(both, model, ids))
        cache = self.fill(model, ids)
        self.raises(errors.CacheLengthError, lambda: self.save(cache, model, self.ids(21)))
        cropped = copy.deepcopy(cache)
        cropped.crop(-5)
        self.save(cropped, model, ids[:, :15])

    def attention(self, model):
        ids = self.ids(200)
        cache = DynamicCache(config=model.config)
        with hf.record_attention(model, last=32) as record:
            model(ids[:, :150], past_key_values=cache, use_cache=True)
            model(ids[:, 150:], past_key_values=cache, use_cache=True)
        implementation = model.config._attn_implementation
        model.set_attn_implementation("eager")
        eager = model(ids, use_cache=False, output_attentions=True).attentions
        model.set_attn_implementation(implementation)
        heads, worst = model.config.num_key_value_heads, 0.0
        for mine, theirs in zip(record.weights(cache), eager):
            tail = theirs[0, :, -32:].float().reshape(heads, -1, 32, ids.shape[1])
            worst = max(worst, float((torch.tensor(mine) - tail.pow(2).sum((1, 2)).sqrt().cpu()).abs().max()))
        assert worst < 1e-3, worst
        return f"under {implementation}, against eager: {worst:.1e}"

    def large(self):
        config = LlamaConfig(hidden_size=4096, intermediate_size=64, num_hidden_layers=32, num_attention_heads=32,
                             num_key_value_heads=8, vocab_size=1000, max_position_embeddings=16384)
        shell = types.SimpleNamespace(config=config)  # only its geometry is needed
        tensors = [tuple(torch.randn(1, 8, 8192, 128, device=self.device, dtype=torch.bfloat16) for _ in range(2))
                   for _ in range(32)]
        times = {}
        for threads in (1, 8):
            started = time.perf_counter()
            report = self.save(tensors, shell, range(8192), sync=False, threads=threads)
            times["save", threads] = time.perf_counter() - started
            for _ in range(2):
                started = time.perf_counter()
                loaded = self.load(shell, threads=threads, dtype="bf16", device=self.device)
                synchronize(self.device)
                times["load", threads] = time.perf_counter() - started
        for layer, (keys, values) in zip(loaded.layers, tensors):
            assert torch.equal(layer.keys, keys) and torch.equal(layer.values, values)
        return f"{report.file_size / 1e6:.0f} MB; " + ", ".join(
            f"{what} {seconds:.2f} s with {threads} threads" for (what, threads), seconds in times.items())


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--wheel")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--large", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cachecard-device-") as folder:
        install(arguments.wheel, folder + "/site")
        imports()
        device = torch.device(arguments.device)
        name = torch.cuda.get_device_name(0) if device.type == "cuda" else "CPU"
        print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}, cachecard "
              f"{cachecard.__version__}, seed {SEED}")
        checks = Checks(device, folder)
        run_all(checks, arguments.large)
    print("all held" if not checks.failed else f"{checks.failed} failed")
    return 1 if checks.failed else 0


def imports():
    """Into this module: the package under test exists only now."""
    global torch, transformers, cachecard, errors, hf
    global DynamicCache, StaticCache, LlamaConfig, LlamaForCausalLM, Gemma3TextConfig, Gemma3ForCausalLM
    global Qwen3Config, Qwen3ForCausalLM
    import torch
    import transformers
    from transformers import (DynamicCache, Gemma3ForCausalLM, Gemma3TextConfig, LlamaConfig, LlamaForCausalLM,
                              Qwen3Config, Qwen3ForCausalLM, StaticCache)

    import cachecard
    from cachecard import errors, hf

    torch.set_grad_enabled(False)


def run_all(checks, large):
    sizes = {"vocab_size": 1000, "hidden_size": 512, "intermediate_size": 1024, "num_hidden_layers": 6,
             "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 4096}
    llama = checks.model(LlamaForCausalLM, LlamaConfig(**sizes))
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        model = llama.to(dtype)
        model.model.rotary_emb.float()
        checks.run(f"llama {str(dtype)[6:]}", lambda: checks.round_trip(model, 2500))
    checks.run("llama bfloat16, token by token", lambda: checks.round_trip(llama, 60, step=1))
    checks.run("prefix of the tokens", lambda: checks.prefix(llama))
    checks.run("pairs and triples", lambda: checks.pairs(llama))
    checks.run("into a given cache, or not at all", lambda: checks.given_cache(llama))
    checks.run("planes", lambda: checks.planes(llama))
    checks.run("refusals", lambda: checks.refusals(llama))
    gemma = checks.model(Gemma3ForCausalLM, Gemma3TextConfig(
        **sizes, sliding_window=128, query_pre_attn_scalar=64,
        layer_types=["sliding_attention"] * 5 + ["full_attention"])).to(torch.bfloat16)
    for tokens, step in ((100, None), (127, None), (128, None), (1000, None), (200, 1)):
        checks.run(f"gemma3 with a window of 128, step {step}", lambda: checks.round_trip(gemma, tokens, step))
    checks.run("attention, llama", lambda: checks.attention(checks.model(LlamaForCausalLM, LlamaConfig(**sizes))))
    checks.run("attention, qwen3", lambda: checks.attention(checks.model(Qwen3ForCausalLM, Qwen3Config(**sizes))))
    if large:
        checks.run("Llama-3.1-8B's shape", checks.large)


if __name__ == "__main__":
    sys.exit(main())
