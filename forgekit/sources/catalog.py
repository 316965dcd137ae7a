"""Catalogs: folders of pinned artifacts, the fixtures a suite is parametrised over.

``<catalog>/<org>/<name>/`` holds the alloy, the small files that prove its
claims, and a pin with what the host listed of every file. A folder without a
pin is an entry too; then nothing can be said of files it does not hold.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from forgekit.errors import AbsentError, ForgeError, SourceError, UnreachableError
from forgekit.sources import ALLOY_NAME, ALLOY_SUFFIX, FileRecord
from forgekit.sources.folder import FolderSource
from forgekit.sources.pins import PIN_NAME, Pin

MAX_DEPTH = 4  # folders between a catalog and its entries


class CatalogEntry(FolderSource):
    """One pinned artifact."""

    def __init__(self, root: Path, name: str) -> None:
        super().__init__(root, name=name)
        self.pin = self._read_pin()
        self.revision = self.pin.revision if self.pin else None

    def listing(self) -> Mapping[str, FileRecord]:
        return self._listed if self.pin else super().listing()

    def fetch(self, path: str) -> Path:
        try:
            return super().fetch(path)
        except UnreachableError as error:
            if self.pin is None:
                raise UnreachableError(
                    f"{path} is not in the catalog, and no pin says whether it was published",
                    where=str(self.root),
                    hint=f"forgekit catalog pin hf://{self.name}",
                ) from error
            if path in self._listed:
                raise UnreachableError(
                    f"{path} is published and not pinned here",
                    where=str(self.root),
                    hint=f"verify hf://{self.pin.repo}",
                ) from error
            raise AbsentError(f"{path} was not published at {self.pin.revision[:12]}", where=self.pin.repo) from error

    @cached_property
    def _listed(self) -> dict[str, FileRecord]:
        return {file.path: file for file in self.pin.files} if self.pin else {}

    def _read_pin(self) -> Pin | None:
        path = self.root / PIN_NAME
        try:
            return Pin.parse(path.read_bytes(), str(path))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SourceError(f"cannot read the pin: {error.strerror}", where=str(path)) from error


@dataclass(frozen=True, slots=True)
class Broken:
    """An entry that cannot be opened, and why."""

    name: str
    error: ForgeError


class Catalog:
    """A folder of entries.

    Args:
        root: the folder; need not exist yet for a catalog that is pulled into.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def names(self) -> list[str]:
        """Names of all entries, sorted.

        Raises:
            AbsentError: there is no such folder.
        """
        if not self.root.is_dir():
            raise AbsentError("there is no such catalog", where=str(self.root))
        return sorted(self._walk(self.root, 0))

    def entry(self, name: str) -> CatalogEntry:
        """One entry by name.

        Raises:
            AbsentError: the catalog does not hold it.
        """
        path = self.root / name
        if not path.is_dir() or not path.resolve().is_relative_to(self.root.resolve()):
            raise AbsentError(f"the catalog has no entry {name!r}", where=str(self.root))
        return CatalogEntry(path, name)

    def entries(self) -> Iterator[CatalogEntry | Broken]:
        """Every entry, in name order; those that cannot be opened as ``Broken``."""
        for name in self.names():
            try:
                yield self.entry(name)
            except ForgeError as error:
                yield Broken(name, error)

    def put(self, name: str, stage: Path) -> None:
        """Move a finished folder into place; an entry of that name is replaced whole or not at all.

        Raises:
            SourceError: the file system refuses; the old entry stands.
        """
        target, old = self.root / name, self.root / name.replace("/", "--")
        old = old.with_name(f".old-{old.name}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            self.recover()
            if target.exists():
                target.rename(old)
            stage.rename(target)
        except OSError as error:
            if old.exists() and not target.exists():
                old.rename(target)
            raise SourceError(f"cannot replace the entry: {error.strerror}", where=str(target)) from error
        shutil.rmtree(old, ignore_errors=True)

    def recover(self) -> None:
        """Finish or undo what an interrupted ``put`` left."""
        for old in self.root.glob(".old-*"):
            target = self.root / old.name.removeprefix(".old-").replace("--", "/")
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)
            else:
                old.rename(target)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[Path]:
        """An empty folder beside the entries to build a new one in; gone afterwards unless moved."""
        folder = self.root / f".stage-{name.replace('/', '--')}-{os.getpid()}"
        shutil.rmtree(folder, ignore_errors=True)
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise SourceError(f"cannot write to the catalog: {error.strerror}", where=str(self.root)) from error
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _walk(self, folder: Path, depth: int) -> Iterator[str]:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        if any(e.is_file() and (e.name.endswith(ALLOY_SUFFIX) or e.name == ALLOY_NAME) for e in entries):
            yield folder.relative_to(self.root).as_posix()
            return
        if depth < MAX_DEPTH:
            for entry in entries:
                if entry.is_dir() and not entry.name.startswith("."):
                    yield from self._walk(Path(entry.path), depth + 1)
