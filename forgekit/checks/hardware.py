"""The artifact ran on each device it lists."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, objects
from forgekit.checks import Check, Evidence, Found, unchecked, unproven
from forgekit.findings import Claim, Finding


def claims(alloy: Alloy) -> Found:
    for pointer, row in objects(alloy.tree, "/results/hardwareVerified"):
        yield pointer, row.get("device")


def settle(claim: Claim, evidence: Evidence) -> Finding:
    row = find(evidence.alloy.tree, claim.pointer)
    if row.get("verified") is False:
        reason = f"{row.get('device')} is listed and marked as not verified"
        return unproven(claim, reason, "hardware: run it there and record the figures, or drop the row")
    told = {key: row[key] for key in ("format", "tokensPerSec", "memoryUsageGb", "vramGb") if row.get(key) is not None}
    form = f" --form {row['format']}" if row.get("format") else ""
    command = f"forgekit probe {evidence.name} --runtime all{form}"
    return unchecked(claim, f"only a {row.get('device')} can tell: there, run {command}", claimed=told)


CHECK = Check(name="hardware", tier="runtime", claims=claims, settle=settle, domain="llm-forge")
