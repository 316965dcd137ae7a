"""GGUF headers: typed metadata, then the name, shape, type and offset of every tensor.

Source: ggml-org/ggml, docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import struct
from collections import Counter
from dataclasses import dataclass
from typing import Any

from forgekit.checkpoint import Reader, Tensor
from forgekit.errors import CheckpointError

MAX_HEADER = 256 << 20  # bytes
PIECE = 1 << 20
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_ARRAY = 64  # items of a metadata array that are kept; vocabularies are skipped
MAX_TEXT = 16 << 20  # bytes of one string
TYPES = {
    0: ("F32", 1, 4), 1: ("F16", 1, 2), 2: ("Q4_0", 32, 18), 3: ("Q4_1", 32, 20), 6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24), 8: ("Q8_0", 32, 34), 9: ("Q8_1", 32, 36), 10: ("Q2_K", 256, 84), 11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144), 13: ("Q5_K", 256, 176), 14: ("Q6_K", 256, 210), 15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66), 17: ("IQ2_XS", 256, 74), 18: ("IQ3_XXS", 256, 98), 19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18), 21: ("IQ3_S", 256, 110), 22: ("IQ2_S", 256, 82), 23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1), 25: ("I16", 1, 2), 26: ("I32", 1, 4), 27: ("I64", 1, 8), 28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56), 30: ("BF16", 1, 2), 34: ("TQ1_0", 256, 54), 35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
}  # fmt: skip
"""Tensor types: name, elements of a block, bytes of a block. Source: enum ggml_type and its traits in ggml.c."""
FILE_TYPES = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M",
    13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 25: "IQ4_NL", 30: "IQ4_XS",
    32: "BF16",
}  # fmt: skip
"""What ``general.file_type`` says of the whole file. Source: enum llama_ftype in llama.h."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata and tensors of one file. Arrays longer than ``MAX_ARRAY`` stand as their length.

    The bytes a tensor starts and ends at count from the start of the file; ``end`` is None for types unknown here.
    """

    version: int
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]


def read_header(read: Reader, size: int, where: str) -> GgufHeader:
    """Read the header of one file.

    Args:
        size: of the whole file, in bytes.
        where: for messages.

    Raises:
        CheckpointError: it is not GGUF, of another version, or its header reaches past its end.
    """
    cursor = _Cursor(read, size, where)
    if cursor.take(4) != b"GGUF":
        raise CheckpointError("the file is not GGUF", where=where)
    version = cursor.number("I")
    if version not in (2, 3):
        raise CheckpointError(f"GGUF version {version} is not supported", where=where, hint="versions 2 and 3 are")
    tensors, pairs = cursor.number("Q"), cursor.number("Q")
    if tensors * 24 + pairs * 13 > size:
        raise CheckpointError(f"the header lists {tensors:,} tensors and {pairs:,} keys, more than fit", where=where)
    metadata = {}
    for _ in range(pairs):
        key = cursor.text()
        metadata[key] = cursor.value(cursor.number("I"))
    listed = [_tensor(cursor, where) for _ in range(tensors)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment & (alignment - 1):
        raise CheckpointError(f"general.alignment is {alignment!r}, which is no power of two", where=where)
    start = -(-cursor.at // alignment) * alignment
    return GgufHeader(version, metadata, tuple(_placed(listed, start, alignment, size, where)))


def _tensor(cursor: _Cursor, where: str) -> Tensor:
    """As the header lists it: the type by number, the offset from where the data begin."""
    name = cursor.text()
    dimensions = cursor.number("I")
    if dimensions > 4:
        raise CheckpointError(f"tensor {name!r} has {dimensions} dimensions", where=where)
    shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))  # GGUF lists the innermost first
    kind, offset = cursor.number("I"), cursor.number("Q")
    return Tensor(name, str(kind), shape, offset, None)


def _placed(listed: list[Tensor], start: int, alignment: int, size: int, where: str) -> list[Tensor]:
    """Where each tensor stands in the file.

    Raises:
        CheckpointError: one lies outside the file, off its alignment or upon another, or two have one name.
    """
    found: list[Tensor] = []
    for tensor in listed:
        kind, block, width = TYPES.get(int(tensor.dtype), (tensor.dtype, 0, 0))
        first = start + tensor.start
        if tensor.start % alignment:
            raise CheckpointError(
                f"tensor {tensor.name!r} starts at offset {tensor.start:,}, off its alignment", where=where
            )
        end = None
        if block:
            if tensor.shape and tensor.shape[-1] % block:
                raise CheckpointError(
                    f"tensor {tensor.name!r} is {kind} with rows of {tensor.shape[-1]:,}, not a multiple of {block}",
                    where=where,
                )
            end = first + tensor.count // block * width
        if first >= size or (end is not None and end > size):
            raise CheckpointError(
                f"tensor {tensor.name!r} reaches from byte {first:,} past the end of the file at {size:,}", where=where
            )
        found.append(Tensor(tensor.name, kind, tensor.shape, first, end))
    previous: Tensor | None = None
    for tensor in sorted(found, key=lambda tensor: tensor.start):
        if previous is not None and tensor.start < (previous.end or previous.start + 1):
            raise CheckpointError(f"tensors {previous.name!r} and {tensor.name!r} overlap", where=where)
        previous = tensor
    name, count = Counter(tensor.name for tensor in found).most_common(1)[0] if found else ("", 0)
    if count > 1:
        raise CheckpointError(f"tensor {name!r} is listed twice", where=where)
    return found


class _Cursor:
    """A position in the file that reads ahead in pieces."""

    def __init__(self, read: Reader, size: int, where: str) -> None:
        self.read, self.size, self.where = read, min(size, MAX_HEADER), where
        self.buffer = b""
        self.at = 0

    def take(self, count: int) -> bytes:
        while len(self.buffer) - self.at < count:
            start = len(self.buffer)
            if self.at + count > self.size:
                raise CheckpointError("the header reaches past the end of the file", where=self.where)
            piece = self.read(start, max(PIECE, count - (start - self.at)))
            if not piece:
                raise CheckpointError(f"the file ends at byte {start:,}, inside its header", where=self.where)
            self.buffer += piece
        self.at += count
        return self.buffer[self.at - count : self.at]

    def number(self, kind: str) -> Any:
        return struct.unpack("<" + kind, self.take(struct.calcsize("<" + kind)))[0]

    def text(self) -> str:
        size = self.number("Q")
        if size > MAX_TEXT:
            raise CheckpointError(f"the header holds a text of {size:,} bytes", where=self.where)
        return self.take(size).decode("utf-8", "replace")

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            return self._array()
        if kind not in SCALARS:
            raise CheckpointError(f"metadata of unknown type {kind}", where=self.where)
        return self.number(SCALARS[kind])

    def _array(self) -> Any:
        kind, count = self.number("I"), self.number("Q")
        if kind == ARRAY:
            raise CheckpointError("metadata nests arrays, which no writer does", where=self.where)
        if kind in SCALARS and count > MAX_ARRAY:
            self.take(struct.calcsize("<" + SCALARS[kind]) * count)
            return count
        values = []
        for index in range(count):
            value = self.value(kind)
            if index < MAX_ARRAY:
                values.append(value)
        return values if count <= MAX_ARRAY else count
