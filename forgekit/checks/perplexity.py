"""Perplexities are of a stated corpus."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import is_number, objects
from forgekit.checks import Check, Evidence, Found, unchecked, unproven
from forgekit.digest import fault
from forgekit.findings import Claim, Finding

POINTERS = ("/results/baselinePerplexity", "/results/finalPerplexity")


def claims(alloy: Alloy) -> Found:
    for pointer in POINTERS:
        if is_number(alloy.at(pointer)):
            yield pointer, alloy.at(pointer)


def settle(claim: Claim, evidence: Evidence) -> Finding:
    hashes = [row.get("hash") for _, row in objects(evidence.alloy.tree, "/results/integrity/datasets")]
    if not any(isinstance(value, str) and not fault(value) for value in hashes):
        reason = "no corpus is named by content, so no second measurement could be compared with this one"
        return unproven(claim, reason, "corpus: record the evaluation corpus and its SHA-256 under integrity.datasets")
    return unchecked(claim, "measuring it again takes the weights, which this version of forgekit does not load")


CHECK = Check(name="perplexity", tier=2, claims=claims, settle=settle, domain="llm-forge")
