"""A checkpoint of one or many shards, opened by its headers: a local folder, or any source by ranged reads."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from forgekit.checkpoint import Reader, Tensor
from forgekit.checkpoint.safetensors import read_header
from forgekit.errors import CheckpointError

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
CONFIG = "config.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor, the file it stands in, and the byte of that file where it starts."""

    file: str
    tensor: Tensor
    start: int

    @property
    def size(self) -> int:
        """Bytes."""
        assert self.tensor.end is not None
        return self.tensor.end - self.tensor.start


@dataclass(frozen=True)
class Checkpoint:
    """What the headers say, and how to read the bytes behind them.

    Attributes:
        where: folder or URL, for messages.
        files: shards by name, and the bytes each has.
        tensors: by name, in the order of the shards and of their bytes.
        reader: gives the reader of any file of the checkpoint.
    """

    where: str
    files: Mapping[str, int]
    tensors: Mapping[str, Placed]
    reader: Callable[[str], Reader]
    root: Path | None = None

    @property
    def total(self) -> int:
        """Bytes of all shards."""
        return sum(self.files.values())

    def read(self, name: str) -> bytes:
        """The bytes of one tensor.

        Raises:
            CheckpointError: there is no such tensor, or the file ends before it does.
        """
        placed = self[name]
        return self.read_part(name, 0, placed.size)

    def read_part(self, name: str, start: int, size: int) -> bytes:
        """``size`` bytes of one tensor from its byte ``start``.

        Raises:
            CheckpointError: there is no such tensor, or the file ends before it does.
        """
        placed = self[name]
        data = self.reader(placed.file)(placed.start + start, size)
        if len(data) != size:
            raise CheckpointError(f"tensor {name!r} is cut short", where=f"{self.where}/{placed.file}")
        return data

    def __getitem__(self, name: str) -> Placed:
        try:
            return self.tensors[name]
        except KeyError:
            raise CheckpointError(f"there is no tensor {name!r}", where=self.where) from None

    @cached_property
    def config_text(self) -> str:
        """``config.json`` as it is written.

        Raises:
            CheckpointError: there is none, or it is not text.
        """
        data = self.reader(CONFIG)(0, 64 << 20)
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError("the file is not UTF-8 text", where=f"{self.where}/{CONFIG}") from error

    @cached_property
    def config(self) -> dict[str, Any]:
        """``config.json``, parsed.

        Raises:
            CheckpointError: it is missing or not a JSON object.
        """
        return parse_object(self.config_text, f"{self.where}/{CONFIG}")


def parse_object(text: str, where: str) -> dict[str, Any]:
    """A JSON object from text.

    Raises:
        CheckpointError: the text is something else.
    """
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"the file is not JSON: {error}", where=where) from error
    if not isinstance(tree, dict):
        raise CheckpointError("the file does not hold a JSON object", where=where)
    return tree


def open_folder(root: Path) -> Checkpoint:
    """A checkpoint in a folder.

    Raises:
        CheckpointError: there are no safetensors, only pickles; an index names shards or tensors that are not
            there; two shards hold the same tensor; or a header does not describe its file.
    """
    if not root.is_dir():
        raise CheckpointError("there is no such folder", where=str(root))
    sizes = {path.name: path.stat().st_size for path in root.iterdir() if path.is_file()}

    def reader(name: str) -> Reader:
        return lambda start, size: read_file(root / name, start, size)

    return opened(sizes, reader, str(root), root=root)


def opened(
    sizes: Mapping[str, int], reader: Callable[[str], Reader], where: str, *, root: Path | None = None
) -> Checkpoint:
    """A checkpoint from the sizes of its files and a way to read ranges of them.

    Raises:
        CheckpointError: as ``open_folder``.
    """
    listed = _listed(sizes, reader, where)
    files = sorted(set(listed.values())) if listed is not None else _unlisted(sizes, where)
    tensors: dict[str, Placed] = {}
    for name in files:
        at = f"{where}/{name}"
        if name not in sizes:
            raise CheckpointError(f"the index names a shard that is not there: {name}", where=where)
        read = reader(name)
        header = read_header(read, sizes[name], at)
        start = 8 + int.from_bytes(read(0, 8), "little")
        for tensor in header:
            if tensor.name in tensors:
                other = tensors[tensor.name].file
                raise CheckpointError(f"tensor {tensor.name!r} stands in {other} and again in {name}", where=where)
            tensors[tensor.name] = Placed(name, tensor, start + tensor.start)
    if listed is not None:
        _agree(listed, tensors, where)
    return Checkpoint(where, {name: sizes[name] for name in files}, tensors, reader, root)


def _listed(sizes: Mapping[str, int], reader: Callable[[str], Reader], where: str) -> dict[str, str] | None:
    if INDEX not in sizes:
        return None
    at = f"{where}/{INDEX}"
    tree = parse_object(reader(INDEX)(0, sizes[INDEX]).decode("utf-8", "replace"), at)
    listed = tree.get("weight_map")
    if not isinstance(listed, dict) or not all(isinstance(name, str) for name in listed.values()):
        raise CheckpointError("weight_map does not map tensors to shards", where=at)
    if strange := next((name for name in listed.values() if "/" in name or not name.endswith(".safetensors")), None):
        raise CheckpointError(f"weight_map names {strange!r}, which is not a shard of this folder", where=at)
    return listed


def _unlisted(sizes: Mapping[str, int], where: str) -> list[str]:
    files = sorted(name for name in sizes if name.endswith(".safetensors") and "/" not in name)
    if SINGLE in files:
        return [SINGLE]
    if not files:
        pickles = sorted(name for name in sizes if name.endswith(PICKLES))
        if pickles:
            raise CheckpointError(
                f"the weights are pickled ({', '.join(pickles[:3])}), and a pickle can run any program when it is read",
                where=where,
                hint="convert them to safetensors where they are trusted: "
                "https://huggingface.co/docs/safetensors/convert-weights",
            )
        raise CheckpointError("there are no safetensors files", where=where)
    if len(files) > 1:
        raise CheckpointError(f"there are {len(files)} shards and no {INDEX}", where=where)
    return files


def _agree(listed: Mapping[str, str], tensors: Mapping[str, Placed], where: str) -> None:
    at = f"{where}/{INDEX}"
    for name, file in listed.items():
        if name not in tensors:
            raise CheckpointError(f"tensor {name!r} is listed and in no shard", where=at)
        if tensors[name].file != file:
            raise CheckpointError(f"tensor {name!r} is listed in {file} and stands in {tensors[name].file}", where=at)
    if extra := next((name for name in tensors if name not in listed), None):
        raise CheckpointError(f"tensor {extra!r} stands in {tensors[extra].file} and is not listed", where=at)


def read_file(path: Path, start: int, size: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            parts = []
            while size > 0 and (part := file.read(min(size, 1 << 30))):
                parts.append(part)
                size -= len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
    except OSError as error:
        raise CheckpointError(f"cannot read the file: {error.strerror}", where=str(path)) from error
