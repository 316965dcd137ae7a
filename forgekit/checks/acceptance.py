"""The artifact meets the acceptance criteria it carries."""

from __future__ import annotations

from pydantic import ValidationError

from forgekit.alloy import Alloy
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unproven
from forgekit.domains.llm_forge import AcceptanceCriteria
from forgekit.findings import Claim, Finding

POINTER = "/acceptanceCriteria"


def claims(alloy: Alloy) -> Found:
    if isinstance(alloy.at(POINTER), dict):
        yield POINTER, "ship"


def settle(claim: Claim, evidence: Evidence) -> Finding:
    try:
        criteria = AcceptanceCriteria.parse(evidence.alloy.at(POINTER))
    except ValidationError as error:
        return refuted(claim, None, f"the criteria cannot be read: {error.errors()[0]['msg']}", "recipe: correct them")
    gate = criteria.gate(evidence.alloy.tree)
    reasons = [{"pointer": r.pointer, "met": r.met, "text": r.text} for r in gate.reasons]
    if gate.ship:
        return confirmed(
            claim, "ship", "; ".join(reason.text for reason in gate.reasons) or "nothing is required", reasons=reasons
        )
    failing = "; ".join(reason.text for reason in gate.reasons if reason.met is not True)
    if gate.undecided:
        return unproven(claim, failing, "recipe: publish what the criteria ask for", reasons=reasons)
    return refuted(
        claim, "rework", failing, "recipe: rework the artifact, or the criteria in the open", reasons=reasons
    )


CHECK = Check(name="acceptance", tier=1, claims=claims, settle=settle, domain="llm-forge")
