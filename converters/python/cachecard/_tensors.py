"""Tensors of torch and arrays of numpy under the same few names; torch is imported only where it is met."""

from __future__ import annotations

import sys
from typing import Any, List, Optional, Tuple

import numpy as np
from numpy.typing import NDArray

from . import _dtypes
from .errors import CacheShapeError, DeviceError

_TORCH_NAMES = {"torch.float32": _dtypes.F32, "torch.float16": _dtypes.F16, "torch.bfloat16": _dtypes.BF16}


def is_torch(value: Any) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def is_tensor(value: Any) -> bool:
    return isinstance(value, np.ndarray) or is_torch(value)


def dtype_number(tensor: Any) -> Optional[int]:
    """f32, f16 or bf16; None for any other."""
    if is_torch(tensor):
        return _TORCH_NAMES.get(str(tensor.dtype))
    try:
        return _dtypes.float_number(tensor.dtype)
    except ValueError:
        return None


def device_name(tensor: Any) -> str:
    return str(tensor.device) if is_torch(tensor) else "cpu"


def to_numpy(tensor: Any) -> NDArray[Any]:
    """A CPU tensor as an array over the same memory; bf16 as its bits in uint16."""
    if not is_torch(tensor):
        return np.asarray(tensor)
    tensor = tensor.detach()
    if str(tensor.dtype) == "torch.bfloat16":
        bits: NDArray[Any] = tensor.view(sys.modules["torch"].int16).numpy()
        return bits.view(np.uint16)
    array: NDArray[Any] = tensor.numpy()
    return array


def whole_numbers(values: Any) -> NDArray[Any]:
    """Ids or positions, given as a list, array or tensor of any device: [token]; [1, token] is taken too."""
    array = to_numpy(values.cpu()) if is_torch(values) else np.asarray(values)
    return array[0] if array.ndim == 2 and array.shape[0] == 1 else array


class TensorRows:
    """A cache's tensor[1, head, token, channel] as rows for the writer. A GPU's is copied once, when it is its turn."""

    def __init__(self, tensor: Any) -> None:
        _, heads, tokens, channels = tensor.shape
        self.shape = (int(tokens), int(heads), int(channels))
        number = dtype_number(tensor)
        if number is None:
            raise CacheShapeError(f"the cache is of {tensor.dtype}; a card holds f32, f16 or bf16")
        self.dtype = _dtypes.NAMES[number]
        self._tensor = tensor
        self._on_cpu: Optional[NDArray[Any]] = None

    def rows(self, first: int, count: int) -> NDArray[Any]:
        array = self._on_cpu
        if array is None:
            tensor = self._tensor[0]
            array = to_numpy(tensor.cpu() if is_torch(tensor) else tensor)
            self._on_cpu = array if device_name(self._tensor) != "cpu" else None
        if first + count >= self.shape[0]:
            self._on_cpu = None
        return array[:, first:first + count].transpose(1, 0, 2)


class Stage:
    """Where a stream is decoded before anything of the target is touched: [1, head, token, channel] on the CPU."""

    def __init__(self, torch: Optional[Any], shape: Tuple[int, int, int], dtype: int) -> None:
        tokens, heads, channels = shape
        whole = (1, heads, tokens, channels)
        self.dtype, self.size = dtype, 4 if dtype == _dtypes.F32 else 2
        if torch is not None:
            kinds = {_dtypes.F32: torch.float32, _dtypes.F16: torch.float16, _dtypes.BF16: torch.bfloat16}
            self.tensor: Any = torch.empty(whole, dtype=kinds[dtype])
            self.pointer = int(self.tensor.data_ptr())
        else:
            self.tensor = np.empty(whole, _dtypes.numpy_dtype(dtype))
            self.pointer = int(self.tensor.ctypes.data)
        self.strides = (channels * self.size, tokens * channels * self.size, self.size)

    def move(self, device: Optional[Any]) -> Any:
        if device is None or not is_torch(self.tensor):
            return self.tensor
        return self.tensor.to(device)


def model_devices(model: Any, modules: List[Any]) -> List[Optional[Any]]:
    """The device of each attention layer; None where there is no torch."""
    devices: List[Optional[Any]] = []
    for module in modules:
        parameter = next(iter(module.parameters()), None)
        device = getattr(parameter, "device", None)
        if device is not None and device.type == "meta":
            raise DeviceError("the model lies on no device (meta): load its weights first")
        devices.append(device)
    if not devices and getattr(getattr(model, "device", None), "type", None) == "meta":
        raise DeviceError("the model lies on no device (meta): load its weights first")
    return devices
