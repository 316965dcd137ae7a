"""A derived artifact names its parent, by content, and repeats the parent's stages."""

from __future__ import annotations

from typing import Any

from forgekit.alloy import Alloy
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, refuted, unchecked, unproven
from forgekit.digest import Digest
from forgekit.errors import AbsentError, ForgeError
from forgekit.findings import Claim, Finding

REPO, HASH, INTEGRITY = "/derivedFrom/repo", "/derivedFrom/alloyHash", "/results/integrity/parentAlloyHash"


def claims(alloy: Alloy) -> Found:
    if isinstance(alloy.at("/derivedFrom"), dict):
        yield REPO, alloy.at(REPO)
        yield HASH, alloy.at(HASH)
    integrity = alloy.at("/results/integrity")
    if isinstance(integrity, dict) and "parentAlloyHash" in integrity:
        yield INTEGRITY, integrity["parentAlloyHash"]


def settle(claim: Claim, evidence: Evidence) -> Finding:
    repo = evidence.alloy.at(REPO)
    parent = _parent(repo, evidence) if isinstance(repo, str) else "the parent is not named"
    if claim.pointer == REPO:
        return _stages(claim, evidence.alloy, parent)
    if claim.expected is None:
        observed = str(parent.hash) if isinstance(parent, Alloy) else None
        reason = "the parent's hash is null"
        if observed:
            reason += f"; the parent's alloy, {repo}, hashes to {observed}"
        return unproven(claim, reason, "lineage: record the SHA-256 of the parent's alloy", observed=observed)
    if malformed := judge_hash_text(claim, "lineage"):
        return malformed
    if not isinstance(parent, Alloy):
        return unchecked(claim, parent)
    if parent.hash == Digest.parse(claim.expected):
        return confirmed(claim, str(parent.hash), f"of {repo}")
    reason = f"the alloy of {repo} hashes to {parent.hash.short}: it is not the parent that was recorded"
    return refuted(claim, str(parent.hash), reason, "lineage: derive again from the parent as it stands")


def _parent(repo: str, evidence: Evidence) -> Alloy | str:
    """The parent's alloy, or why it cannot be had."""
    try:
        source = evidence.parent(repo)
        if source is None:
            return f"the parent {repo} is in no catalog here, and this run is offline"
        return source.alloy()
    except AbsentError as error:
        return f"the parent {repo} cannot be found: {error.what}"
    except ForgeError as error:
        return f"the parent {repo} cannot be read: {error.what}"


def _stages(claim: Claim, child: Alloy, parent: Alloy | str) -> Finding:
    if not isinstance(parent, Alloy):
        return unchecked(claim, parent)
    own, theirs = _kinds(child), _kinds(parent)
    if own[: len(theirs)] == theirs:
        added = own[len(theirs) :]
        return confirmed(
            claim, str(parent.hash), f"its stages are the parent's and then {', '.join(added) or 'no more'}"
        )
    reason = f"the parent's stages are {', '.join(theirs)}; this artifact's do not begin with them: {', '.join(own)}"
    return refuted(claim, str(parent.hash), reason, "lineage: list the parent's stages first")


def _kinds(alloy: Alloy) -> list[str]:
    stages: Any = alloy.tree.get("stages")
    return [str(stage.get("type")) for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []


CHECK = Check(name="lineage", tier=3, claims=claims, settle=settle)
