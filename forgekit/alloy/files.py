"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from forgekit.errors import SourceError


def write_atomically(path: Path, data: bytes) -> None:
    """Write under a temporary name in the same folder, flush to disk, rename.

    Raises:
        SourceError: the disk is full or the folder cannot be written; ``path`` is as it was.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    except OSError as error:
        raise SourceError(f"cannot write here: {error.strerror}", where=str(path.parent)) from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)  # noqa: PTH101 - mkstemp's 0600 is for secrets
        os.replace(aside, path)  # noqa: PTH105
    except OSError as error:
        raise SourceError(f"cannot write the file: {error.strerror}", where=str(path)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(aside)  # noqa: PTH108
