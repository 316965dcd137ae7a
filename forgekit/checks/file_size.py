"""Each listed file has the size the alloy recorded."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, join, objects
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unproven, without_file
from forgekit.checks.file_hash import LAYER, ROWS
from forgekit.errors import AbsentError, SourceError
from forgekit.findings import Claim, Finding


def claims(alloy: Alloy) -> Found:
    for pointer, row in objects(alloy.tree, ROWS):
        if row.get("size") is not None:
            yield join(pointer, "size"), row["size"]


def settle(claim: Claim, evidence: Evidence) -> Finding:
    path = find(evidence.alloy.tree, claim.pointer.removesuffix("/size") + "/filename")
    if not isinstance(path, str):
        return unproven(claim, "the size names no file", "weights: record the filename")
    try:
        record = evidence.source.listing().get(path)
        size = record.size if record and record.size is not None else evidence.file(path).stat().st_size
    except AbsentError as error:
        return refuted(claim, None, f"{error.what} ({error.where})", LAYER, file=path)
    except SourceError as error:
        return without_file(claim, error, LAYER)
    told_by = record.told_by if record else "the local file"
    if size == claim.expected:
        return confirmed(claim, size, f"by {told_by}", file=path)
    return refuted(claim, size, f"{path} has {size:,} bytes by {told_by}", "weights: correct the size", file=path)


CHECK = Check(name="file-size", tier=3, claims=claims, settle=settle)
