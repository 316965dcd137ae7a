"""GGUF headers: typed metadata, then the name, shape, type and offset of every tensor.

Source: ggml-org/ggml, docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from forgekit.checkpoint import Reader, Tensor
from forgekit.errors import CheckpointError

MAX_HEADER = 256 << 20  # bytes
PIECE = 1 << 20
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9
MAX_ARRAY = 64  # items of a metadata array that are kept; vocabularies are skipped


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata and tensors of one file. Arrays longer than ``MAX_ARRAY`` stand as their length."""

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
    return GgufHeader(version, metadata, tuple(_tensor(cursor, size, where) for _ in range(tensors)))


def _tensor(cursor: _Cursor, size: int, where: str) -> Tensor:
    name = cursor.text()
    dimensions = cursor.number("I")
    if dimensions > 4:
        raise CheckpointError(f"tensor {name!r} has {dimensions} dimensions", where=where)
    shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))  # GGUF lists the innermost first
    kind, offset = cursor.number("I"), cursor.number("Q")
    if offset >= size:
        raise CheckpointError(f"tensor {name!r} starts at byte {offset:,}, past the end of the file", where=where)
    return Tensor(name, str(kind), shape, offset, None)


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
        return self.take(self.number("Q")).decode("utf-8", "replace")

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
        if kind in SCALARS and count > MAX_ARRAY:
            self.take(struct.calcsize("<" + SCALARS[kind]) * count)
            return count
        values = []
        for index in range(count):
            value = self.value(kind)
            if index < MAX_ARRAY:
                values.append(value)
        return values if count <= MAX_ARRAY else count
