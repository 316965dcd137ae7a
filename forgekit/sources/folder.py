"""An artifact in a folder of this machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from forgekit import alloy
from forgekit.alloy import Alloy
from forgekit.errors import AbsentError, SourceError, UnreachableError
from forgekit.sources import FileRecord, checked, pick_alloy


class FolderSource:
    """A folder, or one alloy file in it.

    Args:
        path: the folder, or the alloy itself.
        name: name in reports; the folder's own by default.

    Raises:
        AbsentError: there is nothing at ``path``, or no alloy in the folder.
    """

    revision: str | None = None

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        if path.is_dir():
            self.root = path
            self.alloy_name = pick_alloy(sorted(entry.name for entry in path.iterdir()), str(path))
        elif path.exists():
            self.root = path.parent
            self.alloy_name = path.name
        else:
            raise AbsentError("there is no such file or folder", where=str(path))
        self.name = name or (path.resolve().name if path.is_dir() else path.name.removesuffix(".alloy.json"))

    def alloy(self) -> Alloy:
        return alloy.read_file(self.root / self.alloy_name)

    def listing(self) -> Mapping[str, FileRecord]:
        return self._walked

    def fetch(self, path: str) -> Path:
        """The file itself.

        A file that is not in the folder may still be in the published
        artifact, so that says nothing about the publisher.
        """
        target = self.root / checked(path, str(self.root))
        if not target.is_file():
            raise UnreachableError(f"{path} is not in the folder", where=str(self.root))
        if not self._inside(target):
            raise SourceError(f"{path} is a link that leaves the artifact", where=str(self.root))
        return target

    def read_range(self, path: str, start: int, size: int) -> bytes:
        target = self.fetch(path)
        try:
            with target.open("rb") as file:
                file.seek(start)
                return file.read(size)
        except OSError as error:
            raise SourceError(f"cannot read the file: {error.strerror}", where=str(target)) from error

    def where(self, path: str) -> str:
        return str(self.root / path)

    @cached_property
    def _walked(self) -> dict[str, FileRecord]:
        found = {}
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                path = Path(folder, name)
                relative = path.relative_to(self.root).as_posix()
                if path.is_file() and self._inside(path):
                    found[relative] = FileRecord(
                        path=relative, size=path.stat().st_size, sha256=None, told_by="the local file"
                    )
        return found

    def _inside(self, path: Path) -> bool:
        """Whether the file's real place is in the folder, or in the blobs folder of a Hub cache snapshot."""
        real = path.resolve()
        return real.is_relative_to(self.root.resolve()) or real.parent == self._blobs

    @cached_property
    def _blobs(self) -> Path | None:
        root = self.root.resolve()
        if root.parent.name == "snapshots" and root.parent.parent.name.startswith("models--"):
            return root.parent.parent / "blobs"
        return None


class BareFolder(FolderSource):
    """A folder of weights that may have no alloy yet.

    Raises:
        AbsentError: there is no such folder.
    """

    def __init__(self, path: Path, *, name: str | None = None) -> None:
        if not path.is_dir():
            raise AbsentError("there is no such folder", where=str(path))
        self.root = path
        self.name = name or path.resolve().name

    def alloy(self) -> Alloy:
        named = pick_alloy(sorted(entry.name for entry in self.root.iterdir()), str(self.root))
        return alloy.read_file(self.root / named)
