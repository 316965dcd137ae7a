"""The artifact is where its receipt says it was published."""

from __future__ import annotations

import re

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join, objects
from forgekit.checks import Check, Evidence, Found, confirmed, unchecked
from forgekit.findings import Claim, Finding
from forgekit.sources.catalog import CatalogEntry
from forgekit.sources.hub import HubSource

REPO = re.compile(r"https?://[^/]+/([\w.-]+/[\w.-]+?)(?:/tree/[^/]+)?/?")


def claims(alloy: Alloy) -> Found:
    for pointer, row in objects(alloy.tree, "/receipt/publications"):
        if isinstance(row.get("url"), str):
            yield join(pointer, "url"), row["url"]


def settle(claim: Claim, evidence: Evidence) -> Finding:
    found = REPO.fullmatch(claim.expected)
    if found is None:
        return unchecked(claim, "the URL is not of a model repository that forgekit can read")
    source = evidence.source
    if isinstance(source, HubSource) and source.name == found[1]:
        return confirmed(claim, source.name, f"the Hub serves this alloy there, at {source.revision}")
    if isinstance(source, CatalogEntry) and source.pin is not None and source.pin.repo == found[1]:
        return confirmed(claim, source.pin.repo, f"it was pinned from there, at {source.pin.revision}")
    if isinstance(source, CatalogEntry | HubSource) and source.name != found[1]:
        return unchecked(
            claim,
            f"this copy is called {source.name}; whether {found[1]} leads to it needs the network",
            **{"try": f"forgekit verify hf://{found[1]}"},
        )
    return unchecked(claim, "this copy does not say where it came from", **{"try": f"forgekit verify hf://{found[1]}"})


CHECK = Check(name="publication", tier=3, claims=claims, settle=settle)
