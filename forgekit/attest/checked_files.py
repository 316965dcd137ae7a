"""A model's files held to the hashes somebody signed or recorded: by their bytes, or by what a host lists of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from forgekit.attest.links import files_of, is_ignored
from forgekit.digest import Progress, sha256_file, sha256_files
from forgekit.errors import AbsentError, SourceError
from forgekit.findings import Verdict
from forgekit.sources import FileRecord, Source
from forgekit.sources.folder import FolderSource

TRUSTED = "the Hub is trusted to serve the bytes whose SHA-256 it lists; no weights were downloaded"


@dataclass(frozen=True, kw_only=True, slots=True)
class FileFinding:
    """What is found of one file.

    Attributes:
        expected: SHA-256 in hex that was signed; None where none was.
        observed: SHA-256 in hex that was found; None where none was.
    """

    path: str
    verdict: Verdict
    reason: str
    expected: str | None = None
    observed: str | None = None


def in_folder(
    root: Path,
    expected: Mapping[str, str],
    ignored: Collection[str] = (),
    *,
    left_out: Collection[str] = (),
    unsigned: Verdict = Verdict.REFUTED,
    progress: Progress | None = None,
) -> list[FileFinding]:
    """Hash every file of a folder and hold it to its hash.

    Args:
        expected: SHA-256 in hex by path.
        ignored: paths that are not looked at.
        left_out: paths that the signer did not sign; they are named, and unchecked.
        unsigned: the verdict on files that are here and have no hash.

    Raises:
        SourceError: a file cannot be read, or a link leads out of the folder.
    """
    here = files_of(root, ignored)
    hashes = sha256_files([here[path] for path in expected if path in here], progress=progress)
    found: list[FileFinding] = []
    for path in sorted(expected.keys() | here.keys()):
        if path not in expected:
            found += _unsigned(path, left_out, unsigned, "it is here, and nobody signed it")
        elif path not in here:
            reason = "it is signed, and is not here"
            found.append(FileFinding(path=path, verdict=Verdict.REFUTED, reason=reason, expected=expected[path]))
        else:
            found.append(_compared(path, expected[path], hashes[here[path]].hex, "its bytes"))
    return found


def on_hub(
    source: Source, expected: Mapping[str, str], ignored: Collection[str] = (), *, unsigned: Verdict = Verdict.REFUTED
) -> list[FileFinding]:
    """Hold what a host lists of every file to its hash; small files it lists no SHA-256 of are fetched.

    Raises:
        SourceError: the host cannot be asked for its listing.
    """
    listing = source.listing()
    found: list[FileFinding] = []
    for path in sorted(expected.keys() | listing.keys()):
        if path not in expected:
            found += _unsigned(path, ignored, unsigned, "the Hub lists it, and nobody signed it")
        elif path not in listing:
            reason = "it is signed, and the Hub does not list it"
            found.append(FileFinding(path=path, verdict=Verdict.REFUTED, reason=reason, expected=expected[path]))
        else:
            found.append(_listed(source, listing[path], expected[path]))
    return found


def recorded(source: Source, expected: Mapping[str, str]) -> list[FileFinding]:
    """Hold an artifact's files to hashes that a document records; what is not at hand is unchecked.

    Bytes that are here count before what a host lists of them.

    Raises:
        SourceError: the artifact cannot be listed.
    """
    listing = source.listing()
    found = []
    for path, value in sorted(expected.items()):
        record = listing.get(path) or FileRecord(path=path, size=None, sha256=None, told_by="nobody")
        local = _local(source, path)
        if local is None:
            found.append(_listed(source, record, value))
        else:
            found.append(_compared(path, value, sha256_file(local).hex, "its bytes"))
    return found


def _local(source: Source, path: str) -> Path | None:
    """The file, if it is in a folder here."""
    if not isinstance(source, FolderSource):
        return None
    try:
        return source.fetch(path)
    except SourceError:
        return None


def _unsigned(path: str, left_out: Collection[str], verdict: Verdict, reason: str) -> Iterator[FileFinding]:
    if is_ignored(path, left_out):
        yield FileFinding(path=path, verdict=Verdict.UNCHECKED, reason="the signature leaves it out")
    else:
        yield FileFinding(path=path, verdict=verdict, reason=reason)


def _listed(source: Source, record: FileRecord, expected: str) -> FileFinding:
    if record.sha256:
        return _compared(record.path, expected, record.sha256, record.told_by)
    try:
        observed = sha256_file(source.fetch(record.path)).hex
    except AbsentError as error:
        return FileFinding(path=record.path, verdict=Verdict.REFUTED, reason=error.what, expected=expected)
    except SourceError as error:
        return FileFinding(path=record.path, verdict=Verdict.UNCHECKED, reason=error.what, expected=expected)
    told_by = "its bytes, fetched: the Hub lists no SHA-256 of it" if record.git_sha1 else "its bytes"
    return _compared(record.path, expected, observed, told_by)


def _compared(path: str, expected: str, observed: str, told_by: str) -> FileFinding:
    same = observed == expected
    reason = f"by {told_by}" if same else f"it is {observed[:16]} by {told_by}, not {expected[:16]}"
    verdict = Verdict.CONFIRMED if same else Verdict.REFUTED
    return FileFinding(path=path, verdict=verdict, reason=reason, expected=expected, observed=observed)
