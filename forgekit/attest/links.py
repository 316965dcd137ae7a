"""The files of a folder, with the links of a Hub cache followed and no others.

A snapshot of the Hub's cache holds links into the cache's own folder of blobs. ``model_signing`` either refuses every
link or follows any; here only those two places count: the folder itself, and those blobs.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from forgekit.errors import SourceError

SNAPSHOTS, BLOBS = "snapshots", "blobs"
CACHED = ("models--", "datasets--", "spaces--")


def files_of(root: Path, ignored: Collection[str] = ()) -> dict[str, Path]:
    """Every file of a folder by POSIX path, and the place of its bytes; in path order.

    Args:
        ignored: paths relative to the folder; of a folder, all that is in it.

    Raises:
        SourceError: there is no such folder, a link leads elsewhere, or something is neither file nor folder.
    """
    if not root.is_dir():
        raise SourceError("there is no such folder", where=str(root))
    found: dict[str, Path] = {}
    for folder, subfolders, names in os.walk(root, onerror=_raise):
        here = Path(folder)
        subfolders[:] = sorted(name for name in subfolders if not is_ignored(_relative(here / name, root), ignored))
        for name in subfolders:
            if (here / name).is_symlink():
                raise SourceError(
                    f"{_relative(here / name, root)} is a link to a folder",
                    where=str(root),
                    hint="copy what it leads to into the folder",
                )
        for name in sorted(names):
            path = _relative(here / name, root)
            if not is_ignored(path, ignored):
                found[path] = _real(here / name, root, path)
    return dict(sorted(found.items()))


def is_ignored(path: str, ignored: Collection[str]) -> bool:
    """Whether a path, or a folder it is in, is among those left out."""
    here = PurePosixPath(path)
    return any(str(step) in ignored for step in (here, *here.parents))


def repository(root: Path) -> str | None:
    """``org/name`` of the repository that a snapshot in a Hub cache is of; None for any other folder."""
    real = root.resolve()
    if real.parent.name != SNAPSHOTS:
        return None
    kind = next((kind for kind in CACHED if real.parent.parent.name.startswith(kind)), None)
    return None if kind is None else real.parent.parent.name.removeprefix(kind).replace("--", "/")


def _real(path: Path, root: Path, name: str) -> Path:
    """Where a file's bytes are.

    Raises:
        SourceError: it is a link that leads elsewhere, or to nothing, or it is no file.
    """
    try:
        real = path.resolve(strict=True)
        mode = real.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise SourceError(f"{name} is a link to nothing", where=str(root)) from error
    if not stat.S_ISREG(mode):
        raise SourceError(f"{name} is neither a file nor a folder", where=str(root))
    if path.is_symlink() and not _may_follow(real, root):
        raise SourceError(
            f"{name} is a link that leaves the artifact",
            where=str(root),
            hint="only links into the Hub cache's own blobs are followed; copy the file into the folder",
        )
    return real


def _may_follow(real: Path, root: Path) -> bool:
    base = root.resolve()
    if real.is_relative_to(base):
        return True
    return repository(root) is not None and real.parent == base.parent.parent / BLOBS


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _raise(error: OSError) -> None:
    raise SourceError(f"a folder cannot be read: {error.strerror}", where=str(error.filename)) from error
