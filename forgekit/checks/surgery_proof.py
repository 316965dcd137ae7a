"""What was cut is gone, and nothing else has changed: shown again, not taken on trust."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, join, objects
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked, unproven
from forgekit.errors import ForgeError, ProofError
from forgekit.findings import Claim, Finding

PARTS = ("loads", "logits", "bytes")
LAYER = "weights: repeat the surgery so that its proof holds"


def claims(alloy: Alloy) -> Found:
    for pointer, row in objects(alloy.tree, "/results/stages"):
        if isinstance(row.get("proof"), Mapping):
            yield join(pointer, "proof"), {name: _verdict(row["proof"], name) for name in PARTS}


def _verdict(proof: Mapping[str, Any], part: str) -> Any:
    found = proof.get(part)
    return found.get("verdict") if isinstance(found, Mapping) else None


def settle(claim: Claim, evidence: Evidence) -> Finding:  # noqa: PLR0911 - one per verdict and reason
    if "confirmed" not in claim.expected.values():
        return unproven(claim, "the surgery was not proven when it was done", "weights: forge without --no-proof")
    number = int(claim.pointer.split("/")[3])
    try:
        rows = evidence.reforged().stages
    except ProofError as error:
        return refuted(claim, None, error.what, LAYER)
    except ForgeError as error:
        return unchecked(claim, f"{error.what} ({error.where})" if error.where else error.what)
    again = find(rows[number], "/proof") if number < len(rows) else None
    if not isinstance(again, Mapping):
        return refuted(claim, None, "running the recipe again does no such surgery", LAYER)
    published = evidence.alloy.at(claim.pointer.removesuffix("/proof") + "/outputHash")
    if rows[number].get("outputHash") != published:
        return unchecked(claim, "the recipe gives other bytes here, so what is proven of them says nothing of these")
    observed = {name: _verdict(again, name) for name in PARTS}
    reasons = {name: find(again, f"/{name}/reason") for name in PARTS}
    if "refuted" in observed.values():  # the forge would not have gone on; said all the same
        return refuted(claim, observed, "; ".join(str(reasons[n]) for n in PARTS if observed[n] == "refuted"), LAYER)
    if open_parts := [name for name in PARTS if observed[name] != "confirmed"]:
        return unchecked(claim, "; ".join(f"{name}: {reasons[name]}" for name in open_parts), observed)
    return confirmed(claim, observed, str(reasons["logits"]), **{name: reasons[name] for name in PARTS})


CHECK = Check(name="surgery-proof", tier=2, claims=claims, settle=settle, domain="llm-forge")
