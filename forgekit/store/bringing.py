"""Taking a file in without copying it twice: a reflink, a hard link where that is safe, else one pass that hashes too.

A reflink is a snapshot: both files go their own ways. A hard link is the same
file under two names, so an edit of the one changes the other; that is why it
is made only when asked for, or of a file nobody may write to. Reading and fsck
catch it where it happens all the same.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path
from typing import Literal

from forgekit.digest import Digest, Progress, sha256_file
from forgekit.errors import StoreError

How = Literal["reflink", "link", "copy", "upload"]
CHUNK = 4 << 20  # bytes that are hashed and written side by side
FICLONE = 0x40049409  # linux/fs.h
CANNOT_CLONE = frozenset(
    {errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EBADF, errno.EISDIR}
)


def bring(
    source: Path, aside: Path, *, link: bool, durable: bool, progress: Progress | None = None
) -> tuple[Digest, int, How]:
    """Make ``aside`` hold the bytes of ``source``.

    Returns:
        Hash and size of the bytes that are there now, and how they came.

    Raises:
        StoreError: the source is no plain file, or cannot be read.
        OSError: ``aside`` cannot be written.
    """
    with contextlib.ExitStack() as stack:
        handle = open_plain(source)
        stack.callback(os.close, handle)
        found = os.fstat(handle)
        how: How
        if reflink(handle, aside):
            how, digest = "reflink", sha256_file(aside, progress=progress)
        elif (link or not found.st_mode & 0o222) and hard_link(source, aside, found):
            how, digest = "link", sha256_file(aside, progress=progress)
        else:
            how, digest = "copy", copy(handle, aside, progress)
        if how != "link":
            aside.chmod(0o444)
        if durable:
            _sync(aside)
        return digest, aside.stat().st_size, how


def open_plain(source: Path) -> int:
    """A handle on a plain file, links followed; never one that could wait for a writer.

    Raises:
        StoreError: it is something else, or cannot be read.
    """
    try:
        handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(f"cannot read the file: {error.strerror}", where=str(source)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise StoreError("it is not a plain file", where=str(source))
    return handle


def reflink(handle: int, aside: Path) -> bool:
    """Share the blocks of a file, to be copied when either is written; False where the file system cannot."""
    out = os.open(aside, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    try:
        fcntl.ioctl(out, FICLONE, handle)
    except OSError as error:
        aside.unlink()
        if error.errno in CANNOT_CLONE:
            return False
        raise
    finally:
        os.close(out)
    return True


def hard_link(source: Path, aside: Path, found: os.stat_result) -> bool:
    """Give a file a second name; False across file systems, where it is forbidden, or where the file was replaced."""
    try:
        os.link(source.resolve(), aside)
    except OSError as error:
        if error.errno in {errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOENT, errno.EOPNOTSUPP}:
            return False
        raise
    made = aside.lstat()
    if (made.st_dev, made.st_ino) == (found.st_dev, found.st_ino):
        return True
    aside.unlink()
    return False


def copy(handle: int, aside: Path, progress: Progress | None) -> Digest:
    """Copy what is left of a file, hashing each part while it is written."""
    state = hashlib.sha256()
    with aside.open("xb", buffering=0) as out, os.fdopen(os.dup(handle), "rb", buffering=0) as file:
        if os.fstat(handle).st_size <= CHUNK:  # a thread costs more than it saves
            _parts(file, out, state.update, progress)
        else:
            with ThreadPoolExecutor(1) as pool:
                _parts(file, out, lambda part: pool.submit(state.update, part).result, progress)
    return Digest(state.hexdigest())


def _parts(
    file: FileIO,
    out: FileIO,
    hashing: Callable[[memoryview], Callable[[], None] | None],
    progress: Progress | None,
) -> None:
    """Write a file part by part; ``hashing`` is given each, and may give back what to wait for."""
    buffer = bytearray(CHUNK)
    while count := file.readinto(buffer):
        part = memoryview(buffer)[:count]
        wait = hashing(part)
        try:
            while part:
                part = part[out.write(part) :]
        finally:
            if wait is not None:
                wait()
        if progress is not None:
            progress(count)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
