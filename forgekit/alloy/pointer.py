"""JSON trees and RFC 6901 pointers into them.

Checks read the tree as it was published, not a typed copy of it: a document
with one field of the wrong type still makes all its other claims.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

Json = dict[str, Any] | list[Any] | str | int | float | bool | None
_MISSING = object()


def join(pointer: str, *steps: str | int) -> str:
    """Extend a pointer; ``/`` and ``~`` in keys are escaped."""
    return pointer + "".join("/" + str(step).replace("~", "~0").replace("/", "~1") for step in steps)


def split(pointer: str) -> list[str]:
    """The unescaped steps of a pointer."""
    return [step.replace("~1", "/").replace("~0", "~") for step in pointer.split("/")[1:]]


def find(tree: Any, pointer: str, default: Any = None) -> Any:
    """The value at ``pointer``, or ``default`` where the path does not exist."""
    for step in split(pointer):
        if isinstance(tree, Mapping):
            tree = tree.get(step, _MISSING)
        elif isinstance(tree, list) and step.isdecimal() and int(step) < len(tree):
            tree = tree[int(step)]
        else:
            return default
        if tree is _MISSING:
            return default
    return tree


def objects(tree: Any, pointer: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(pointer, object) for every object in the list at ``pointer``; nothing where there is no list."""
    rows = find(tree, pointer)
    if isinstance(rows, list):
        for index, row in enumerate(rows):
            if isinstance(row, dict):
                yield join(pointer, index), row


def rows_by(tree: Any, pointer: str, key: str) -> dict[str, dict[str, Any]]:
    """The objects in the list at ``pointer`` by the text each has under ``key``; those with none are left out."""
    return {row[key]: row for _, row in objects(tree, pointer) if isinstance(row.get(key), str)}


def walk(tree: Any, pointer: str = "") -> Iterator[tuple[str, Any]]:
    """(pointer, value) for every node, parents before children, in document order."""
    yield pointer, tree
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from walk(value, join(pointer, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            yield from walk(value, join(pointer, index))


def is_number(value: Any) -> TypeGuard[float]:
    """Whether ``value`` is a JSON number; JSON's true is not 1."""
    return isinstance(value, int | float) and not isinstance(value, bool)
