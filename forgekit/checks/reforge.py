"""Running the recipe again gives the same model."""

from __future__ import annotations

import re

from forgekit.alloy import Alloy
from forgekit.checks import Check, Evidence, Found, unchecked, unproven
from forgekit.findings import Claim, Finding

COMMIT = re.compile(r"[0-9a-f]{40,64}")


def claims(alloy: Alloy) -> Found:
    if alloy.at("/results") is not None and alloy.at("/source/baseModel") is not None:
        yield "/source/baseModel", alloy.at("/source/baseModel")


def settle(claim: Claim, evidence: Evidence) -> Finding:
    revision = evidence.alloy.at("/source/revision")
    if not isinstance(revision, str) or not COMMIT.fullmatch(revision):
        said = f"its revision is {revision!r}, which can move" if revision else "no revision of it is recorded"
        reason = f"{claim.expected} is named as the base and {said}: what to forge from is not known"
        return unproven(claim, reason, "recipe: record the base model's commit in source.revision")
    return unchecked(claim, "this version of forgekit plans recipes and does not run them")


CHECK = Check(name="reforge", tier=2, claims=claims, settle=settle, domain="llm-forge")
