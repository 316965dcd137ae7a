"""Read a candidate's answers without trusting them.

Frames are those of ``_cell.py``. Values come as ``marshal`` version 2, a
format whose own reader must not see untrusted bytes; this one is pure Python,
knows plain data only, and refuses everything else.
"""

from __future__ import annotations

import pickle
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

from forgekit.errors import SandboxError

MAX_DEPTH = 120
MAX_COLLISIONS = 1000  # items of a set or dict that share a hash: more is an attack on the reader's time
MAX_DIGITS = 1 << 14  # of a fraction or a decimal
MAX_ARRAY = 64 << 20  # bytes of an array of text, which pads every item to the longest
HEADER = 5


class MalformedError(SandboxError):
    """The candidate's process sent bytes that are not an answer."""


@dataclass(frozen=True, eq=False, slots=True)
class Opaque:
    """A value of a type that is not data. Equal to nothing, not even to itself."""

    type_name: str

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True, slots=True)
class Answer:
    """One returned value. ``exact`` is False for an instance of a subclass of its type."""

    value: Any
    exact: bool = True


def frames(buffer: bytearray, limit: int) -> Iterator[bytes]:
    """Cut complete frames, headers included, off the front of ``buffer``.

    Raises:
        MalformedError: a frame says it is longer than ``limit`` bytes.
    """
    start, end = 0, len(buffer)
    while end - start >= HEADER:
        size = int.from_bytes(buffer[start + 1 : start + HEADER], "little")
        if size > limit:
            raise MalformedError(f"an answer of {size:,} bytes")
        if end - start < HEADER + size:
            break
        yield bytes(buffer[start : start + HEADER + size])
        start += HEADER + size
    del buffer[:start]


def decode(frame: bytes) -> Answer:
    """The value in a ``V`` or ``E`` frame.

    Raises:
        MalformedError: the frame does not hold plain data.
    """
    letter, payload = frame[:1], frame[HEADER:]
    try:
        value, end = _read(payload, 0, 0)
        if end != len(payload):
            raise MalformedError("bytes after the value")
        if letter == b"V":
            return Answer(value)
        made, exact = _untag(value, 0)
        return Answer(made, exact)
    except (
        struct.error,
        IndexError,
        UnicodeError,
        ArithmeticError,
        TypeError,
        ValueError,
        AttributeError,
        RecursionError,
    ) as error:
        raise MalformedError(f"not plain data: {error}") from error


