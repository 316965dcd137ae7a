"""Checkpoints written as streams: spans of other files, and at most one tensor in memory.

The bytes of a file are a function of its pieces: one metadata key, tensors by
falling element size and then by name, a header padded with spaces to eight
bytes. safetensors' own writer orders two or more metadata keys at random.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from forgekit.checkpoint.opening import INDEX, SINGLE, Checkpoint, Placed
from forgekit.checkpoint.safetensors import BITS
from forgekit.digest import available_processors
from forgekit.errors import CheckpointError

SIDE_BY_SIDE = 4  # shards copied at once; the kernel does it, and more would only queue at the disk
CHUNK = 8 << 20  # bytes per step of a copy
SHARD_LIMIT = 5_000_000_000  # bytes of tensors per shard where shards are cut anew; transformers' default is 5 GB too
COMPANIONS = (
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "spk_dict.pt",  # Qwen2.5-Omni's voices; copied as bytes, never unpickled
)
"""Files that travel with the weights and that no stage changes."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file that are copied as they are."""

    path: Path
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class Made:
    """Bytes that are computed when their turn comes."""

    make: Callable[[], bytes | bytearray | memoryview]
    size: int


@dataclass(frozen=True, slots=True)
class Piece:
    """One tensor to be written: its description, and where its bytes come from, in order."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Span | Made, ...]

    @property
    def size(self) -> int:
        return sum(part.size for part in self.parts)


def span(source: Checkpoint, placed: Placed) -> Span:
    """A whole tensor of a local checkpoint."""
    assert source.root is not None
    return Span(source.root / placed.file, placed.start, placed.size)


def unchanged(source: Checkpoint, name: str, *, as_name: str | None = None) -> Piece:
    """A tensor copied byte for byte, under its own name or another."""
    placed = source[name]
    return Piece(as_name or name, placed.tensor.dtype, placed.tensor.shape, (span(source, placed),))


def header(pieces: Iterable[Piece]) -> tuple[bytes, list[Piece]]:
    """The first bytes of a file of these tensors, and the tensors in the order of their bytes.

    Raises:
        CheckpointError: a piece has not the size its dtype and shape need.
    """
    ordered = sorted(pieces, key=lambda piece: (-BITS[piece.dtype], piece.name))
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for piece in ordered:
        needed = BITS[piece.dtype]
        for length in piece.shape:
            needed *= length
        if needed != piece.size * 8:
            raise CheckpointError(
                f"tensor {piece.name!r}, {piece.dtype} {list(piece.shape)}, needs {needed / 8:g} bytes "
                f"and would get {piece.size}"
            )
        entries[piece.name] = {"dtype": piece.dtype, "shape": piece.shape, "data_offsets": [at, at + piece.size]}
        at += piece.size
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text, ordered


def write_file(path: Path, pieces: Iterable[Piece], *, durable: bool = True, progress: Progress | None = None) -> None:
    """Write one safetensors file under a temporary name, flush it to disk, rename it.

    A file that already has the name, the size and the header is complete,
    for it was renamed last, and is kept.

    Raises:
        CheckpointError: the disk is full, a source is shorter than its header says, or a piece has the wrong size.
    """
    head, ordered = header(pieces)
    total = len(head) + sum(piece.size for piece in ordered)
    if _complete(path, head, total):
        if progress is not None:
            progress(total)
        return
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb", buffering=0) as out:
            _write_all(out.fileno(), head)
            for piece in ordered:
                for part in piece.parts:
                    _put(out.fileno(), part, piece.name, progress)
            if durable:
                os.fsync(out.fileno())
        aside.replace(path)
        if durable:
            sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write the file: {error.strerror}", where=str(path), hint=_hint(error)) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def write_shards(
    folder: Path, shards: Mapping[str, Sequence[Piece]], *, durable: bool = True, progress: Progress | None = None
) -> dict[str, str]:
    """Write shards and, where there are several, their index.

    Args:
        shards: pieces by the name of the shard they came from; empty ones are left out and the rest renumbered.

    Returns:
        The shard each tensor stands in.
    """
    filled = [pieces for _, pieces in sorted(shards.items()) if pieces]
    if not filled:
        raise CheckpointError("there is no tensor to write", where=str(folder))
    names = [SINGLE] if len(filled) == 1 else [shard_name(n, len(filled)) for n in range(1, len(filled) + 1)]
    copied = all(isinstance(part, Span) for pieces in filled for piece in pieces for part in piece.parts)
    workers = min(available_processors(), SIDE_BY_SIDE) if copied else 1  # one tensor in memory at a time
    with ThreadPoolExecutor(workers) as pool:
        jobs = [
            pool.submit(write_file, folder / name, pieces, durable=durable, progress=progress)
            for name, pieces in zip(names, filled, strict=True)
        ]
        try:
            for job in as_completed(jobs):
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    placed = {piece.name: name for name, pieces in zip(names, filled, strict=True) for piece in pieces}
    if len(names) > 1:
        size = sum(piece.size for pieces in filled for piece in pieces)
        write_index(folder, placed, size)
    return placed


def shard_name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def write_index(folder: Path, placed: Mapping[str, str], size: int) -> None:
    """``model.safetensors.index.json``; ``total_size`` counts the tensors' bytes, as transformers' does."""
    tree = {"metadata": {"total_size": size}, "weight_map": dict(sorted(placed.items()))}
    write_text(folder / INDEX, json.dumps(tree, indent=2) + "\n")


def cut_anew(pieces: Iterable[Piece], limit: int = SHARD_LIMIT) -> dict[str, list[Piece]]:
    """Pieces by shard, filled in the order given until the next one would pass ``limit`` bytes."""
    shards: list[list[Piece]] = [[]]
    size = 0
    for piece in pieces:
        if shards[-1] and size + piece.size > limit:
            shards.append([])
            size = 0
        shards[-1].append(piece)
        size += piece.size
    return {shard_name(number, len(shards)): shard for number, shard in enumerate(shards, 1)}


def write_text(path: Path, text: str) -> None:
    """A small file, whole or not at all.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written.
    """
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """As ``write_text``, for bytes."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError as error:
        raise CheckpointError(f"cannot write the file: {error.strerror}", where=str(path), hint=_hint(error)) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def copy_companions(source: Path, folder: Path, names: Sequence[str] = COMPANIONS) -> list[str]:
    """Copy the files that travel with the weights; links are followed, so that the copy stands alone.

    Returns:
        The names that were there.
    """
    found = [name for name in names if (source / name).is_file()]
    for name in found:
        copy_file(source / name, folder / name)
    return found


