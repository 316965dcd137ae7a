"""Single values of a JSON text changed where they stand; every other byte stays."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from forgekit.errors import CheckpointError

TOKEN = re.compile(r'\s*("(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+)')
Path = tuple[str | int, ...]


def set_values(text: str, changes: Mapping[Any, Any], where: str) -> str:
    """``text`` with the values at some paths replaced, and the missing ones added to objects that are there.

    Args:
        changes: a JSON value by path, a tuple of keys and indices.

    Raises:
        CheckpointError: the object that should hold a value is not there.
    """
    spans = dict(_values(text))
    edits: list[tuple[int, int, str]] = []
    added: dict[Path, list[tuple[str, Any]]] = {}
    path: Path
    for path, value in changes.items():
        if path in spans:
            start, end = spans[path]
            edits.append((start, end, _render(value, text, start)))
        elif path[:-1] in spans and text[spans[path[:-1]][0]] == "{" and isinstance(path[-1], str):
            added.setdefault(path[:-1], []).append((path[-1], value))
        else:
            raise CheckpointError(f"there is no place for {'/'.join(map(str, path))}", where=where)
    for parent, pairs in added.items():
        edits.append(_insertion(text, spans, parent, pairs))
    for start, end, replacement in sorted(edits, reverse=True):
        text = text[:start] + replacement + text[end:]
    return text


def _insertion(
    text: str, spans: Mapping[Path, tuple[int, int]], parent: Path, pairs: Sequence[tuple[str, Any]]
) -> tuple[int, int, str]:
    children = [spans[path] for path in spans if path[:-1] == parent and len(path) == len(parent) + 1]
    if not children:
        start, end = spans[parent]
        body = ", ".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in pairs)
        return start, end, "{" + body + "}"
    last = max(end for _, end in children)
    first = min(start for start, _ in children)
    line = text[text.rfind("\n", 0, first) + 1 : first]
    indent = line[: len(line) - len(line.lstrip())]
    newline = "\n" + indent if "\n" in text[spans[parent][0] : first] else " "
    body = "".join(f",{newline}{json.dumps(key)}: {_nested(value, indent)}" for key, value in pairs)
    return last, last, body


def _nested(value: Any, indent: str) -> str:
    return json.dumps(value, indent=2).replace("\n", "\n" + indent) if indent else json.dumps(value)


def _render(value: Any, text: str, start: int) -> str:
    if not isinstance(value, dict | list):
        return json.dumps(value)
    line = text[text.rfind("\n", 0, start) + 1 : start]
    return _nested(value, line[: len(line) - len(line.lstrip())])


def _values(text: str) -> Iterator[tuple[Path, tuple[int, int]]]:
    """The place of every value of a JSON text that is known to be well-formed; the last of equal keys wins."""
    tokens = [(match.group(1), match.start(1), match.end(1)) for match in TOKEN.finditer(text)]
    at = 0

    def value(path: Path) -> Iterator[tuple[Path, tuple[int, int]]]:
        nonlocal at
        word, start, end = tokens[at]
        at += 1
        if word == "{":
            while tokens[at][0] != "}":
                key = json.loads(tokens[at][0])
                at += 2  # the key and its colon
                yield from value((*path, key))
                if tokens[at][0] == ",":
                    at += 1
            end = tokens[at][2]
            at += 1
        elif word == "[":
            index = 0
            while tokens[at][0] != "]":
                yield from value((*path, index))
                index += 1
                if tokens[at][0] == ",":
                    at += 1
            end = tokens[at][2]
            at += 1
        yield path, (start, end)

    yield from value(())
