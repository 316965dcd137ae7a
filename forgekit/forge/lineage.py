"""A recipe's effect on tensors, without running it: any tensor of the result, computed from the base when asked.

What a forge leaves beside the weights (keep-maps, adapters) makes every stage
that changes tensors exact. So the result can be checked tensor by tensor,
from ranged reads, by somebody who has neither a GPU nor the disk for it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forgekit.checkpoint import Reader, Tensor
from forgekit.checkpoint.opening import CONFIG, Checkpoint, Placed, opened
from forgekit.checkpoint.patching import set_values
from forgekit.checkpoint.safetensors import BITS
from forgekit.checkpoint.slices import Expected, Origin, caught, compare, cut, drawn
from forgekit.errors import CheckpointError
from forgekit.families import Family
from forgekit.models.training import ADAPTER, SETTINGS, merged, parse_adapter
from forgekit.sources import Source
from forgekit.surgery import SIDECAR, Surgery, read

if TYPE_CHECKING:
    import numpy as np

KEEP_MAPS = (SIDECAR, "expert_prune.metadata.v1.json")
KEEPS_TENSORS = frozenset(
    {
        "source-config",
        "modality",
        "context-extend",
        "expert-activation-profile",
        "package",
        "eval",
        "publish",
        "deploy",
        "deliver",
        "validate-runtime",
    }
)
"""Stages that leave every tensor as it is."""


RANKS = {"train": 16, "lora": 32, "compensation-lora": 16}
"""Stages that add a low-rank change, and its rank where a record does not say."""


@dataclass
class Meter:
    """Bytes read through it."""

    bytes: int = 0

    def over(self, reader: Callable[[str], Reader]) -> Callable[[str], Reader]:
        def counted(path: str) -> Reader:
            read_ = reader(path)

            def read_range(start: int, size: int) -> bytes:
                data = read_(start, size)
                self.bytes += len(data)
                return data

            return read_range

        return counted


def checkpoint_of(source: Source, meter: Meter) -> Checkpoint:
    """The checkpoint of any source, by ranged reads; nothing is downloaded whole.

    Raises:
        CheckpointError: its headers are not those of a checkpoint.
        SourceError: it cannot be reached.
    """
    sizes = {path: row.size for path, row in source.listing().items() if "/" not in path and row.size is not None}

    def reader(path: str) -> Reader:
        return lambda start, size: source.read_range(path, start, size)

    return opened(sizes, meter.over(reader), source.name)


@dataclass(frozen=True)
class Derived(Checkpoint):
    """A checkpoint that is not written anywhere: tensors are computed from a parent when they are read."""

    make: Callable[[str], bytes] = lambda _name: b""
    text: str = ""
    _last: dict[str, bytes] = field(default_factory=dict, repr=False)

    def read(self, name: str) -> bytes:
        if name not in self._last:
            made = self.make(name)
            self._last.clear()  # one tensor is kept, for a reader that asks for parts of it
            self._last[name] = made
        return self._last[name]

    def read_part(self, name: str, start: int, size: int) -> bytes:
        return self.read(name)[start : start + size]

    @property
    def config_text(self) -> str:
        return self.text


def after_surgery(parent: Checkpoint, family: Family, surgery: Surgery) -> Derived:
    """What a cut leaves of a checkpoint.

    Raises:
        CheckpointError: the cut does not fit.
    """
    expected = surgery.origins(parent, family)
    tensors = {name: _placed(parent, name, expected.origin(name)) for name in sorted(set(expected.names(parent)))}
    text = set_values(parent.config_text, surgery.config(parent, family), f"{parent.where}/{CONFIG}")
    return Derived(parent.where, {}, tensors, parent.reader, None, lambda name: _taken(parent, expected, name), text)


def after_adapter(parent: Checkpoint, pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], scale: float) -> Derived:
    """A checkpoint with an adapter merged into it.

    Raises:
        CheckpointError: the adapter is for a tensor that is not there.
    """
    for name in pairs:
        parent[name]

    def make(name: str) -> bytes:
        return merged(parent, name, pairs[name], scale) if name in pairs else parent.read(name)

    return Derived(parent.where, {}, dict(parent.tensors), parent.reader, None, make, parent.config_text)


def _placed(parent: Checkpoint, name: str, origin: Origin) -> Placed:
    tensor = parent[origin.name].tensor
    shape = list(tensor.shape)
    if origin.rows is not None:
        shape[0] = len(origin.rows)
    if origin.columns is not None:
        shape[-1] = len(origin.columns)
    size = BITS[tensor.dtype]
    for length in shape:
        size *= length
    return Placed("", Tensor(name, tensor.dtype, tuple(shape), 0, size // 8), 0)


def _taken(parent: Checkpoint, expected: Expected, name: str) -> bytes:
    origin = expected.origin(name)
    if origin.whole:
        return parent.read(origin.name)
    if origin.columns is None and not origin.zero_rows and not origin.zero_columns and origin.rows is not None:
        row = parent[origin.name].size // parent[origin.name].tensor.shape[0]
        return b"".join(parent.read_part(origin.name, index * row, row) for index in origin.rows)
    return bytes(cut(parent, origin))


def stages_of(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The records of the stages that ran, in order."""
    results = tree.get("results")
    rows = results.get("stages") if isinstance(results, Mapping) else None
    yield from (row for row in rows or () if isinstance(row, Mapping))


