"""Putting an amendment where the artifact is: all of it, or none."""

from __future__ import annotations

from pathlib import Path

from forgekit.alloy.files import write_atomically
from forgekit.amending import Amendment
from forgekit.errors import SourceError
from forgekit.sources import Source
from forgekit.sources.hub import HubSource, commit_files


def put(source: Source, amendment: Amendment) -> str:
    """Write the files that change; gives where they are now: a folder, or the commit's address.

    On a hub they go in one commit on top of the revision that was read: where somebody else has committed since,
    nothing is written. In a folder the alloy goes last, so that it never describes files that are not there yet.

    Raises:
        SourceError: nothing was written to a hub; or a file of a folder could not be, and the alloy is as it was.
    """
    files = amendment.files
    if isinstance(source, HubSource):
        return commit_files(source, files, amendment.title)
    root = getattr(source, "root", None)
    if not isinstance(root, Path):
        raise SourceError(
            "this artifact cannot be written to", where=source.where(""), hint="name a folder or a repository"
        )
    for path in sorted(files, key=lambda path: path == amendment.alloy):
        write_atomically(root / path, files[path])
    return str(root)
