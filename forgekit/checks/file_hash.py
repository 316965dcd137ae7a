"""Each listed file has the bytes the alloy recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, join, objects
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, refuted, unproven, without_file
from forgekit.digest import Digest
from forgekit.errors import AbsentError, SourceError
from forgekit.findings import Claim, Finding
from forgekit.sources.folder import FolderSource

ROWS = "/results/integrity/fileHashes"
COMPANIONS = "/results/integrity/companionHashes"
STAGES = "/results/stages"
LAYER = "weights: publish the files whose hashes are recorded"


def rows(alloy: Alloy) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every file an alloy records a hash of: weights, what travels with them, what stages left as evidence."""
    yield from objects(alloy.tree, ROWS)
    yield from objects(alloy.tree, COMPANIONS)
    for pointer, _ in objects(alloy.tree, STAGES):
        yield from objects(alloy.tree, join(pointer, "files"))


def claims(alloy: Alloy) -> Found:
    for pointer, row in rows(alloy):
        yield join(pointer, "sha256"), row.get("sha256")


def settle(claim: Claim, evidence: Evidence) -> Finding:
    if malformed := judge_hash_text(claim, "weights"):
        return malformed
    path = find(evidence.alloy.tree, claim.pointer.removesuffix("/sha256") + "/filename")
    if not isinstance(path, str):
        return unproven(claim, "the hash names no file", "weights: record the filename")
    wanted = Digest.parse(claim.expected)
    try:
        observed, told_by = _observed(path, evidence)
    except AbsentError as error:
        return refuted(claim, None, f"{error.what} ({error.where})", LAYER, file=path)
    except SourceError as error:
        return without_file(claim, error, LAYER)
    if observed == wanted:
        return confirmed(claim, observed.hex, f"by {told_by}", file=path)
    return refuted(
        claim,
        observed.hex,
        f"{path} is {observed.short} by {told_by}",
        "weights: republish the file or its hash",
        file=path,
    )


def _observed(path: str, evidence: Evidence) -> tuple[Digest, str]:
    """A file's digest, from its bytes where they are here, else as its host lists it."""
    if isinstance(evidence.source, FolderSource):
        try:
            evidence.file(path)
        except SourceError:
            pass
        else:
            return evidence.sha256(path), "its bytes"
    record = evidence.source.listing().get(path)
    if record is not None and record.sha256:
        return Digest.parse(record.sha256), f"{record.told_by} (not downloaded)"
    return evidence.sha256(path), "its bytes"


CHECK = Check(name="file-hash", tier=3, claims=claims, settle=settle)
