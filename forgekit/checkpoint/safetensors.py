"""safetensors headers: an 8-byte length, a JSON object, then the tensors without gaps.

Source: huggingface/safetensors, "Format" in its README; the 100 MB header bound is its reader's.
"""

from __future__ import annotations

import json
import math
from typing import Any

from forgekit.checkpoint import Reader, Tensor
from forgekit.errors import CheckpointError

MAX_HEADER = 100_000_000  # bytes
BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 64),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}


def read_header(read: Reader, size: int, where: str) -> tuple[Tensor, ...]:
    """The tensors of one file, in the order of their bytes.

    Args:
        size: of the whole file, in bytes.
        where: for messages.

    Raises:
        CheckpointError: the header is cut short, is not JSON, or its tensors overlap, leave gaps, do not
            have the size of their shape, or reach past the end of the file.
    """
    head = read(0, 8)
    if len(head) < 8:
        raise CheckpointError("the file is too short to hold a header", where=where)
    length = int.from_bytes(head, "little")
    if length > min(MAX_HEADER, size - 8):
        bound = "the file" if size - 8 < MAX_HEADER else f"the {MAX_HEADER:,} bytes a reader accepts"
        raise CheckpointError(f"the header says it has {length:,} bytes, more than {bound}", where=where)
    text = read(8, length)
    if len(text) < length:
        raise CheckpointError(f"the header is cut short after {len(text):,} of {length:,} bytes", where=where)
    try:
        entries = json.loads(text, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the header is not readable: {error}", where=where) from error
    if not isinstance(entries, dict):
        raise CheckpointError("the header is not an object", where=where)
    tensors = [_tensor(name, entry, where) for name, entry in entries.items() if name != "__metadata__"]
    tensors.sort(key=lambda tensor: (tensor.start, tensor.end))
    _contiguous(tensors, size - 8 - length, where)
    return tuple(tensors)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is given twice")
    return made


def _tensor(name: str, entry: Any, where: str) -> Tensor:
    try:
        dtype, shape, (start, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        whole = all(type(value) is int and value >= 0 for value in (*shape, start, end))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"tensor {name!r} is not described", where=where) from error
    if not whole:
        raise CheckpointError(f"tensor {name!r} has a size that is not a whole number", where=where)
    if dtype not in BITS:
        raise CheckpointError(f"tensor {name!r} has unknown dtype {dtype!r}", where=where)
    needed = math.prod(shape) * BITS[dtype]
    if needed % 8 or end - start != needed // 8:
        text = f"tensor {name!r}, {dtype} {list(shape)}, needs {needed / 8:g} bytes and claims {end - start}"
        raise CheckpointError(text, where=where)
    return Tensor(name, dtype, shape, start, end)


def _contiguous(tensors: list[Tensor], data: int, where: str) -> None:
    at = 0
    for tensor in tensors:
        if tensor.start != at:
            text = "overlaps the one before it" if tensor.start < at else "leaves a gap before it"
            raise CheckpointError(f"tensor {tensor.name!r} {text}", where=where)
        at = tensor.end or at
    if at != data:
        text = f"the tensors end at byte {at:,} of {data:,}"
        raise CheckpointError(
            f"the file is cut short: {text}" if at > data else f"bytes follow the tensors: {text}", where=where
        )
