"""Every stage resolves to an implementation for the model's family."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked, unproven
from forgekit.errors import UnknownNameError
from forgekit.findings import Claim, Finding
from forgekit.resolve import Cause, Problem, plan


def claims(alloy: Alloy) -> Found:
    stages = alloy.tree.get("stages")
    if not isinstance(stages, list) or not stages:
        yield "/stages", None
        return
    for index, stage in enumerate(stages):
        yield join("/stages", index), stage.get("type") if isinstance(stage, dict) else stage


def settle(claim: Claim, evidence: Evidence) -> Finding:
    try:
        made = plan(evidence.alloy)
    except UnknownNameError as error:
        return unchecked(claim, f"{error.what}: {error.where}")
    step = next((step for step in made.steps if step.pointer == claim.pointer), None)
    problems = list(step.problems) if step else [p for p in made.problems if p.pointer == claim.pointer]
    if made.family is None and step is not None and step.stage is not None and step.stage.needs:
        problems += [problem for problem in made.problems if problem.pointer == "/source/architecture"]
    if problems:
        return _problem(claim, problems)
    assert step is not None
    assert step.stage is not None
    return confirmed(
        claim,
        step.type if step.family is None else f"{step.type} on {step.family.name}",
        fact=type(step.fact).__name__ if step.fact else None,
        reproducibility=step.stage.reproducibility,
        forgeable=step.forgeable,
        notes=list(step.notes),
    )


def _problem(claim: Claim, problems: list[Problem]) -> Finding:
    text = "; ".join(problem.text for problem in problems)
    fix = next((problem.hint for problem in problems if problem.hint), "")
    causes = {problem.cause for problem in problems}
    if Cause.WRONG in causes:
        return refuted(claim, None, text, f"recipe: {fix}" if fix else "recipe: correct the stage")
    if Cause.INCOMPLETE in causes:
        return unproven(claim, text, f"recipe: {fix}" if fix else "recipe: complete the stage")
    return unchecked(claim, text, **({"try": fix} if fix else {}))


CHECK = Check(name="dispatch", tier=1, claims=claims, settle=settle)
