"""fileHashes covers every weight file that was published."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import objects
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked
from forgekit.checks.file_hash import ROWS, rows
from forgekit.errors import SourceError
from forgekit.findings import Claim, Finding
from forgekit.sources.catalog import CatalogEntry

WEIGHTS = (".safetensors", ".gguf")


def claims(alloy: Alloy) -> Found:
    listed = [row.get("filename") for _, row in objects(alloy.tree, ROWS)]
    if listed:
        yield ROWS, listed


def settle(claim: Claim, evidence: Evidence) -> Finding:
    if isinstance(evidence.source, CatalogEntry) and evidence.source.pin is None:
        return unchecked(claim, "no pin records which files were published", **{"try": f"verify hf://{evidence.name}"})
    try:
        published = sorted(path for path in evidence.source.listing() if path.endswith(WEIGHTS))
    except SourceError as error:
        return unchecked(claim, error.what)
    covered = [row.get("filename") for _, row in rows(evidence.alloy)]
    uncovered = [path for path in published if path not in covered]
    if uncovered:
        reason = f"{', '.join(uncovered)} is published and no hash covers it"
        return refuted(claim, published, reason, "weights: hash every weight file, or publish only what is hashed")
    if not published:
        return unchecked(claim, "there are no weight files here to compare the list with")
    return confirmed(claim, published, files=len(published))


CHECK = Check(name="file-list", tier=3, claims=claims, settle=settle)
