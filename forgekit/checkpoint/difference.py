"""Two checkpoints side by side: keys, dtypes, shapes, then values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from forgekit.checkpoint.opening import Checkpoint

CHUNK = 16 << 20  # bytes compared at a time

Kind = Literal["only-in-a", "only-in-b", "dtype", "shape", "values"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """One tensor that is not the same in both.

    Attributes:
        first: byte of the tensor where values differ first; None where nothing was compared.
        file, offset: the file of A that byte is in, and its place there.
        count: values that differ.
        largest: largest absolute difference; None where the dtype has no such thing.
        ulps: largest distance in units in the last place.
    """

    tensor: str
    kind: Kind
    a: str = ""
    b: str = ""
    first: int | None = None
    file: str = ""
    offset: int | None = None
    count: int = 0
    largest: float | None = None
    ulps: int | None = None

    def __str__(self) -> str:
        if self.kind != "values":
            words = {"only-in-a": "is only in A", "only-in-b": "is only in B"}
            return f"{self.tensor}: {words.get(self.kind) or f'{self.kind} {self.a} in A and {self.b} in B'}"
        figures = f"{self.count:,} values differ"
        if self.largest is not None:
            figures += f", by at most {self.largest:.4g}" + (f" ({self.ulps} ulp)" if self.ulps is not None else "")
        return f"{self.tensor}: {figures}; first at byte {self.first:,} of the tensor, {self.offset:,} of {self.file}"


@dataclass
class Comparison:
    """Everything that differs, in name order.

    Attributes:
        layout: what differs that is not in any tensor: shard names, config.
    """

    tensors: int = 0
    bytes: int = 0
    differences: list[Difference] = field(default_factory=list)
    layout: list[str] = field(default_factory=list)

    @property
    def same_tensors(self) -> bool:
        return not self.differences


def compare(a: Checkpoint, b: Checkpoint, *, progress: Callable[[int, int], None] | None = None) -> Comparison:
    """Compare two checkpoints, whatever shards they are cut into; at most two chunks are in memory.

    Raises:
        CheckpointError: a file ends before its header says.
    """
    found = Comparison()
    if dict(a.files) != dict(b.files):
        found.layout.append(f"shards: {_files(a)} in A and {_files(b)} in B")
    names = sorted({*a.tensors, *b.tensors})
    for number, name in enumerate(names, 1):
        if name not in b.tensors:
            found.differences.append(Difference(tensor=name, kind="only-in-a"))
        elif name not in a.tensors:
            found.differences.append(Difference(tensor=name, kind="only-in-b"))
        else:
            one, two = a[name].tensor, b[name].tensor
            if one.dtype != two.dtype:
                found.differences.append(Difference(tensor=name, kind="dtype", a=one.dtype, b=two.dtype))
            elif one.shape != two.shape:
                found.differences.append(
                    Difference(tensor=name, kind="shape", a=str(list(one.shape)), b=str(list(two.shape)))
                )
            elif difference := _values(a, b, name):
                found.differences.append(difference)
            found.bytes += a[name].size
        found.tensors += 1
        if progress is not None:
            progress(number, len(names))
    return found


def _files(checkpoint: Checkpoint) -> str:
    return ", ".join(f"{name} ({size:,})" for name, size in checkpoint.files.items())


def _values(a: Checkpoint, b: Checkpoint, name: str) -> Difference | None:
    placed = a[name]
    first: int | None = None
    count, largest, ulps = 0, 0.0, 0
    measured = True
    for start in range(0, placed.size, CHUNK):
        size = min(CHUNK, placed.size - start)
        one, two = a.read_part(name, start, size), b.read_part(name, start, size)
        if one == two:
            continue
        if first is None:
            first = start + next(at for at, (x, y) in enumerate(zip(one, two, strict=True)) if x != y)
        figures = _figures(placed.tensor.dtype, one, two)
        if figures is None:
            measured = False
            count += sum(x != y for x, y in zip(one, two, strict=True))
        else:
            count += figures[0]
            largest, ulps = max(largest, figures[1]), max(ulps, figures[2])
    if first is None:
        return None
    return Difference(
        tensor=name,
        kind="values",
        first=first,
        file=placed.file,
        offset=placed.start + first,
        count=count,
        largest=largest if measured else None,
        ulps=ulps if measured else None,
    )


def _figures(dtype: str, one: bytes, two: bytes) -> tuple[int, float, int] | None:
    """(values that differ, largest absolute difference, largest distance in ulp); None for other dtypes.

    Floats of one width, read as sign-magnitude integers, are in the order of their values: the difference of two
    such integers is the number of representable values between them.
    """
    kinds = {"BF16": "<u2", "F16": "<u2", "F32": "<u4"}
    if dtype not in kinds:
        return None
    import numpy as np

    x, y = np.frombuffer(one, kinds[dtype]), np.frombuffer(two, kinds[dtype])
    apart = x != y
    x, y = x[apart], y[apart]
    width = 8 * x.itemsize

    def ordered(bits: Any) -> Any:
        whole = bits.astype(np.int64)
        sign = whole >> (width - 1)
        magnitude = whole & ((1 << (width - 1)) - 1)
        return np.where(sign == 1, -magnitude, magnitude)

    def valued(bits: Any) -> Any:
        if dtype == "BF16":
            return (bits.astype("<u4") << 16).view("<f4").astype("f8")
        return bits.view("<f2" if dtype == "F16" else "<f4").astype("f8")

    with np.errstate(invalid="ignore"):
        gap = np.abs(valued(x) - valued(y))
    largest = float("inf") if np.isnan(gap).any() else float(gap.max())
    return int(apart.sum()), largest, int(np.abs(ordered(x) - ordered(y)).max())
