"""Sources: where an artifact's bytes are.

A source lists files with what is known of each, and hands out the bytes of
those that are here or small. It says of every file that cannot be had whether
the publisher left it out (``AbsentError``) or this machine cannot reach it
(``UnreachableError``): a claim without evidence is *unproven* in the first
case and *unchecked* in the second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from forgekit.alloy import Alloy
from forgekit.digest import is_plain_relative
from forgekit.errors import AbsentError, SourceError

ALLOY_SUFFIX = ".alloy.json"
ALLOY_NAME = "forge-alloy.json"
SMALL = 64 << 20  # bytes up to which a file is fetched for its content
WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".onnx", ".npz")  # never fetched, whatever their size


@dataclass(frozen=True, kw_only=True, slots=True)
class FileRecord:
    """What a source knows of one file without reading it.

    Attributes:
        path: repo-relative POSIX path.
        size: bytes; None where not listed.
        sha256: bare hex; None where the listing has none.
        git_sha1: git blob id, for files the host stores in git itself.
        told_by: who says so, in words for a reader.
    """

    path: str
    size: int | None
    sha256: str | None
    told_by: str
    git_sha1: str | None = None


class Source(Protocol):
    """One artifact.

    Attributes:
        name: as in reports and test ids: ``org/name`` or a path.
        revision: commit of the host; None where there is none.
    """

    @property
    def name(self) -> str: ...

    @property
    def revision(self) -> str | None: ...

    def alloy(self) -> Alloy:
        """The artifact's alloy.

        Raises:
            SourceError: there is none, or it cannot be reached.
            AlloyError: it cannot be read.
        """

    def listing(self) -> Mapping[str, FileRecord]:
        """Files known of, by path. Not necessarily all, and not necessarily here."""

    def fetch(self, path: str) -> Path:
        """A local file with the bytes of ``path``, fetched if it is small.

        Raises:
            AbsentError: the artifact does not have it.
            UnreachableError: it is not here, and cannot or should not be fetched.
            SourceError: the path leaves the artifact.
        """

    def read_range(self, path: str, start: int, size: int) -> bytes:
        """At most ``size`` bytes from ``start``, without fetching the rest."""

    def where(self, path: str) -> str:
        """How a reader would name the file: a path or URL."""


def checked(path: str, where: str) -> str:
    """``path``, if it stays inside the artifact.

    Raises:
        SourceError: it is absolute, climbs out with ``..``, or is no path at all.
    """
    if not is_plain_relative(path):
        raise SourceError(
            f"the path {path!r} leaves the artifact", where=where, hint="evidence must travel with the artifact"
        )
    return path


def pick_alloy(names: list[str], where: str) -> str:
    """The one alloy among file names: ``*.alloy.json``, else ``forge-alloy.json``.

    Raises:
        AbsentError: there is none.
        SourceError: there are several.
    """
    found = sorted(name for name in names if name.endswith(ALLOY_SUFFIX)) or [n for n in names if n == ALLOY_NAME]
    if not found:
        raise AbsentError(
            "there is no alloy here", where=where, hint=f"an artifact carries *{ALLOY_SUFFIX} or {ALLOY_NAME}"
        )
    if len(found) > 1:
        raise SourceError(
            f"there are {len(found)} alloys here: {', '.join(found)}", where=where, hint="name the one meant"
        )
    return found[0]
