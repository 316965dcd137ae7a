"""Each stage that ran gave the weights its record says."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join, objects
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, refuted, unchecked
from forgekit.errors import ForgeError, PlanError, ProofError
from forgekit.findings import Claim, Finding

LAYER = "recipe: record the stages as they ran"


def claims(alloy: Alloy) -> Found:
    for pointer, row in objects(alloy.tree, "/results/stages"):
        if "outputHash" in row:
            yield join(pointer, "outputHash"), row["outputHash"]


def settle(claim: Claim, evidence: Evidence) -> Finding:  # noqa: PLR0911 - one per verdict and reason
    if malformed := judge_hash_text(claim, "recipe"):
        return malformed
    number = int(claim.pointer.split("/")[3])
    try:
        found = evidence.reforged()
    except (PlanError, ProofError) as error:
        return refuted(claim, None, f"the recipe cannot be run to its end: {' '.join(error.what.split())}", LAYER)
    except ForgeError as error:
        return unchecked(claim, f"{error.what} ({error.where})" if error.where else error.what)
    if number >= len(found.stages):
        return refuted(claim, None, f"running the recipe again has {len(found.stages)} stages", LAYER)
    observed = found.stages[number]["outputHash"]
    if observed == claim.expected:
        return confirmed(claim, observed, f"{found.stages[number]['type']}, run again")
    if found.verdict.holds is False:
        return refuted(claim, observed, found.verdict.reason, LAYER, grade=found.verdict.grade)
    reason = f"other bytes here, {found.verdict.grade}: {found.verdict.reason}"
    return unchecked(claim, reason, observed, grade=found.verdict.grade)


CHECK = Check(name="stage-output", tier=2, claims=claims, settle=settle, domain="llm-forge")
