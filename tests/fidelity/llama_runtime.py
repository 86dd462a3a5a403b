"""llama.cpp through llama-cpp-python's C API: read, save, put back, score. One model, one context, one sequence."""
import ctypes
import os

# Threads that wait by spinning crawl where the cores are shared (32 tokens: 41 s instead of 2 s).
os.environ.setdefault("GOMP_SPINCOUNT", "2000")

import llama_cpp  # noqa: E402  (reads the environment when it is loaded)
import llama_cpp.llama_cpp as api  # noqa: E402
import numpy as np  # noqa: E402
from fidelity_error import FOREIGN, INTERNAL, FidelityError  # noqa: E402

TYPE_IDS = {"f16": 1, "f32": 0, "q4_0": 2, "q8_0": 8}
BATCH_TOKENS = 512
FLASH_ON = 1  # quantised V needs it; V is then stored token by token
TURN_MARK = "the-context-ends-here"
_log = []


@api.llama_log_callback
def _keep_log(_level, text, _data):
    _log.append(text.decode("utf-8", "replace"))
    del _log[:-20]


def _why():
    return " ".join(line.strip() for line in _log[-3:])


def start_backend():
    """Once per process. What llama.cpp logs is kept for the error that follows it."""
    api.llama_log_set(_keep_log, ctypes.c_void_p(0))
    api.llama_backend_init()


def runtime_version():
    return f"llama-cpp-python {llama_cpp.__version__}, llama.cpp {api.llama_version().decode()}"


class Model:
    """Weights and vocabulary; use as a `with` block."""

    def __init__(self, path, vocab_only=False):
        params = api.llama_model_default_params()
        params.vocab_only = vocab_only
        self.path = path
        self.handle = api.llama_model_load_from_file(path.encode(), params)
        if not self.handle:
            raise FidelityError(FOREIGN, f"{path}: llama.cpp cannot load it ({_why()})")
        self.vocab = api.llama_model_get_vocab(self.handle)
        self.vocab_size = api.llama_vocab_n_tokens(self.vocab)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        api.llama_model_free(self.handle)

    @property
    def trained_context(self):
        return api.llama_model_n_ctx_train(self.handle)

    @property
    def layer_count(self):
        return api.llama_model_n_layer(self.handle)

    @property
    def kv_heads(self):
        return api.llama_model_n_head_kv(self.handle)

    def tokenize(self, text, start_of_text):
        """Token ids; control tokens written out in the text become themselves."""
        data = text.encode()
        room = len(data) + 16
        ids = (ctypes.c_int32 * room)()
        count = api.llama_tokenize(self.vocab, data, len(data), ids, room, start_of_text, True)
        if count < 0:
            raise FidelityError(INTERNAL, f"llama_tokenize wants {-count} tokens for {len(data)} bytes")
        return ids[:count]

    def piece(self, token):
        """The text of one token, as far as it is UTF-8."""
        buffer = ctypes.create_string_buffer(256)
        size = api.llama_token_to_piece(self.vocab, token, buffer, len(buffer), 0, True)
        return buffer.raw[:max(0, size)].decode("utf-8", "replace")

    def receiver_turn(self, system, user):
        """Ends the context's turn and asks, as the model's own template writes it, up to the answer."""
        template = api.llama_model_chat_template(self.handle, None) or b"chatml"
        turns = [("user", "."), ("assistant", TURN_MARK), ("system", system), ("user", user)]
        texts = [(role.encode(), content.encode()) for role, content in turns]
        messages = (api.llama_chat_message * len(texts))(*(api.llama_chat_message(*pair) for pair in texts))
        room = 4096 + 2 * sum(len(content) for _, content in texts)
        buffer = ctypes.create_string_buffer(room)
        size = api.llama_chat_apply_template(template, messages, len(texts), True, buffer, room)
        if not 0 <= size <= room:
            raise FidelityError(FOREIGN, f"{self.path}: llama.cpp does not know its chat template")
        return self.tokenize(buffer.raw[:size].decode().rpartition(TURN_MARK)[2], start_of_text=False)


