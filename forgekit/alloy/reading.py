"""Bytes to JSON tree and back, with errors a person can act on."""

from __future__ import annotations

import json
import math
from typing import Any

from forgekit.alloy.pointer import join
from forgekit.errors import AlloyError

MAX_BYTES = 16 << 20  # the largest published alloy is 13 kB
MAX_DEPTH = 64


def parse(data: bytes, *, where: str) -> dict[str, Any]:
    """Read one JSON object.

    Args:
        where: file or URL, for messages.

    Raises:
        AlloyError: too large, not UTF-8, not JSON, not an object, nested deeper than
            ``MAX_DEPTH``, a key given twice, or a number JSON cannot hold.
    """
    if len(data) > MAX_BYTES:
        raise AlloyError(
            f"the document is {len(data) / 2**20:.0f} MiB; an alloy has at most {MAX_BYTES >> 20} MiB",
            where=where,
            hint="weights, samples and corpora are referenced by path and hash, not embedded",
        )
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise AlloyError(
            f"the document is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}", where=where
        ) from error
    try:
        tree = json.loads(text, object_pairs_hook=_object, parse_float=_float, parse_int=_int, parse_constant=_constant)
    except json.JSONDecodeError as error:
        raise AlloyError(_syntax(text, error), where=f"{where}, line {error.lineno}, column {error.colno}") from error
    except _NumberError as error:
        raise AlloyError(
            str(error), where=where, hint="write the number as a string, or as null if it is not known"
        ) from error
    except RecursionError as error:
        raise AlloyError(f"the document is nested deeper than {MAX_DEPTH} levels", where=where) from error
    _inspect(tree, where)
    if not isinstance(tree, dict):
        raise AlloyError(f"the document is {_kind(tree)}, not a JSON object", where=where)
    return tree


def render(tree: dict[str, Any]) -> bytes:
    """The bytes published alloys are written as: two-space indent, ASCII-escaped, one newline at the end."""
    return (json.dumps(tree, indent=2, allow_nan=False) + "\n").encode("ascii")


class _NumberError(ValueError):
    pass


class _Twice(dict[str, Any]):
    """An object in which ``key`` was given more than once."""

    key: str


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) == len(pairs):
        return made
    seen: set[str] = set()
    twice = _Twice(made)
    for key, _ in pairs:
        if key in seen:
            twice.key = key
            break
        seen.add(key)
    return twice


def _float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _NumberError(f"{text} is larger than any number JSON readers can hold")
    return value


def _int(text: str) -> int:
    if len(text) > 4000:
        raise _NumberError(f"a number has {len(text)} digits")
    return int(text)


def _constant(text: str) -> None:
    raise _NumberError(f"{text} is not JSON")


def _syntax(text: str, error: json.JSONDecodeError) -> str:
    if not text.strip():
        return "the document is empty"
    if text.startswith("\ufeff"):
        return "the document starts with a byte order mark, which JSON forbids"
    if error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated string"):
        return f"the document ends in the middle, after {len(text.encode()):,} bytes: {error.msg.lower()}"
    return f"the document is not JSON: {error.msg.lower()}"


def _inspect(tree: Any, where: str) -> None:
    stack: list[tuple[Any, str, int]] = [(tree, "", 1)]
    while stack:
        node, pointer, depth = stack.pop()
        if depth > MAX_DEPTH:
            raise AlloyError(f"the document is nested deeper than {MAX_DEPTH} levels", where=where)
        if isinstance(node, _Twice):
            raise AlloyError(
                f"the key {node.key!r} is given twice",
                where=f"{where}#{pointer}",
                hint="readers disagree on which of the two counts; keep one",
            )
        if isinstance(node, dict):
            stack.extend((value, join(pointer, key), depth + 1) for key, value in node.items() if _deep(value))
        elif isinstance(node, list):
            stack.extend((value, join(pointer, index), depth + 1) for index, value in enumerate(node) if _deep(value))


def _deep(value: Any) -> bool:
    return isinstance(value, dict | list)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    return {list: "a list", str: "text", bool: "true or false"}.get(type(value), "a number")