def _read(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """One marshal version 2 value at ``at``, and where it ends."""
    if depth > MAX_DEPTH:
        raise MalformedError("nested too deep")
    kind = data[at : at + 1]
    if kind in _CONSTANTS:
        return _CONSTANTS[kind], at + 1
    if kind in _ATOMS:
        value, at = _ATOMS[kind](data, at + 1)
        return value, at
    if kind in _SEQUENCES:
        size, at = _size(data, at + 1)
        items = []
        for _ in range(size):
            item, at = _read(data, at, depth + 1)
            items.append(item)
        return _SEQUENCES[kind](items), at
    if kind == b"{":
        keys, values = [], []
        at += 1
        while data[at : at + 1] != b"0":
            key, at = _read(data, at, depth + 1)
            value, at = _read(data, at, depth + 1)
            keys.append(key)
            values.append(value)
        return dict(zip(_spread(keys), values, strict=True)), at + 1
    raise MalformedError(f"a value of kind {kind!r}")


def as_set(items: Iterable[Any]) -> set[Any]:
    """A set of a candidate's items.

    Raises:
        MalformedError: so many different ones share a hash that making it would take forever.
        TypeError: one cannot be in a set.
    """
    found = list(items)
    if len(found) > MAX_COLLISIONS:  # bytes hash with this process's secret: these cannot be made to collide
        found = list({pickle.dumps(item): item for item in found}.values())
    return set(_spread(found))


def _spread(different: list[Any]) -> list[Any]:
    """The same items, once it is clear that their hashes differ."""
    if len(different) - len(set(map(hash, different))) > MAX_COLLISIONS:
        raise MalformedError("values made to collide")
    return different


def _small(data: bytes, at: int) -> tuple[int, int]:
    return int.from_bytes(data[at : at + 4], "little", signed=True), _within(data, at + 4)


def _float(data: bytes, at: int) -> tuple[float, int]:
    (value,) = struct.unpack_from("<d", data, at)
    return value, at + 8


def _complex(data: bytes, at: int) -> tuple[complex, int]:
    return complex(*struct.unpack_from("<dd", data, at)), at + 16


def _bytes(data: bytes, at: int) -> tuple[bytes, int]:
    size, at = _size(data, at)
    return data[at : at + size], _within(data, at + size)


def _text(data: bytes, at: int) -> tuple[str, int]:
    found, at = _bytes(data, at)
    return found.decode("utf-8", "surrogatepass"), at


_CONSTANTS: dict[bytes, Any] = {b"N": None, b"T": True, b"F": False}
_SEQUENCES: dict[bytes, Any] = {
    b"[": list,
    b"(": tuple,
    b"<": lambda items: set(_spread(items)),
    b">": lambda items: frozenset(_spread(items)),
}


def _size(data: bytes, at: int) -> tuple[int, int]:
    size = int.from_bytes(data[at : at + 4], "little")
    if size > len(data):  # every item takes at least one byte
        raise MalformedError("a length beyond the end")
    return size, at + 4


def _within(data: bytes, end: int) -> int:
    if end > len(data):
        raise MalformedError("a value beyond the end")
    return end


def _long(data: bytes, at: int) -> tuple[int, int]:
    """An integer as base-2**15 digits, least significant first; the count's sign is the number's."""
    count = int.from_bytes(data[at : at + 4], "little", signed=True)
    at += 4
    end = _within(data, at + 2 * abs(count))
    digits = struct.unpack_from(f"<{abs(count)}H", data, at)
    bits = "".join(f"{digit & 0x7FFF:015b}" for digit in reversed(digits))
    value = int(bits or "0", 2)  # linear in the number's length, unlike base ten
    return (-value if count < 0 else value), end


_ATOMS: dict[bytes, Any] = {
    b"i": _small,
    b"l": _long,
    b"g": _float,
    b"y": _complex,
    b"u": _text,
    b"t": _text,
    b"s": _bytes,
}

_DTYPE = re.compile(r"[<>|=]?[biufc](1|2|4|8|16)|[<>]?U\d+")


def _untag(node: Any, depth: int) -> tuple[Any, bool]:
    """The value a tagged node stands for, and whether it is of an exact plain type."""
    if depth > MAX_DEPTH:
        raise MalformedError("nested too deep")
    tag = node[0]
    if tag == "=":
        return node[1], True
    if tag in _TAGS:
        return _TAGS[tag](_untag(item, depth + 1)[0] for item in node[1]), True
    if tag == ":":
        keys = _spread([_untag(key, depth + 1)[0] for key, _ in node[1]])
        return dict(zip(keys, [_untag(value, depth + 1)[0] for _, value in node[1]], strict=True)), True
    if tag == "sub":
        return _untag(node[2], depth + 1)[0], False
    if tag == "array":
        return _array(node[1], node[2], _untag(node[3], depth + 1)[0]), True
    return _untag_known(tag, node[1:])


def _untag_known(tag: Any, rest: Any) -> tuple[Any, bool]:
    if tag == "other":
        return Opaque(str(rest[0])), False
    if tag not in _KNOWN:
        raise MalformedError("an unknown tag")
    return _KNOWN[tag](*rest), True


_TAGS: dict[str, Any] = {
    "[": list,
    "(": tuple,
    "{": lambda items: set(_spread(list(items))),
    "<": lambda items: frozenset(_spread(list(items))),
}


def _array(dtype: str, shape: tuple[int, ...], values: list[Any]) -> Any:
    import numpy as np

    if not _DTYPE.fullmatch(dtype) or not isinstance(values, list):
        raise MalformedError("an array that is none")
    if "U" in dtype:
        if 4 * len(values) * max(map(len, values), default=0) > MAX_ARRAY:
            raise MalformedError("an array of text that is mostly padding")
        return np.asarray(values).reshape(shape)
    return np.asarray(values, dtype=dtype).reshape(shape)


def _scalar(dtype: str, value: Any) -> Any:
    import numpy as np

    if not _DTYPE.fullmatch(dtype) or isinstance(value, list | tuple | dict | set):
        raise MalformedError("a number that is none")
    return np.str_(value) if "U" in dtype else np.dtype(dtype).type(value)


def _decimal(text: str) -> Decimal:
    if len(text) > MAX_DIGITS:
        raise MalformedError("a decimal of too many digits")
    return Decimal(text)


def _fraction(numerator: int, denominator: int) -> Fraction:
    if max(numerator.bit_length(), denominator.bit_length()) > MAX_DIGITS:
        raise MalformedError("a fraction of too many digits")
    return Fraction(numerator, denominator)


_KNOWN: dict[str, Any] = {"scalar": _scalar, "decimal": _decimal, "fraction": _fraction, "range": range}
