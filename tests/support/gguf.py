"""GGUF files by hand, honest and otherwise."""

from __future__ import annotations

import math
import struct


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def gguf_bytes(tensors, metadata=(), *, version=3, magic=b"GGUF", padding=8192, stored=0, place=None):
    made = magic + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, kind, payload in metadata:
        made += text(key) + struct.pack("<I", kind) + payload
    at = 0
    for name, shape in tensors:
        offset = at if place is None else place
        made += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), stored, offset)
        at += -(-math.prod(shape) * 4 // 32) * 32
    return made + bytes(padding)