@dataclass(frozen=True)
class Replay:
    """The result of a recipe as an unwritten checkpoint.

    Attributes:
        rank: of the changes that adapters made and that are not in ``checkpoint``, for nothing says what they were;
            0 where every stage left its evidence.
    """

    checkpoint: Checkpoint
    rank: int = 0


def replay(base: Checkpoint, family: Family, tree: Mapping[str, Any], artifact: Source) -> Replay:
    """Follow a recipe by the evidence its artifact carries.

    Raises:
        CheckpointError: a stage changed tensors and left nothing that says how.
        SourceError: evidence cannot be had.
    """
    found, rank = base, 0
    for row in stages_of(tree):
        kind = str(row.get("type"))
        if kind in KEEPS_TENSORS or row.get("inputHash") == row.get("outputHash"):
            continue
        files = {
            str(entry.get("filename")).rsplit("/", 1)[-1]: str(entry.get("filename"))
            for entry in row.get("files") or ()
            if isinstance(entry, Mapping)
        }
        keep_map = next((files[name] for name in KEEP_MAPS if name in files), None)
        if keep_map is not None:
            text = artifact.fetch(keep_map).read_text("utf-8", "replace")
            found = after_surgery(found, family, read(text, artifact.where(keep_map)))
        elif ADAPTER in files and SETTINGS in files:
            size = artifact.listing()[files[ADAPTER]].size or 0
            about = json.loads(artifact.fetch(files[SETTINGS]).read_text("utf-8", "replace"))
            pairs, scale = parse_adapter(
                artifact.read_range(files[ADAPTER], 0, size), about, artifact.where(files[ADAPTER])
            )
            found = after_adapter(found, pairs, scale)
        elif kind in RANKS:
            rank += int(row.get("rank") or RANKS[kind])
        else:
            raise CheckpointError(
                f"stage {row.get('stage')} ({kind}) changed tensors and left no keep-map or adapter that says how",
                where=artifact.name,
            )
    return Replay(found, rank)


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """What comparing an artifact with its replay showed.

    Attributes:
        tensors: in the artifact; names, shapes and dtypes of all were compared.
        compared: of them, byte for byte.
        read: bytes read of base and artifact together.
        full: bytes both have.
        would_catch: the smallest share of tampered tensors this comparison meets with 99 % confidence.
        differences: each a sentence; none where they agree.
        low_rank: of the compared tensors, those that were not recomputed but differ by a low-rank change, as an
            adapter that was not published leaves.
    """

    tensors: int
    compared: int
    read: int
    full: int
    would_catch: float
    differences: tuple[str, ...]
    low_rank: int = 0

    def __str__(self) -> str:
        whole = self.compared == self.tensors
        said = [f"{'all' if whole else f'{self.compared} of'} {self.tensors} tensors recomputed from the base"]
        if self.low_rank:
            said.append(f"{self.low_rank} of them differ by a change of low rank, of which no more is known")
        said.append(f"{self.read:,} of {self.full:,} bytes read")
        said.append(
            "any other change is caught" if whole else f"{self.would_catch:.2%} tampered would be caught at 99 %"
        )
        return "; ".join(said)


