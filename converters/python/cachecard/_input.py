"""Where a card comes from: a path, or bytes."""

from __future__ import annotations

import os
from typing import Any, Optional, Tuple, Union

import numpy as np
from numpy.typing import NDArray

from ._library import OpenOptions, Threads, encode_path

Path = Union[str, "os.PathLike[str]"]
Buffer = Union[bytes, bytearray, memoryview, NDArray[Any]]


class Input:
    """A path, or bytes that stay where they are for as long as this object lives."""

    def __init__(self, source: Union[Path, Buffer]) -> None:
        self.path: Optional[bytes] = None
        self.kept: Optional[NDArray[np.uint8]] = None
        if isinstance(source, (bytes, bytearray, memoryview, np.ndarray)):
            size = source.nbytes if isinstance(source, (memoryview, np.ndarray)) else len(source)
            self.kept = np.frombuffer(source, dtype=np.uint8) if size else np.zeros(0, np.uint8)
        else:
            self.path = encode_path(source)

    def arguments(self) -> Tuple[Any, ...]:
        if self.kept is None:
            return (self.path,)
        return self.kept.ctypes.data, self.kept.nbytes


def open_options(threads: Threads, mmap: bool) -> OpenOptions:
    return OpenOptions(flags=1 if mmap else 0, parallel=threads.struct)
