"""From what a person types to a source."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from forgekit.errors import AbsentError
from forgekit.sources import Source
from forgekit.sources.catalog import Catalog
from forgekit.sources.folder import FolderSource

CATALOG_VARIABLE = "FORGEKIT_CATALOG"
DEFAULT_CATALOG = Path("_cache")


def default_catalogs() -> list[Catalog]:
    """``$FORGEKIT_CATALOG`` (several paths as in ``PATH``), else ``_cache`` in the current folder, else none."""
    named = os.environ.get(CATALOG_VARIABLE)
    if named:
        return [Catalog(Path(path)) for path in named.split(os.pathsep) if path]
    return [Catalog(DEFAULT_CATALOG)] if DEFAULT_CATALOG.is_dir() else []


def open_target(target: str, catalogs: Sequence[Catalog], *, offline: bool = False) -> Source:
    """A folder, an alloy file, ``hf://org/name[@revision]``, or the name of a catalog entry.

    Raises:
        AbsentError: it is none of these.
        SourceError: it is one, and cannot be opened.
    """
    if target.startswith("hf://"):
        from forgekit.sources.hub import HubSource

        return HubSource.parse(target, offline=offline)
    if Path(target).exists():
        return FolderSource(Path(target))
    for catalog in catalogs:
        if target in catalog.names():
            return catalog.entry(target)
    known = ", ".join(str(catalog.root) for catalog in catalogs) or "none"
    raise AbsentError(
        f"there is no {target!r}: no file or folder, and no entry of a catalog",
        where=f"catalogs: {known}",
        hint="name a folder, an alloy file, hf://org/name, or an entry that `forgekit catalog list` shows",
    )
