"""Merkle trees over records: one hash for all of them, and a short proof that one is among them.

A leaf is SHA-256 of a zero byte and the record, an inner node SHA-256 of a one
byte and its two children; a node without a sibling moves up as it is. The root
is that of RFC 6962, section 2.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgekit.digest import Digest
from forgekit.errors import AttestationError, SourceError

MAX_STEPS = 64  # of a proof: more than any file has records


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """That a record stands at one place among so many.

    Attributes:
        index: of the record, from 0.
        count: of all records.
        steps: hashes of the siblings on the way to the root, lowest first.
    """

    index: int
    count: int
    steps: tuple[str, ...]

    def tree(self) -> dict[str, Any]:
        return {"index": self.index, "count": self.count, "steps": list(self.steps)}

    @classmethod
    def read(cls, tree: Any) -> Proof:
        """A proof from JSON.

        Raises:
            AttestationError: it is not one.
        """
        index, count, steps = (
            tree.get(name) if isinstance(tree, dict) else None for name in ("index", "count", "steps")
        )
        if not isinstance(index, int) or not isinstance(count, int) or not isinstance(steps, list):
            raise AttestationError("a proof has an index, a count and steps")
        if not 0 <= index < count or len(steps) > MAX_STEPS:
            raise AttestationError(f"record {index} of {count} with {len(steps)} steps is no proof of anything")
        return cls(index=index, count=count, steps=tuple(Digest.parse(step).hex for step in steps))


def root(records: Iterable[bytes]) -> Digest:
    """The root over records in their order.

    Raises:
        AttestationError: there are none.
    """
    return Digest(_levels(records)[-1][0].hex())


def prove(records: Iterable[bytes], index: int) -> Proof:
    """The proof that the record at ``index`` is among these.

    Raises:
        AttestationError: there is no such record.
    """
    return _prove(_levels(records), index)


def prove_file(paths: Sequence[Path], index: int) -> tuple[Digest, Proof]:
    """The root over whole files in their order, and the proof that one of them is among them; files are streamed.

    Raises:
        AttestationError: there is no such file.
        SourceError: one cannot be read.
    """
    levels = _over(leaf_of_file(path) for path in paths)
    return Digest(levels[-1][0].hex()), _prove(levels, index)


def _prove(levels: Sequence[Sequence[bytes]], index: int) -> Proof:
    count = len(levels[0])
    if not 0 <= index < count:
        raise AttestationError(f"there is no record {index}: there are {count}")
    steps, at = [], index
    for level in levels[:-1]:
        sibling = at ^ 1
        if sibling < len(level):
            steps.append(level[sibling].hex())
        at //= 2
    return Proof(index=index, count=count, steps=tuple(steps))


def holds(record: bytes, proof: Proof, expected: Digest) -> bool:
    """Whether a proof leads from a record to a root."""
    return leads(leaf(record), proof, expected)


def leads(start: bytes, proof: Proof, expected: Digest) -> bool:
    """Whether a proof leads from a leaf's hash, ``start``, to a root."""
    node, at, width = start, proof.index, proof.count
    steps = iter(proof.steps)
    while width > 1:
        sibling = at ^ 1
        if sibling < width:
            step = next(steps, None)
            if step is None:
                return False
            other = bytes.fromhex(step)
            node = _inner(other, node) if at & 1 else _inner(node, other)
        at, width = at // 2, (width + 1) // 2
    return next(steps, None) is None and node.hex() == expected.hex


def lines(data: bytes) -> list[bytes]:
    """The records of a JSONL file: its lines without their ends, blank ones left out."""
    return [line.rstrip(b"\r") for line in data.split(b"\n") if line.strip()]


def leaf_of_file(path: Path) -> bytes:
    """The leaf hash of a file's bytes, in constant memory.

    Raises:
        SourceError: it cannot be read.
    """
    state = hashlib.sha256(b"\x00")
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                state.update(chunk)
    except OSError as error:
        raise SourceError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
    return state.digest()


def _levels(records: Iterable[bytes]) -> list[Sequence[bytes]]:
    return _over(leaf(record) for record in records)


def _over(leaves: Iterable[bytes]) -> list[Sequence[bytes]]:
    level: Sequence[bytes] = list(leaves)
    if not level:
        raise AttestationError("there are no records to take a root over")
    levels = [level]
    while len(level) > 1:
        pairs = [_inner(level[i], level[i + 1]) for i in range(0, len(level) - 1, 2)]
        level = pairs + list(level[len(pairs) * 2 :])
        levels.append(level)
    return levels


def leaf(record: bytes) -> bytes:
    """The leaf hash of a record."""
    return hashlib.sha256(b"\x00" + record).digest()


def _inner(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
