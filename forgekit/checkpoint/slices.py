"""Where each tensor of a cut checkpoint comes from in its base, and whether its bytes say the same."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from forgekit.checkpoint.opening import Checkpoint
from forgekit.checkpoint.safetensors import BITS
from forgekit.checkpoint.writing import Made, Piece, Span, span
from forgekit.errors import CheckpointError

CHUNK = 16 << 20


@dataclass(frozen=True, slots=True)
class Origin:
    """One tensor's place in the base.

    Attributes:
        name: of the base's tensor.
        rows: numbers along its first axis, in order; None for all.
        columns: numbers along its last axis, in order; None for all.
        zero_rows: rows that are zero instead.
        zero_columns: columns that are zero instead.
    """

    name: str
    rows: tuple[int, ...] | None = None
    columns: tuple[int, ...] | None = None
    zero_rows: tuple[int, ...] = ()
    zero_columns: tuple[int, ...] = ()

    @property
    def whole(self) -> bool:
        return self.rows is None and self.columns is None and not self.zero_rows and not self.zero_columns


@dataclass(frozen=True, slots=True)
class Expected:
    """The origin of every tensor of a child; tensors not named are the base's own of the same name.

    Attributes:
        origins: by the child's tensor name.
        gone: the base's tensors that the child must not have.
    """

    origins: Mapping[str, Origin]
    gone: frozenset[str] = frozenset()

    def names(self, parent: Checkpoint) -> Iterator[str]:
        """Names of every tensor the child must have."""
        yield from self.origins
        moved = {origin.name for origin in self.origins.values()}
        yield from (name for name in parent.tensors if name not in moved and name not in self.gone)

    def origin(self, name: str) -> Origin:
        return self.origins.get(name) or Origin(name)


@dataclass
class Comparison:
    """What was compared, and what differs.

    Attributes:
        bytes: read from the child.
        differences: each a sentence that names a tensor and the first byte that differs.
    """

    tensors: int = 0
    bytes: int = 0
    differences: list[str] = field(default_factory=list)


def compare(
    parent: Checkpoint,
    child: Checkpoint,
    expected: Expected,
    *,
    only: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Comparison:
    """Hold a child's tensors against their origins.

    Args:
        only: compare the bytes of these; names, shapes and dtypes are compared for all.
    """
    found = Comparison()
    wanted = sorted(set(expected.names(parent)))
    missing = [name for name in wanted if name not in child.tensors]
    extra = [name for name in child.tensors if name not in set(wanted)]
    found.differences += [f"tensor {name!r} is missing" for name in missing]
    found.differences += [f"tensor {name!r} has no origin in the base" for name in extra]
    compared = set(wanted if only is None else only)
    for number, name in enumerate(wanted, 1):
        if name not in child.tensors:
            continue
        origin = expected.origin(name)
        if origin.name not in parent.tensors:
            found.differences.append(f"tensor {name!r} should come from {origin.name!r}, which the base does not have")
            continue
        if fault := _shape_fault(parent, child, name, origin):
            found.differences.append(fault)
            continue
        if name in compared:
            found.tensors += 1
            found.bytes += child[name].size
            if fault := _bytes_fault(parent, child, name, origin):
                found.differences.append(fault)
        if progress is not None:
            progress(number, len(wanted))
    return found


def _shape_fault(parent: Checkpoint, child: Checkpoint, name: str, origin: Origin) -> str:
    base, made = parent[origin.name].tensor, child[name].tensor
    shape = list(base.shape)
    if origin.rows is not None:
        shape[0] = len(origin.rows)
    if origin.columns is not None:
        shape[-1] = len(origin.columns)
    if list(made.shape) != shape or made.dtype != base.dtype:
        return f"tensor {name!r} is {made.dtype} {list(made.shape)} and should be {base.dtype} {shape}"
    return ""


def _bytes_fault(parent: Checkpoint, child: Checkpoint, name: str, origin: Origin) -> str:
    size = child[name].size
    if origin.columns is None and not origin.zero_columns and not origin.zero_rows:
        at = 0
        for start, length in _runs(parent, origin):
            done = 0
            while done < length:
                step = min(CHUNK, length - done)
                ours = child.read_part(name, at, step)
                theirs = parent.read_part(origin.name, start + done, step)
                if ours != theirs:
                    return _first(name, origin.name, at, ours, theirs)
                at += step
                done += step
        return "" if at == size else f"tensor {name!r} has {size} bytes and {at} were expected"
    ours, theirs = child.read(name), bytes(cut(parent, origin))
    return "" if ours == theirs else _first(name, origin.name, 0, ours, theirs)


def _runs(parent: Checkpoint, origin: Origin) -> Iterator[tuple[int, int]]:
    placed = parent[origin.name]
    if origin.rows is None:
        yield 0, placed.size
        return
    row = placed.size // placed.tensor.shape[0]
    for index in origin.rows:
        if index >= placed.tensor.shape[0]:
            raise CheckpointError(f"tensor {origin.name!r} has no row {index}", where=parent.where)
        yield index * row, row


def cut(parent: Checkpoint, origin: Origin) -> bytearray:
    """The bytes a tensor has when it is taken from its origin: rows, then columns, then zeros."""
    placed = parent[origin.name]
    tensor = placed.tensor
    rows = tensor.shape[0]
    width = placed.size // rows
    item = placed.size // max(tensor.count, 1)
    data = parent.read(origin.name)
    kept = range(rows) if origin.rows is None else origin.rows
    zero_rows = set(origin.zero_rows)
    made = bytearray()
    columns = None if origin.columns is None else _byte_runs(origin.columns, item)
    zeros = _byte_runs(origin.zero_columns, item)
    step = math.prod(tensor.shape[-1:]) * item  # bytes of one innermost row
    for index in kept:
        line = bytearray(width) if index in zero_rows else bytearray(data[index * width : (index + 1) * width])
        for start in range(0, width, step):
            for first, last in zeros:
                line[start + first : start + last] = bytes(last - first)
        if columns is not None:
            line = bytearray().join(
                line[start + first : start + last] for start in range(0, width, step) for first, last in columns
            )
        made += line
    return made


def _byte_runs(indices: Sequence[int], item: int) -> list[tuple[int, int]]:
    """Neighbouring indices as byte ranges."""
    runs: list[tuple[int, int]] = []
    for index in indices:
        if runs and runs[-1][1] == index * item:
            runs[-1] = (runs[-1][0], (index + 1) * item)
        else:
            runs.append((index * item, (index + 1) * item))
    return runs


def _first(name: str, origin: str, at: int, ours: bytes, theirs: bytes) -> str:
    offset = next(
        (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
    )
    return f"tensor {name!r} differs from {origin!r} of the base, first at its byte {at + offset:,}"


def pieces(parent: Checkpoint, expected: Expected) -> dict[str, list[Piece]]:
    """A child's tensors, ready to be written, by the parent's shard they come from.

    Rows are copied as spans of the file; columns and zeros are cut in memory, one tensor at a time.
    """
    shards: dict[str, list[Piece]] = {name: [] for name in parent.files}
    for name in sorted(set(expected.names(parent))):
        origin = expected.origin(name)
        placed = parent[origin.name]
        tensor = placed.tensor
        shape = list(tensor.shape)
        if origin.rows is not None:
            shape[0] = len(origin.rows)
        if origin.columns is not None:
            shape[-1] = len(origin.columns)
        file = span(parent, placed)
        parts: tuple[Span | Made, ...]
        if origin.columns is None and not origin.zero_rows and not origin.zero_columns:
            parts = tuple(Span(file.path, file.start + at, size) for at, size in _merged(_runs(parent, origin)))
        else:
            size = math.prod(shape) * BITS[tensor.dtype] // 8
            parts = (Made(partial(cut, parent, origin), size),)
        shards[placed.file].append(Piece(name, tensor.dtype, tuple(shape), parts))
    return shards


def _merged(runs: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs with neighbours joined."""
    pending: tuple[int, int] | None = None
    for start, size in runs:
        if pending and pending[0] + pending[1] == start:
            pending = (pending[0], pending[1] + size)
            continue
        if pending:
            yield pending
        pending = (start, size)
    if pending:
        yield pending


def drawn(names: Sequence[str], count: int, seed: int) -> list[str]:
    """``count`` tensors drawn without replacement by a seed: all of them where there are no more."""
    ordered = sorted(names)
    return sorted(random.Random(seed).sample(ordered, min(count, len(ordered))))  # noqa: S311 - not a secret


def caught(count: int, total: int, confidence: float = 0.99) -> float:
    """The smallest share of tampered tensors that a sample of ``count`` of ``total`` meets with this confidence.

    With a share p tampered, a sample of n misses all of them with probability at most (1 - p) ** n.
    """
    if count >= total:
        return 1 / total if total else 0.0
    return float(1 - (1 - confidence) ** (1 / count)) if count else 1.0
