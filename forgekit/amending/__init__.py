"""Changing what is published about an artifact, and nothing that it is.

Each tool makes an ``Amendment``: the files as they would be, beside the files
as they are. It is shown as a field-level difference, and written or uploaded
only when asked, all files at once. Made again from its own result, it changes
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from forgekit import digest
from forgekit.alloy import Alloy, reading
from forgekit.amending.difference import Change, difference
from forgekit.errors import AbsentError
from forgekit.sources import Source


@dataclass(frozen=True, kw_only=True)
class Amendment:
    """Files of one artifact, as they are and as they would be.

    Attributes:
        alloy: path of the alloy among the files.
        before: bytes now, by path; a file that is not there is left out.
        after: bytes then.
        title: one line for the commit.
        told: what the reader should know before agreeing, a sentence each.
    """

    alloy: str
    before: Mapping[str, bytes]
    after: Mapping[str, bytes]
    title: str
    told: tuple[str, ...] = ()
    _memo: dict[str, list[Change]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def files(self) -> dict[str, bytes]:
        """Only those that change."""
        return {path: data for path, data in sorted(self.after.items()) if self.before.get(path) != data}

    @property
    def changes(self) -> list[Change]:
        """Field by field, of the alloy."""
        if "changes" not in self._memo:
            old = self.before.get(self.alloy)
            before = reading.parse(old, where=self.alloy) if old is not None else {}
            self._memo["changes"] = difference(before, reading.parse(self.after[self.alloy], where=self.alloy))
        return self._memo["changes"]

    @property
    def short_hash(self) -> str:
        """First 16 hex digits of the alloy's hash, as it would be."""
        return digest.sha256(self.after[self.alloy]).short


def alloy_of(source: Source) -> Alloy | None:
    """The alloy that is published; None where there is none.

    Raises:
        ForgeError: there is one, and it cannot be read.
    """
    try:
        return source.alloy()
    except AbsentError:
        return None


def bytes_of(source: Source, path: str) -> bytes | None:
    """A small published file; None where there is none of that name.

    Raises:
        SourceError: it is listed and cannot be had.
    """
    return source.fetch(path).read_bytes() if path in source.listing() else None
