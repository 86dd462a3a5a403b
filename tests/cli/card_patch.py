"""Writes a number into a fixed record of a card and makes the record's own check right again."""

import struct

_SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364")
_MASK = (1 << 64) - 1

# (offset, format) of fields; spec: FORMAT.md, the tables of prologue and frame_header.
PROLOGUE_SIZE, FRAME_SIZE, TRAILER_SIZE = 64, 128, 64
PROLOGUE = {"format_major": (8, "<H"), "header_size": (12, "<I"), "required_features": (16, "<Q")}
FRAME = {"section_type": (0, "<H"), "codec": (13, "<B"), "dtype": (15, "<B"),
         "stored_size": (32, "<Q"), "stored_digest": (48, "<Q"), "digest_size": (80, "<Q"), "reserved": (88, "<Q")}


def _mix(data, offset, secret_offset):
    low, high = struct.unpack_from("<QQ", data, offset)
    secret_low, secret_high = struct.unpack_from("<QQ", _SECRET, secret_offset)
    product = (low ^ secret_low) * (high ^ secret_high)
    return (product & _MASK) ^ (product >> 64)


def xxh3_64(data):
    """XXH3-64 of 17 to 128 bytes: all that checks of fixed records need."""
    size = len(data)
    assert 17 <= size <= 128
    total = size * 0x9E3779B185EBCA87
    for step in range((size - 1) // 32, -1, -1):
        total += _mix(data, 16 * step, 32 * step) + _mix(data, size - 16 * (step + 1), 32 * step + 16)
    total &= _MASK
    total = ((total ^ (total >> 37)) * 0x165667919E3779F9) & _MASK
    return total ^ (total >> 32)


def _write(card, start, record_size, place, value):
    offset, form = place
    out = bytearray(card)
    struct.pack_into(form, out, start + offset, value)
    body = bytes(out[start:start + record_size - 4])
    struct.pack_into("<I", out, start + record_size - 4, xxh3_64(body) & 0xFFFFFFFF)
    return bytes(out)


def patch_prologue(card, field, value):
    return _write(card, 0, PROLOGUE_SIZE, PROLOGUE[field], value)


def patch_frame(card, offset, field, value):
    """offset: of the frame header, as `inspect --sections` prints it."""
    return _write(card, offset, FRAME_SIZE, FRAME[field], value)


def patch_small_payload(card, offset, at, value):
    """One byte of a payload of 17 to 128 bytes; the frame's digest and check follow."""
    size, = struct.unpack_from("<Q", card, offset + FRAME["stored_size"][0])
    out = bytearray(card)
    out[offset + FRAME_SIZE + at] = value
    payload = bytes(out[offset + FRAME_SIZE:offset + FRAME_SIZE + size])
    return patch_frame(bytes(out), offset, "stored_digest", xxh3_64(payload))
