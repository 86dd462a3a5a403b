"""What the sender's last queries look at, seen while llama.cpp reads the context: token weights by layer and KV head."""
import ctypes
import os
import re
import signal

import llama_cpp
import llama_cpp.llama_cpp as api
import numpy as np

LAST = 64        # queries that count
SINKS = 4        # first tokens, which all look at whatever they hold
QUERY = re.compile(rb"Qcur-(\d+)$")
_BASE = ctypes.CDLL(os.path.join(os.path.dirname(llama_cpp.__file__), "lib", "libggml-base.so"))
for _name, _result in (("ggml_get_name", ctypes.c_char_p), ("ggml_op_desc", ctypes.c_char_p), ("ggml_nbytes", ctypes.c_size_t)):
    getattr(_BASE, _name).restype = _result
    getattr(_BASE, _name).argtypes = [ctypes.c_void_p]
_BASE.ggml_backend_tensor_get.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t]
_BASE.ggml_backend_tensor_get.restype = None


class QueryTap:
    """Keeps the last queries of each layer, after rotary embedding, of what a context decodes while `open`."""

    def __init__(self):
        self.open = False
        self.raised, self._handlers = None, {}
        self.queries = {}  # layer: [token][query head x channel]
        self._callback = api.ggml_backend_sched_eval_callback(self._see)

    def attach(self, params):
        params.cb_eval = self._callback
        params.cb_eval_user_data = None

    def start(self):
        """Nothing can be raised through a callback: signals wait for stop()."""
        self.open, self.queries, self.raised = True, {}, None
        self._handlers = {number: signal.signal(number, self._keep_signal) for number in (signal.SIGINT, signal.SIGTERM)
                          if signal.getsignal(number) not in (signal.SIG_IGN, None)}

    def _keep_signal(self, number, frame):
        self.raised = (number, frame)

    def stop(self):
        self.open = False
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.raised is not None and callable(self._handlers[self.raised[0]]):
            self._handlers[self.raised[0]](*self.raised)

    def _see(self, tensor, is_question, _user):
        if not self.open:
            return not is_question
        found = QUERY.match(_BASE.ggml_get_name(tensor))
        wanted = bool(found) and _BASE.ggml_op_desc(tensor) == b"ROPE"
        if is_question:
            return wanted
        if wanted:
            rows = np.empty(_BASE.ggml_nbytes(tensor) // 4, dtype=np.float32)
            _BASE.ggml_backend_tensor_get(tensor, rows.ctypes.data, 0, rows.nbytes)
            self._keep(int(found[1]), rows)
        return True

    def _keep(self, layer, rows):
        self.queries.setdefault(layer, []).append(rows)

    def last(self, layer, token_count):
        """[token][channel] of the last queries."""
        whole = np.concatenate(self.queries[layer]).reshape(token_count, -1)
        return whole[-LAST:]


def attention_weights(queries, keys, kv_heads):
    """[kv_head][token]: sqrt of the sum of attention squared over the last queries and the heads of a group.

    queries: [query][head x channel], keys: [token][kv_head x channel], both after rotary embedding; the queries are
    those of the last tokens. Sinks count the mean; the newest tokens, which few of the queries see, twice the mean.
    """
    token_count, count = len(keys), len(queries)
    head_dim = keys.shape[1] // kv_heads
    group = queries.shape[1] // keys.shape[1]
    seen = np.arange(token_count)[None] <= np.arange(token_count - count, token_count)[:, None]
    sums = np.zeros((kv_heads, token_count))
    for head in range(kv_heads * group):
        kv_head = head // group
        query = queries[:, head * head_dim:(head + 1) * head_dim].astype(np.float32)
        logits = query @ keys[:, kv_head * head_dim:(kv_head + 1) * head_dim].astype(np.float32).T / np.sqrt(head_dim)
        logits = np.where(seen, logits, -np.inf)
        shares = np.exp(logits - logits.max(axis=1, keepdims=True))
        sums[kv_head] += np.square(shares / shares.sum(axis=1, keepdims=True)).sum(axis=0)
    mean = sums[:, SINKS:token_count - count].mean(axis=1, keepdims=True)
    sums[:, token_count - count:] = 2 * mean
    sums[:, :SINKS] = mean
    return np.sqrt(sums)
