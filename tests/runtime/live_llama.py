"""A live llama.cpp context through llama-cpp-python's C API, as small as the tests need it.

The low-level API only: the high-level `Llama` class hides sequences, cache types and state files.
"""
import ctypes
from contextlib import contextmanager

import llama_cpp.llama_cpp as api

TYPE_IDS = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "iq4_nl": 20}
PARTIAL_ONLY = 1
LOG = []


@api.llama_log_callback
def _keep_log(level, text, _):
    LOG.append(text.decode("utf-8", "replace"))


def start_backend():
    """Once per process; llama.cpp's log goes to LOG, where an error looks for its reason."""
    api.llama_log_set(_keep_log, ctypes.c_void_p(0))
    api.llama_backend_init()


class Context:
    """One model and one context; use as a `with` block. All sizes are in tokens."""

    def __init__(self, model_path, type_k="f16", type_v="f16", flash=True, ctx=256, sequences=1, unified=False):
        self.model = api.llama_model_load_from_file(model_path.encode(), api.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"cannot load {model_path}: {''.join(LOG[-5:])}")
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = ctx, 256, 256
        params.n_seq_max, params.kv_unified = sequences, unified
        params.type_k, params.type_v = TYPE_IDS[type_k], TYPE_IDS[type_v]
        params.flash_attn_type = 1 if flash else 0
        params.n_threads = params.n_threads_batch = 1
        params.offload_kqv = False
        self.context = api.llama_init_from_model(self.model, params)
        if not self.context:
            raise RuntimeError(f"no context for {model_path}: {''.join(LOG[-5:])}")
        self.memory = api.llama_get_memory(self.context)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        api.llama_free(self.context)
        api.llama_model_free(self.model)

    def decode(self, tokens, sequence=0, start=0):
        with batch_of(len(tokens), 0) as batch:
            for index, token in enumerate(tokens):
                batch.token[index] = token
                batch.pos[index] = start + index
                fill(batch, index, sequence)
            self._run(batch)

    def decode_image(self, rows, columns, start, width, sequence=0):
        """An image as a vision tower would hand it over: embeddings at (t, y, x) positions."""
        count = rows * columns
        positions = (ctypes.c_int32 * (4 * count))()
        with batch_of(count, width) as batch:
            own_positions = ctypes.cast(batch.pos, ctypes.c_void_p).value  # an address: the field object follows the field
            batch.pos = ctypes.cast(positions, type(batch.pos))
            for index in range(count):
                row, column = divmod(index, columns)
                for axis, value in enumerate((start, start + row, start + column, 0)):
                    positions[axis * count + index] = value
                for channel in range(width):
                    batch.embd[index * width + channel] = ((index * 31 + channel * 17) % 64 - 32) / 32.0
                fill(batch, index, sequence)
            try:
                self._run(batch)
            finally:
                batch.pos = ctypes.cast(own_positions, type(batch.pos))

    def _run(self, batch):
        result = api.llama_decode(self.context, batch)
        if result != 0:
            raise RuntimeError(f"llama_decode returned {result}: {''.join(LOG[-3:])}")

    def remove(self, sequence, first, end):
        return api.llama_memory_seq_rm(self.memory, sequence, first, end)

    def copy(self, source, target):
        api.llama_memory_seq_cp(self.memory, source, target, -1, -1)

    def sequence_memory(self, sequence=0, flags=0):
        """Container D."""
        size = api.llama_state_seq_get_size_ext(self.context, sequence, flags)
        buffer = (ctypes.c_uint8 * size)()
        written = api.llama_state_seq_get_data_ext(self.context, buffer, size, sequence, flags)
        return checked(buffer, written)

    def whole_context(self):
        """Container B."""
        size = api.llama_state_get_size(self.context)
        buffer = (ctypes.c_uint8 * size)()
        return checked(buffer, api.llama_state_get_data(self.context, buffer, size))

    def save_sequence(self, path, tokens, sequence=0):
        """Container C."""
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if not api.llama_state_seq_save_file(self.context, path.encode(), sequence, array, len(tokens)):
            raise RuntimeError(f"sequence file not written: {''.join(LOG[-3:])}")

    def save_session(self, path, tokens):
        """Container A."""
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if not api.llama_state_save_file(self.context, path.encode(), array, len(tokens)):
            raise RuntimeError(f"session file not written: {''.join(LOG[-3:])}")

    def load_sequence(self, path, sequence=0):
        """The token list, after a restore that llama.cpp accepted; None if it refused."""
        tokens, count = (ctypes.c_int32 * 4096)(), ctypes.c_size_t()
        read = api.llama_state_seq_load_file(self.context, path.encode(), sequence, tokens, 4096, ctypes.byref(count))
        return list(tokens[:count.value]) if read else None


@contextmanager
def batch_of(count, width):
    batch = api.llama_batch_init(count, width, 1)
    batch.n_tokens = count
    try:
        yield batch
    finally:
        api.llama_batch_free(batch)


def fill(batch, index, sequence):
    batch.n_seq_id[index] = 1
    batch.seq_id[index][0] = sequence
    batch.logits[index] = int(index == batch.n_tokens - 1)


def checked(buffer, written):
    if written != len(buffer):
        raise RuntimeError(f"state is {written} bytes, {len(buffer)} were announced: {''.join(LOG[-3:])}")
    return bytes(buffer)