def prove_structure(
    base: Source,
    artifact: Source,
    family: Family,
    tree: Mapping[str, Any],
    *,
    sample: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Structure:
    """Recompute an artifact's tensors from its base and compare: all of them, or some drawn by a seed.

    Raises:
        CheckpointError: headers are broken, or a stage left no evidence.
        SourceError: base or artifact cannot be reached.
    """
    meter = Meter()
    parent, child = checkpoint_of(base, meter), checkpoint_of(artifact, meter)
    replayed = replay(parent, family, tree, artifact)
    expected = replayed.checkpoint
    names = sorted(expected.tensors)
    chosen = names if sample is None else drawn(names, sample, seed)
    found = compare(expected, child, Expected({}), only=chosen, progress=progress)
    differences, low_rank = found.differences, 0
    if replayed.rank and not _shapes_differ(found.differences):
        differences, low_rank = _low_rank(expected, child, chosen, replayed.rank)
    return Structure(
        tensors=len(names),
        compared=len(chosen),
        read=meter.bytes,
        full=parent.total + child.total,
        would_catch=caught(len(chosen), len(names)),
        differences=tuple(differences),
        low_rank=low_rank,
    )


def _shapes_differ(differences: list[str]) -> bool:
    return any("differs from" not in said for said in differences)


def _low_rank(expected: Checkpoint, child: Checkpoint, names: list[str], rank: int) -> tuple[list[str], int]:
    """What differs by more than an adapter of this rank can change, and how many tensors differ by no more."""
    wrong, adapted = [], 0
    for name in names:
        before, after = expected.read(name), child.read(name)
        if before == after:
            continue
        tensor = child[name].tensor
        if len(tensor.shape) != 2 or tensor.dtype not in ("BF16", "F16", "F32"):
            wrong.append(f"tensor {name!r} differs from the base's, and no adapter is put on such a tensor")
            continue
        found = rank_of_change(before, after, tensor.dtype, (tensor.shape[0], tensor.shape[1]))
        if found > rank:
            wrong.append(f"tensor {name!r} differs from the base's by a change of rank {found}, above {rank}")
        else:
            adapted += 1
    return wrong, adapted


def rank_of_change(before: bytes, after: bytes, dtype: str, shape: tuple[int, int]) -> int:
    """The rank of the difference of two weights, as far as rounding lets it be seen.

    A merged low-rank update is rounded once per value, which adds noise of full rank. Directions whose singular
    value is below what such noise can reach are not counted.
    """
    import numpy as np

    from forgekit.models.training import to_float64

    one, two = (to_float64(data, dtype, "weight").reshape(shape) for data in (before, after))
    change = two - one
    bits = {"BF16": 8, "F16": 11, "F32": 24}[dtype]
    half = np.abs(two) * 2.0**-bits  # half a unit in the last place
    # the largest singular value of independent noise of standard deviation s is about s (sqrt m + sqrt n)
    noise = np.sqrt((half**2).mean() / 3) * (np.sqrt(shape[0]) + np.sqrt(shape[1])) * 1.5
    return int((np.linalg.svd(change, compute_uv=False) > noise).sum())


class FolderCheckpointSource:
    """A base checkpoint in a folder, as a source; it needs no alloy."""

    revision: str | None = None

    def __init__(self, root: Path) -> None:
        from forgekit.sources import FileRecord

        self.root = root
        self.name = str(root)
        self._listing = {
            path.name: FileRecord(path=path.name, size=path.stat().st_size, sha256=None, told_by="the local file")
            for path in sorted(root.iterdir())
            if path.is_file()
        }

    def listing(self) -> Mapping[str, Any]:
        return self._listing

    def alloy(self) -> Any:
        raise CheckpointError("a base has no alloy", where=self.name)

    def fetch(self, path: str) -> Path:
        return self.root / path

    def read_range(self, path: str, start: int, size: int) -> bytes:
        with (self.root / path).open("rb", buffering=0) as file:
            file.seek(start)
            return file.read(size)

    def where(self, path: str) -> str:
        return str(self.root / path)
