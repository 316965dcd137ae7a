"""Digests, and each convention by which a set of files gets one hash.

Every hash in a published alloy is SHA-256. What differs is *of what*: the
conventions stand here under their own names, and nowhere else.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from forgekit.errors import DigestError, SourceError

CHUNK = 1 << 20  # bytes per read; hashlib lets other threads run from 2 KiB up
HEX = frozenset("0123456789abcdef")
Progress = Callable[[int], None]  # called with the number of bytes just hashed


@dataclass(frozen=True, slots=True, order=True)
class Digest:
    """A SHA-256 value. Prints as ``sha256:<64 hex>``."""

    hex: str

    def __post_init__(self) -> None:
        if len(self.hex) != 64 or not HEX.issuperset(self.hex):
            raise DigestError(f"{self.hex!r} is not 64 lower-case hex digits", hint=fault(self.hex))

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Read ``sha256:<hex>`` or bare hex, the two spellings published alloys use.

        Raises:
            DigestError: anything else, saying what is wrong with it.
        """
        if problem := fault(text):
            raise DigestError(f"{text!r} is not a SHA-256 digest: {problem}")
        return cls(text.removeprefix("sha256:"))

    @property
    def short(self) -> str:
        """First 16 hex digits: the form verify URLs carry."""
        return self.hex[:16]

    def __str__(self) -> str:
        return f"sha256:{self.hex}"


def fault(text: str) -> str:
    """What keeps ``text`` from being a SHA-256 digest; empty when it is one."""
    body = text.removeprefix("sha256:")
    if not body:
        return "it is empty"
    if not HEX.issuperset(body):
        if HEX.issuperset(body.lower()):
            return "its hex digits are not lower case"
        return "it is not hexadecimal"
    if len(body) != 64:
        return f"it has {len(body)} hex digits, not 64"
    return ""


def sha256(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).hexdigest())


def sha256_file(path: Path, *, progress: Progress | None = None, stop: threading.Event | None = None) -> Digest:
    """Stream one file through SHA-256 in constant memory.

    Raises:
        SourceError: the file cannot be read.
        CancelledError: ``stop`` was set while reading.
    """
    state = hashlib.sha256()
    _feed(state.update, path, progress, stop)
    return Digest(state.hexdigest())


def sha256_files(
    paths: Sequence[Path], *, workers: int | None = None, progress: Progress | None = None
) -> dict[Path, Digest]:
    """Hash files side by side, one thread each, the largest first.

    Args:
        workers: threads; by default as many as this process may use processors.
        progress: called from worker threads with bytes done since the last call.

    Returns:
        Digests in the order of ``paths``.

    Raises:
        SourceError: a file cannot be read; the others are abandoned.
    """
    if workers is None:
        workers = available_processors()
    stop = threading.Event()
    found: dict[Path, Digest] = {}
    with ThreadPoolExecutor(max_workers=max(1, min(workers, len(paths) or 1))) as pool:
        jobs = {
            pool.submit(sha256_file, path, progress=progress, stop=stop): path
            for path in sorted(paths, key=_size, reverse=True)
        }
        try:
            for job in as_completed(jobs):
                found[jobs[job]] = job.result()
        except BaseException:  # Ctrl-C too: tell the threads before the pool waits for them
            stop.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return {path: found[path] for path in paths}


def manifest(files: Iterable[tuple[str, str]]) -> bytes:
    """The bytes that a modelHash is of: JSON, each weight file's name and hash.

    A list of ``{"filename", "sha256"}`` objects, sorted by filename, keys sorted, no spaces, ASCII-escaped.

    Args:
        files: (repo-relative POSIX path, hex SHA-256) per weight file, in any order.

    Raises:
        DigestError: there are no files, a name stands twice, or a hash is malformed.
    """
    entries = sorted(files)
    if not entries:
        raise DigestError("a model hash needs at least one weight file")
    names = [name for name, _ in entries]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise DigestError(f"{twice[0]!r} is listed twice")
    rows = [{"filename": name, "sha256": Digest.parse(value).hex} for name, value in entries]
    return json.dumps(rows, sort_keys=True, separators=(",", ":")).encode()


def model_hash(files: Iterable[tuple[str, str]]) -> Digest:
    """The ``manifest`` convention: SHA-256 of the manifest of the weight files.

    Raises:
        DigestError: as ``manifest`` does.
    """
    return sha256(manifest(files))


def concat_hash(paths: Iterable[Path], *, progress: Progress | None = None) -> Digest:
    """The superseded ``concat`` convention: SHA-256 over the files' bytes, sorted by name.

    Recognised so that it can be named; nothing is confirmed by it. For one
    file it equals that file's own SHA-256.
    """
    ordered = sorted(paths, key=lambda path: path.name)
    if not ordered:
        raise DigestError("a model hash needs at least one weight file")
    state = hashlib.sha256()
    for path in ordered:
        _feed(state.update, path, progress, None)
    return Digest(state.hexdigest())


def merkle_root(leaves: Sequence[bytes]) -> Digest:
    """Root of a Merkle tree over ``leaves``, in the order given.

    Leaf = SHA-256(0x00 ‖ data), node = SHA-256(0x01 ‖ left ‖ right); an odd
    node moves up unpaired. The two prefixes keep a leaf from passing for a node.

    Raises:
        DigestError: there are no leaves.

    Source: RFC 6962 section 2.1 (domain separation), with the published alloys' rule for odd nodes.
    """
    return merkle_root_of(hashlib.sha256(b"\0" + leaf).digest() for leaf in leaves)


def merkle_root_of_files(paths: Sequence[Path]) -> Digest:
    """``merkle_root`` over file contents, sorted by name, each file streamed."""

    def leaf(path: Path) -> bytes:
        state = hashlib.sha256(b"\0")
        _feed(state.update, path, None, None)
        return state.digest()

    return merkle_root_of(leaf(path) for path in sorted(paths, key=lambda path: path.name))


def merkle_root_of(leaf_hashes: Iterable[bytes]) -> Digest:
    """``merkle_root`` for leaves that are hashed already."""
    level = list(leaf_hashes)
    if not level:
        raise DigestError("a Merkle root needs at least one item")
    while len(level) > 1:
        pairs = [hashlib.sha256(b"\1" + a + b).digest() for a, b in zip(level[::2], level[1::2], strict=False)]
        level = pairs + level[len(pairs) * 2 :]
    return Digest(level[0].hex())


def is_plain_relative(path: str) -> bool:
    """Whether ``path`` is a POSIX path that stays inside the folder it is taken from."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith(("/", "\\")) and ".." not in parts and "\0" not in path


def available_processors() -> int:
    """Processors this process may run on, which a container can make fewer than the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # reported, with its reason, when it is opened


def _feed(
    update: Callable[[memoryview], object], path: Path, progress: Progress | None, stop: threading.Event | None
) -> None:
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)
    try:
        with path.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                if stop is not None and stop.is_set():
                    raise CancelledError(f"hashing of {path} was stopped")
                update(view[:count])
                if progress is not None:
                    progress(count)
    except OSError as error:
        raise SourceError(f"cannot read the file: {error.strerror}", where=str(path)) from error
