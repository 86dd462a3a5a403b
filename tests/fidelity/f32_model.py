"""The F32 copy of a GGUF, made once and kept under the name of the file's digest.

With quantised weights llama.cpp rounds activations to 8 bits, and any change of the cache costs
about 0.003 nats: nothing finer can be told apart. With F32 weights the floor is near 1e-6.
"""
import hashlib
import os

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize

from fidelity_error import FOREIGN, IO, FidelityError

COPY_VERSION = 1  # part of the name: a copy made otherwise is another file
WRITTEN_BY_WRITER = ("GGUF.version", "GGUF.tensor_count", "GGUF.kv_count", "general.architecture", "general.alignment")
ALL_F32 = 0


def file_digest(path):
    """SHA-256 of the whole file, in hex."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def f32_copy(model_path, digest, folder):
    """Path of the copy; makes it if it is not there yet. Left whole or not at all."""
    path = os.path.join(folder, f"f32-{digest[:24]}-v{COPY_VERSION}.gguf")
    if os.path.exists(path):
        return path
    part = f"{path}.{os.getpid()}.part"
    try:
        os.makedirs(folder, exist_ok=True)
        _write_copy(_reader(model_path), part)
        os.replace(part, path)
    except OSError as error:
        raise FidelityError(IO, f"no F32 copy of the model in {folder}: {error.strerror}") from error
    finally:
        if os.path.exists(part):
            os.unlink(part)
    return path


def _reader(model_path):
    try:
        return GGUFReader(model_path)
    except (ValueError, IndexError, KeyError) as error:
        raise FidelityError(FOREIGN, f"{model_path}: not a GGUF file that gguf-py reads ({error})") from error


def _write_copy(reader, path):
    writer = GGUFWriter(path, str(reader.fields["general.architecture"].contents()), use_temp_file=False)
    for name, field in reader.fields.items():
        if name in WRITTEN_BY_WRITER:
            continue
        value = ALL_F32 if name == "general.file_type" else field.contents()
        kind = field.types[0]
        writer.add_key_value(name, value, kind, sub_type=field.types[-1] if kind == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        shape = [int(n) for n in reversed(tensor.shape)]
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), int(np.prod(shape)) * 4)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in reader.tensors:  # one at a time: the copy is seven times the file
            values = dequantize(tensor.data, tensor.tensor_type)
            writer.write_tensor_data(np.ascontiguousarray(values, dtype=np.float32).reshape(tensor.shape[::-1]))
    finally:
        writer.close()