class Runtime:
    """A context for one sequence; use as a `with` block. Sizes are in tokens."""

    def __init__(self, model, size, cache_type="f16", threads=1, tap=None):
        params = api.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch, params.n_seq_max = size, BATCH_TOKENS, BATCH_TOKENS, 1
        params.type_k = params.type_v = TYPE_IDS[cache_type]
        params.flash_attn_type = FLASH_ON
        params.n_threads = params.n_threads_batch = threads
        params.offload_kqv = False
        if tap is not None:
            tap.attach(params)
        self.model = model
        self.handle = api.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise FidelityError(INTERNAL, f"no context of {size} tokens with a {cache_type} cache ({_why()})")
        self.memory = api.llama_get_memory(self.handle)
        self.batch = api.llama_batch_init(BATCH_TOKENS, 0, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        api.llama_batch_free(self.batch)
        api.llama_free(self.handle)

    def clear(self):
        api.llama_memory_clear(self.memory, True)

    def forget_from(self, position):
        """The sequence as it was before `position`; later tokens take the same cells again."""
        if not api.llama_memory_seq_rm(self.memory, 0, position, -1):
            raise FidelityError(FOREIGN, "this model's cache cannot be cut: it is not plain attention")

    def decode(self, tokens, start, scored=0):
        """Reads tokens at `start`; logits of the last `scored` of them, [scored][vocabulary] in f32."""
        logits = np.empty((scored, self.model.vocab_size), dtype=np.float32)
        filled, first_scored = 0, len(tokens) - scored
        for begin in range(0, len(tokens), BATCH_TOKENS):
            part = tokens[begin:begin + BATCH_TOKENS]
            wanted = self._fill(part, start + begin, first_scored - begin)
            result = api.llama_decode(self.handle, self.batch)
            if result != 0:
                raise FidelityError(INTERNAL, f"llama_decode returned {result} ({_why()})")
            if wanted:
                address = api.llama_get_logits(self.handle)
                logits[filled:filled + wanted] = np.ctypeslib.as_array(address, (wanted, self.model.vocab_size))
                filled += wanted
        return logits

    def _fill(self, tokens, start, first_scored):
        batch = self.batch
        batch.n_tokens = len(tokens)
        wanted = 0
        for index, token in enumerate(tokens):
            batch.token[index], batch.pos[index] = token, start + index
            batch.n_seq_id[index] = 1
            batch.seq_id[index][0] = 0
            batch.logits[index] = int(index >= first_scored)
            wanted += index >= first_scored
        return wanted

    def greedy(self, prompt, start, count):
        """The answer to a prompt at `start`, exactly `count` tokens long."""
        answer = [int(self.decode(prompt, start, scored=1)[0].argmax())]
        while len(answer) < count:
            position = start + len(prompt) + len(answer) - 1
            answer.append(int(self.decode(answer[-1:], position, scored=1)[0].argmax()))
        return answer

    def save(self, path, tokens):
        """The sequence as a llama.cpp sequence file."""
        array = (ctypes.c_int32 * len(tokens))(*tokens)
        if not api.llama_state_seq_save_file(self.handle, path.encode(), 0, array, len(tokens)):
            raise FidelityError(INTERNAL, f"the state was not saved ({_why()})")

    def load(self, path, token_count):
        """Puts a sequence file into the empty context."""
        self.clear()
        tokens, count = (ctypes.c_int32 * token_count)(), ctypes.c_size_t()
        if not api.llama_state_seq_load_file(self.handle, path.encode(), 0, tokens, token_count, ctypes.byref(count)):
            raise FidelityError(INTERNAL, f"llama.cpp refuses the state ({_why()})")
        end = api.llama_memory_seq_pos_max(self.memory, 0) + 1
        if end != token_count:
            raise FidelityError(INTERNAL, f"the state put back ends at {end}, not at {token_count}")
