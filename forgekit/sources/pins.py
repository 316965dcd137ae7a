"""Pins: what was recorded of a published artifact, and when it is compared again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from forgekit.digest import Digest
from forgekit.errors import DigestError, SourceError
from forgekit.sources import FileRecord

PIN_NAME = "forgekit-pin.json"
SCHEMA = "forgekit.pin/1"


@dataclass(frozen=True, kw_only=True, slots=True)
class Pin:
    """One artifact at one commit: every file's size and digest as its host listed them.

    Attributes:
        repo: ``org/name`` on the host.
        revision: commit; the listing is of exactly this one.
        alloy_hash: of the alloy's bytes when it was pinned.
        retrieved_at: UTC, ISO 8601; None in catalogs that are made, not retrieved.
    """

    repo: str
    revision: str
    alloy: str
    alloy_hash: Digest
    files: tuple[FileRecord, ...]
    retrieved_at: str | None = None

    def tree(self) -> dict[str, Any]:
        rows = [
            {key: value for key, value in row.items() if value is not None}
            for row in ({"path": f.path, "size": f.size, "sha256": f.sha256, "blobId": f.git_sha1} for f in self.files)
        ]
        made: dict[str, Any] = {
            "schema": SCHEMA,
            "repo": self.repo,
            "revision": self.revision,
            "alloy": self.alloy,
            "alloyHash": str(self.alloy_hash),
            "files": rows,
        }
        return made | ({"retrievedAt": self.retrieved_at} if self.retrieved_at else {})

    def render(self) -> bytes:
        return (json.dumps(self.tree(), indent=2) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Pin:
        """Read a pin.

        Raises:
            SourceError: it is not one, or of a schema this version does not know.
        """
        try:
            tree = json.loads(data)
            if tree.get("schema") != SCHEMA:
                raise SourceError(f"the pin has schema {tree.get('schema')!r}, not {SCHEMA!r}", where=where)
            told_by = f"the host's listing at {tree['revision'][:12]}, as pinned"
            files = tuple(
                FileRecord(
                    path=row["path"],
                    size=row.get("size"),
                    sha256=row.get("sha256"),
                    git_sha1=row.get("blobId"),
                    told_by=told_by,
                )
                for row in tree["files"]
            )
            return cls(
                repo=tree["repo"],
                revision=tree["revision"],
                alloy=tree["alloy"],
                alloy_hash=Digest.parse(tree["alloyHash"]),
                files=files,
                retrieved_at=tree.get("retrievedAt"),
            )
        except (ValueError, KeyError, TypeError, AttributeError, DigestError) as error:
            raise SourceError(f"the pin cannot be read: {error}", where=where, hint="pin the artifact again") from error


def differences(old: Pin, new: Pin) -> list[str]:
    """What changed between two pins of one repository, a line each."""
    lines = []
    if old.revision != new.revision:
        lines.append(f"revision {old.revision[:12]} -> {new.revision[:12]}")
    if old.alloy_hash != new.alloy_hash:
        lines.append(f"alloy    {old.alloy_hash.short} -> {new.alloy_hash.short}")
    before, after = ({file.path: file for file in pin.files} for pin in (old, new))
    lines += [f"added    {path}" for path in sorted(after.keys() - before.keys())]
    lines += [f"removed  {path}" for path in sorted(before.keys() - after.keys())]
    for path in sorted(before.keys() & after.keys()):
        a, b = before[path], after[path]
        if (a.sha256 or a.git_sha1, a.size) != (b.sha256 or b.git_sha1, b.size):
            lines.append(f"changed  {path} ({a.size} -> {b.size} bytes)")
    return lines
