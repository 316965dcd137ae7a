"""Running the recipe again gives the same model."""

from __future__ import annotations

import re

from forgekit.alloy import Alloy
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked, unproven
from forgekit.errors import ForgeError, PlanError, ProofError
from forgekit.findings import Claim, Finding

COMMIT = re.compile(r"[0-9a-f]{40,64}")
LAYER = "recipe: publish the recipe, seed and evidence that give these weights"


def claims(alloy: Alloy) -> Found:
    if alloy.at("/results") is not None and alloy.at("/source/baseModel") is not None:
        yield "/source/baseModel", alloy.at("/source/baseModel")


def settle(claim: Claim, evidence: Evidence) -> Finding:  # noqa: PLR0911 - one per verdict and reason
    revision = evidence.alloy.at("/source/revision")
    if not isinstance(revision, str) or not COMMIT.fullmatch(revision):
        said = f"its revision is {revision!r}, which can move" if revision else "no revision of it is recorded"
        reason = f"{claim.expected} is named as the base and {said}: what to forge from is not known"
        return unproven(claim, reason, "recipe: record the base model's commit in source.revision")
    if evidence.alloy.at("/results/stages") is None:
        return unchecked(claim, "the alloy records no stages that ran, so there is nothing to compare a new run with")
    try:
        found = evidence.reforged().verdict
    except (PlanError, ProofError) as error:
        return refuted(claim, None, f"the recipe cannot give this model: {' '.join(error.what.split())}", LAYER)
    except ForgeError as error:
        return unchecked(claim, f"{error.what} ({error.where})" if error.where else error.what)
    told = {"grade": found.grade, "stage": found.stage, "tensor": found.tensor, "sameMachine": found.same_machine}
    if found.holds is None:
        return unchecked(claim, found.reason, found.observed, **told)
    if found.holds:
        return confirmed(claim, found.observed, f"{found.grade}: {found.reason}", **told)
    return refuted(claim, found.observed, found.reason, LAYER, **told)


CHECK = Check(name="reforge", tier=2, claims=claims, settle=settle, domain="llm-forge")
