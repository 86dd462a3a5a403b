"""A llama.cpp sequence state file as arrays, and back: plain attention, one stream, V token by token.

What is not values (tokens, cells, positions) stays as it is, so a disturbed cache differs from the
exact one in its values and in nothing else.
"""
import struct
from dataclasses import dataclass

import numpy as np

from fidelity_error import FOREIGN, FidelityError

SEQUENCE_MAGIC = 0x67677371
VERSION_WITH_ROTATION = {3: False, 4: True}  # layouts 10/3 and 11/4
F16 = 1
TENSOR_HEADER_BYTES = 12


@dataclass
class Tensor:
    """Rows of one layer's K or V in the file."""
    offset: int
    row_bytes: int


class SequenceState:
    """Keys and values are lists by layer of [cell][channel]."""

    def __init__(self, data):
        self.data = bytes(data)
        self.at = 0
        self._read_header()
        try:
            self.keys = [self._read_tensor() for _ in range(self.layer_count)]
            self.values = [self._read_tensor() for _ in range(self.layer_count)]
        except struct.error as error:
            raise self._not_plain("it ends early") from error
        if self.at != len(self.data):
            raise self._not_plain(f"{len(self.data) - self.at} bytes follow its values")

    def _take(self, code):
        values = struct.unpack_from("<" + code, self.data, self.at)
        self.at += struct.calcsize("<" + code)
        return values[0]

    def _not_plain(self, why):
        return FidelityError(FOREIGN, f"the model's cache is not plain attention in f16: {why}")

    def _read_header(self):
        magic, version, token_count = self._take("I"), self._take("I"), self._take("I")
        if magic != SEQUENCE_MAGIC or version not in VERSION_WITH_ROTATION:
            raise self._not_plain(f"magic {magic:#x}, version {version}")
        self.at += 4 * token_count
        streams, self.cell_count = self._take("I"), self._take("I")
        if streams != 1 or self.cell_count != token_count:
            raise self._not_plain(f"{streams} streams, {self.cell_count} cells for {token_count} tokens")
        for index in range(self.cell_count):
            position, ids, sequence = (self._take("i") for _ in range(3))
            if (position, ids, sequence) != (index, 1, 0):
                raise self._not_plain(f"cell {index} is of another kind")
        transposed, self.layer_count = self._take("I"), self._take("I")
        if transposed:
            raise self._not_plain("V is stored channel by channel")
        if VERSION_WITH_ROTATION[version]:
            self.at += 8

    def _read_tensor(self):
        kind, row_bytes = self._take("i"), self._take("Q")
        if kind != F16 or row_bytes % 2:
            raise self._not_plain(f"a tensor of type {kind}")
        tensor = Tensor(self.at, row_bytes)
        self.at += row_bytes * self.cell_count
        return tensor

    @property
    def value_count(self):
        return sum(tensor.row_bytes // 2 for tensor in self.keys + self.values) * self.cell_count

    @property
    def frame_bytes(self):
        """Everything that is not a value."""
        return len(self.data) - 2 * self.value_count

    def f16(self, tensor):
        """[cell][channel], a view that cannot be written to."""
        count = tensor.row_bytes // 2 * self.cell_count
        return np.frombuffer(self.data, "<f2", count, tensor.offset).reshape(self.cell_count, -1)

    def with_values(self, keys, values):
        """The file with other values in the same places."""
        out = bytearray(self.data)
        for tensor, rows in zip(self.keys + self.values, [*keys, *values], strict=True):
            content = np.ascontiguousarray(rows, dtype="<f2").tobytes()
            if len(content) != tensor.row_bytes * self.cell_count:
                raise ValueError(f"{len(content)} bytes for a tensor of {tensor.row_bytes * self.cell_count}")
            out[tensor.offset:tensor.offset + len(content)] = content
        return bytes(out)