def copy_file(source: Path, target: Path) -> None:
    """One file, byte for byte, renamed into place when it is complete.

    Raises:
        CheckpointError: it cannot be read or written.
    """
    aside = target.with_name(f".{target.name}.partial")
    try:
        shutil.copyfile(source, aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"cannot copy the file: {error.strerror}", where=f"{source} to {target}", hint=_hint(error)
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink()


def link_or_copy(source: Path, target: Path) -> None:
    """The same file under a second name where the file system can, else a copy."""
    try:
        target.unlink(missing_ok=True)
        os.link(source.resolve(), target)
    except OSError:
        copy_file(source, target)


def sync_folder(folder: Path) -> None:
    """Make renames in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _complete(path: Path, head: bytes, total: int) -> bool:
    try:
        if path.stat().st_size != total:
            return False
        with path.open("rb") as file:
            return file.read(len(head)) == head
    except OSError:
        return False


def _put(out: int, part: Span | Made, name: str, progress: Progress | None) -> None:
    if isinstance(part, Made):
        data = part.make()
        if len(memoryview(data).cast("B")) != part.size:
            raise CheckpointError(f"tensor {name!r} came out with another size than planned")
        _write_all(out, memoryview(data).cast("B"))
        if progress is not None:
            progress(part.size)
        return
    source = os.open(part.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        _copy(source, out, part, name, progress)
    finally:
        os.close(source)


def _copy(source: int, out: int, part: Span, name: str, progress: Progress | None) -> None:
    at, left = part.start, part.size
    in_kernel = hasattr(os, "copy_file_range")
    while left:
        count = 0
        if in_kernel:
            try:
                count = os.copy_file_range(source, out, min(left, 1 << 30), at)
            except OSError as error:
                if error.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}:
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source, min(left, CHUNK), at)
            _write_all(out, data)
            count = len(data)
        if count == 0:
            raise CheckpointError(f"tensor {name!r} is cut short", where=str(part.path))
        at += count
        left -= count
        if progress is not None:
            progress(count)


def _write_all(out: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


def _hint(error: OSError) -> str:
    return (
        "make room and run the same command again; it goes on where it stopped" if error.errno == errno.ENOSPC else ""
    )
