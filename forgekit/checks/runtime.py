"""The artifact loads and generates in each runtime it declares."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join
from forgekit.checks import Check, Evidence, Found, unchecked
from forgekit.findings import Claim, Finding


def claims(alloy: Alloy) -> Found:
    declared = alloy.at("/target/runtimes")
    if isinstance(declared, list):
        for index, name in enumerate(declared):
            yield join("/target/runtimes", index), name


def settle(claim: Claim, evidence: Evidence) -> Finding:
    return unchecked(
        claim, f"this version of forgekit has no probe for {claim.expected}: {evidence.name} was not loaded"
    )


CHECK = Check(name="runtime", tier="runtime", claims=claims, settle=settle, domain="llm-forge")
