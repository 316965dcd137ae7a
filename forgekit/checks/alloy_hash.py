"""Hashes of the document itself: pinned by a catalog, in its receipt, in its verify URL."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from forgekit.alloy import Alloy, write
from forgekit.alloy.pointer import find
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, refuted, unchecked
from forgekit.digest import Digest, sha256
from forgekit.findings import Claim, Finding
from forgekit.sources import Source
from forgekit.sources.catalog import CatalogEntry

RECEIPT, URL, DEFINITION, PINNED = "/receipt/alloyHash", "/receipt/verifyUrl", "/results/integrity/alloyHash", ""
FRAGMENT = re.compile(r"#(?:.*@)?(?:sha256:)?([0-9a-f]{16,64})$")


def claims(alloy: Alloy) -> Found:
    for pointer in (RECEIPT, URL, DEFINITION):
        value = alloy.at(pointer)
        if value is not None:
            yield pointer, value


def pinned(source: Source) -> Found:
    if isinstance(source, CatalogEntry) and source.pin is not None:
        yield PINNED, str(source.pin.alloy_hash)


def settle(claim: Claim, evidence: Evidence) -> Finding:
    if claim.pointer == DEFINITION:
        return unchecked(claim, "this hash is of the pipeline definition, and no published rule says how it is taken")
    if claim.pointer == URL:
        found = FRAGMENT.search(str(claim.expected))
        if found is None:
            return refuted(claim, None, "the URL carries no hash to verify by", "receipt: put the alloyHash in the URL")
        return _match(claim, found[1], evidence)
    if malformed := judge_hash_text(claim, "receipt"):
        return malformed
    return _match(claim, Digest.parse(claim.expected).hex, evidence)


def _match(claim: Claim, wanted: str, evidence: Evidence) -> Finding:
    actual = evidence.alloy.hash
    for convention, found in _conventions(evidence.alloy):
        if found.hex.startswith(wanted):
            return confirmed(claim, str(found), f"of {convention}", convention=convention)
    if claim.pointer == PINNED:
        return refuted(
            claim, str(actual), "the alloy is not the one that was pinned", "alloy: pin it again, on purpose"
        )
    reason = f"the file hashes to {actual.short}, and its form before the receipt was written to something else too"
    for state, found in _earlier(evidence.alloy):
        if found.hex.startswith(wanted):
            reason = f"stale: this is the hash of {state}; the file as published hashes to {actual.short}"
    return refuted(claim, str(actual), reason, "receipt: republish with the hash of the document as it stands")


def _conventions(alloy: Alloy) -> Iterator[tuple[str, Digest]]:
    """What a recorded alloyHash may honestly be of: no file holds its own, so a receipt's is of what preceded it."""
    yield "the file's bytes", alloy.hash
    if "receipt" in alloy.tree:
        yield from _both_ends("the document before its receipt was written", _without(alloy.tree, "receipt"))


def _earlier(alloy: Alloy) -> Iterator[tuple[str, Digest]]:
    """States that published documents are known to have been hashed in and to have left since."""
    files = find(alloy.tree, "/results/integrity/fileHashes")
    if isinstance(files, list) and len(files) == 1 and isinstance(files[0], dict):
        integrity = _without(alloy.tree["results"]["integrity"], "fileHashes")
        integrity["modelHash"] = f"sha256:{files[0].get('sha256')}"
        tree = dict(alloy.tree) | {"results": dict(alloy.tree["results"]) | {"integrity": integrity}}
        state = "the document before its modelHash was migrated from the concat to the manifest convention"
        yield from _both_ends(state, _without(tree, "receipt"))
        yield from _both_ends(f"{state}, receipt included", tree)


def _both_ends(state: str, tree: dict[str, Any]) -> Iterator[tuple[str, Digest]]:
    data = write(tree)
    yield state, sha256(data)
    yield state, sha256(data.removesuffix(b"\n"))  # the publisher writes no newline at the end


def _without(tree: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in tree.items() if name != key}


CHECK = Check(name="alloy-hash", tier=3, claims=claims, settle=settle, pinned=pinned)
