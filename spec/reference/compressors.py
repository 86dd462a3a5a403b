"""CODECS.md#byte-compressors."""
import zstandard

class Broken(Exception):
    """The stored bytes do not decompress into the size that was said."""

def unzstd(data, size):
    """All frames, one after the other. The input goes in by small steps, so that what comes out is bounded (4 bytes can stand
    for 128 KiB) and no size that zstd's own header states is trusted."""
    out, at, step = bytearray(), 0, 256
    while at < len(data):
        frame = zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()
        while not frame.eof:
            if at >= len(data) or len(out) > size:
                raise Broken
            out += frame.decompress(data[at:at + step])
            at = min(at + step, len(data))
        at -= len(frame.unused_data)
    if len(out) != size:
        raise Broken
    return bytes(out)

def unsplit(data, element_bytes):
    count = len(data) // element_bytes
    out = bytearray(len(data))
    for k in range(element_bytes):
        out[k::element_bytes] = data[k * count:(k + 1) * count]
    return bytes(out)

def undo(compressor, stored, decoded_size, element_bytes):
    if compressor == 0:
        return stored
    try:
        data = unzstd(bytes(stored), decoded_size)
    except zstandard.ZstdError:
        raise Broken from None
    return unsplit(data, element_bytes) if compressor == 2 else data
