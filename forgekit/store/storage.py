"""Where a store's bytes lie. A key is a POSIX path inside the store; a write is whole or did not happen."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from forgekit.checkpoint.writing import sync_folder
from forgekit.digest import Digest, Progress
from forgekit.errors import AbsentError, StoreError
from forgekit.store.bringing import How, bring

ROOM = "make room and run the same command again; what was stored is as it was"
Step = Callable[[str, str], None]  # what is about to be done, and to which key


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes ready to be put in place.

    Attributes:
        digest, size: of the bytes as they were read.
        source: where they are now; for a local store a name of its own, else the file they came from.
        how: they got there.
    """

    digest: Digest
    size: int
    source: Path
    how: How


class Storage(Protocol):
    """Bytes by key."""

    url: str

    def read(self, key: str) -> bytes:
        """All bytes of a key.

        Raises:
            AbsentError: there is no such key.
        """

    def stream(self, key: str) -> BinaryIO:
        """The bytes of a key, to be read in parts; raises as ``read`` does."""

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        """Put bytes under a key, over what was there.

        Raises:
            StoreError: there is no room, or no permission.
        """

    def stage(self, source: Path, *, link: bool = False, progress: Progress | None = None) -> Staged:
        """Hash a file and, where the store is on this machine, take it in under a passing name."""

    def commit(self, staged: Staged, key: str) -> None:
        """Put what was staged under its key, over what was there."""

    def discard(self, staged: Staged) -> None:
        """Forget what was staged and not committed."""

    def size(self, key: str) -> int | None:
        """Bytes under a key; None where there is none, or it is not a plain file."""

    def listing(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size) of everything below a prefix; -1 where it is not a plain file."""

    def delete(self, key: str) -> None:
        """Remove a key; none is fine."""

    def lock(self) -> AbstractContextManager[bool]:
        """Wait to be the only collector. Gives whether that is certain: it is where the kernel keeps the lock."""

    def sweep(self, older_than: float) -> int:
        """Remove passing names that were left behind this many seconds ago or more; gives how many."""


def _pass(_what: str, _key: str) -> None:
    pass


class LocalStorage:
    """A folder.

    Args:
        root: made where there is none.
        durable: flush to disk before a rename counts; off only for what can be made again.
        step: called before everything that changes the disk.
    """

    def __init__(self, root: Path, *, durable: bool = True, step: Step = _pass) -> None:
        self.root = root.absolute()
        self.url = str(self.root)
        self.durable = durable
        self.step = step

    def read(self, key: str) -> bytes:
        with self.stream(key) as file:
            return file.read()

    def stream(self, key: str) -> BinaryIO:
        path = f"{self.url}/{key}"
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise AbsentError("the store does not hold it", where=path) from error
        except OSError as error:
            raise StoreError(f"cannot read the file: {error.strerror}", where=path) from error
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise StoreError("it is not a plain file", where=path, hint="forgekit store fsck")
        return os.fdopen(handle, "rb", buffering=0)

    def write(self, key: str, data: bytes, *, durable: bool = True) -> None:
        with self._writing(key):
            aside = self._aside()
            try:
                self.step("write", key)
                with aside.open("xb", buffering=0) as file:
                    view = memoryview(data)
                    while view:
                        view = view[file.write(view) :]
                    if durable and self.durable:
                        os.fsync(file.fileno())
                self._rename(aside, key, durable=durable)
            finally:
                self._unlink(aside)

    def stage(self, source: Path, *, link: bool = False, progress: Progress | None = None) -> Staged:
        with self._writing(str(source)):
            aside = self._aside()
            self.step("stage", str(source))
            try:
                digest, size, how = bring(source, aside, link=link, durable=self.durable, progress=progress)
            except BaseException:
                self._unlink(aside)
                raise
            return Staged(digest, size, aside, how)

    def commit(self, staged: Staged, key: str) -> None:
        with self._writing(key):
            self._rename(staged.source, key, durable=True)
            self._unlink(staged.source)  # still there where both names were the same file

    def discard(self, staged: Staged) -> None:
        self._unlink(staged.source)

    def size(self, key: str) -> int | None:
        try:
            found = os.lstat(f"{self.url}/{key}")
        except OSError:
            return None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def listing(self, prefix: str) -> Iterator[tuple[str, int]]:
        waiting = [prefix]
        while waiting:
            folder = waiting.pop()
            try:
                with os.scandir(f"{self.url}/{folder}") as entries:
                    rows = sorted(entries, key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise StoreError(f"cannot list the folder: {error.strerror}", where=f"{self.url}/{folder}") from error
            for entry in rows:
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(f"{folder}/{entry.name}")
                elif (size := _size(entry)) is not None:
                    yield f"{folder}/{entry.name}", size

    def delete(self, key: str) -> None:
        path = self.root / key
        with self._writing(key):
            self.step("delete", key)
            path.unlink(missing_ok=True)
            if self.durable and path.parent.is_dir():
                sync_folder(path.parent)

    @contextlib.contextmanager
    def lock(self) -> Iterator[bool]:
        with self._writing("lock"):
            self.root.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.root / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # the kernel lets go of it when its holder dies
            yield True
        finally:
            os.close(handle)

    def sweep(self, older_than: float) -> int:
        count = 0
        before = time.time() - older_than
        for key, _ in self.listing("tmp"):
            path = self.root / key
            with contextlib.suppress(OSError):
                if path.lstat().st_ctime <= before:  # a link has its file's mtime
                    self.step("sweep", key)
                    path.unlink()
                    count += 1
        return count

    def _aside(self) -> Path:
        folder = self.root / "tmp"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / uuid.uuid4().hex

    def _rename(self, aside: Path, key: str, *, durable: bool) -> None:
        path = self.root / key
        made = not path.parent.is_dir()
        if made:
            path.parent.mkdir(parents=True, exist_ok=True)
        self.step("rename", key)
        aside.replace(path)
        if durable and self.durable:
            sync_folder(path.parent)
            if made:
                sync_folder(path.parent.parent)
        self.step("renamed", key)

    def _unlink(self, aside: Path) -> None:
        """Remove a passing name, where it was not renamed."""
        with contextlib.suppress(OSError):
            self.step("unlink", aside.name)
            aside.unlink()

    @contextlib.contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            raise StoreError(
                f"cannot write to the store: {error.strerror}", where=f"{self.url}: {key}", hint=ROOM if full else ""
            ) from error


def _size(entry: os.DirEntry[str]) -> int | None:
    """Of a plain file; -1 for anything else, None for what has gone meanwhile."""
    try:
        return entry.stat(follow_symlinks=False).st_size if entry.is_file(follow_symlinks=False) else -1
    except OSError:
        return None
