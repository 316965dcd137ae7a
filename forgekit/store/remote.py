"""A store anywhere fsspec reaches: S3, GCS, a Hugging Face bucket, memory.

An object store makes a key visible when its upload is complete, which is what
renaming does on a disk. It has no locks; what stands in for them is in
``leasing``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from forgekit.digest import CHUNK, Digest, Progress, sha256_file
from forgekit.errors import AbsentError, StoreError
from forgekit.store.bringing import open_plain
from forgekit.store.storage import LocalStorage, Staged, Storage

UPLOAD = 4 << 20  # bytes per write of an upload


class RemoteStorage:
    """Keys below a path of an fsspec file system.

    Args:
        fs: the file system; an ``fsspec.AbstractFileSystem``.
        root: path in it.
        url: as it was asked for, for messages.
    """

    def __init__(self, fs: Any, root: str, url: str) -> None:
        self.fs = fs
        self.root = root.rstrip("/")
        self.url = url

    def read(self, key: str) -> bytes:
        with self._reaching(key):
            return cast("bytes", self.fs.cat_file(self._path(key)))

    def stream(self, key: str) -> BinaryIO:
        with self._reaching(key):
            return cast("BinaryIO", self.fs.open(self._path(key), "rb"))

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:  # noqa: ARG002 - a bucket always is
        with self._reaching(key):
            self._ready(key)
            self.fs.pipe_file(self._path(key), data)

    def stage(self, source: Path, *, link: bool = False, progress: Progress | None = None) -> Staged:  # noqa: ARG002
        os.close(open_plain(source))
        return Staged(sha256_file(source, progress=progress), source.stat().st_size, source, "upload")

    def commit(self, staged: Staged, key: str) -> None:
        """Upload a file; one that changed since it was hashed is taken away again.

        Raises:
            StoreError: the host refuses, or the file changed.
        """
        if self.size(key) == staged.size:
            return
        state = hashlib.sha256()
        with self._reaching(key):
            self._ready(key)
            with staged.source.open("rb") as file, self.fs.open(self._path(key), "wb") as out:
                while part := file.read(UPLOAD):
                    state.update(part)
                    out.write(part)
        if state.hexdigest() != staged.digest.hex:
            self.delete(key)
            raise StoreError("the file changed while it was uploaded", where=str(staged.source), hint="put it again")

    def discard(self, staged: Staged) -> None:
        """Nothing was taken in yet."""

    def size(self, key: str) -> int | None:
        with self._reaching(key):
            try:
                found = self.fs.info(self._path(key))
            except FileNotFoundError:
                return None
        return int(found["size"]) if found.get("type") == "file" else None

    def listing(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._reaching(prefix):
            self.fs.invalidate_cache()
            try:
                rows = self.fs.find(self._path(prefix), detail=True)
            except FileNotFoundError:
                return
        start = len(self._path(""))
        for path in sorted(rows):
            yield path[start:], int(rows[path].get("size") or 0)

    def delete(self, key: str) -> None:
        with self._reaching(key), contextlib.suppress(FileNotFoundError):
            self.fs.rm_file(self._path(key))

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        yield False

    def sweep(self, older_than: float) -> int:  # noqa: ARG002 - nothing is taken in under a passing name
        return 0

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _ready(self, key: str) -> None:
        """Make the folder of a key, for file systems that have folders."""
        self.fs.makedirs(self._path(key).rsplit("/", 1)[0], exist_ok=True)

    @contextlib.contextmanager
    def _reaching(self, key: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise AbsentError("the store does not hold it", where=f"{self.url}: {key}") from error
        except OSError as error:
            said = error.strerror or str(error) or type(error).__name__
            raise StoreError(
                f"the store cannot be used: {said}", where=f"{self.url}: {key}", hint="what was stored is as it was"
            ) from error


def open_storage(url: str) -> Storage:
    """The storage behind a path or URL. ``file://`` and plain paths are folders of this machine.

    Raises:
        StoreError: nothing knows such a URL, or what does is not installed.
    """
    protocol, colon, rest = url.partition("://")
    if not colon:
        return LocalStorage(Path(url).expanduser())
    if protocol in {"file", "local"}:
        return LocalStorage(Path(rest))
    try:
        import fsspec  # type: ignore[import-untyped]

        fs, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except ImportError as error:
        raise StoreError(f"{protocol}:// needs a package: {error}", where=url, hint="pip install it") from error
    except (ValueError, TypeError, OSError) as error:
        raise StoreError(f"the URL cannot be opened: {error}", where=url) from error
    return RemoteStorage(fs, root, url)


def hash_stream(file: BinaryIO) -> tuple[Digest, int]:
    """SHA-256 and length of what is left in a stream."""
    state, size = hashlib.sha256(), 0
    while part := file.read(CHUNK):
        state.update(part)
        size += len(part)
    return Digest(state.hexdigest()), size
