"""The program that ran the recipe is named by content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgekit import __version__
from forgekit.alloy import Alloy
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, unchecked, unproven
from forgekit.findings import Claim, Finding

POINTER = "/results/integrity/code/binaryHash"


def claims(alloy: Alloy) -> Found:
    if isinstance(alloy.at("/results/integrity/code"), dict):
        yield POINTER, alloy.at(POINTER)


def settle(claim: Claim, evidence: Evidence) -> Finding:
    if malformed := judge_hash_text(claim, "code"):
        return malformed
    code = evidence.alloy.at("/results/integrity/code")
    if code.get("runner") == "forgekit":
        return _own(claim, code)
    if not code.get("commit") or not code.get("sourceRepo"):
        reason = f"{code.get('runner')} is named by hash, and nothing says where its source is"
        return unproven(claim, reason, "code: record sourceRepo and commit")
    return unchecked(
        claim, f"the source at {code['sourceRepo']} is not fetched by this version of forgekit", commit=code["commit"]
    )


def _own(claim: Claim, code: Mapping[str, Any]) -> Finding:
    """Whether this very forgekit is the one that ran."""
    from forgekit.forge.environment import code_hash

    here = code_hash()
    if claim.expected == here:
        return confirmed(claim, here, "the forgekit that checks this is the one that made it")
    return unchecked(claim, f"made by another forgekit, {code.get('version')}, than this one, {__version__}", here)


CHECK = Check(name="code", tier=3, claims=claims, settle=settle)
