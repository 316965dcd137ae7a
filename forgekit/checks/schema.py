"""The document fits the schema of its domains."""

from __future__ import annotations

from forgekit.alloy import Alloy
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked
from forgekit.errors import UnknownNameError
from forgekit.findings import Claim, Finding
from forgekit.resolve import schema_problems


def claims(alloy: Alloy) -> Found:
    yield "", "fits the schema of " + ", ".join(alloy.domains)


def settle(claim: Claim, evidence: Evidence) -> Finding:
    try:
        problems = schema_problems(evidence.alloy)
    except UnknownNameError as error:
        return unchecked(claim, f"{error.what}: {error.where}")
    if not problems:
        return confirmed(claim, "fits", fields=len(evidence.alloy.tree))
    text = "; ".join(f"#{problem.pointer} {problem.text}" for problem in problems[:5])
    more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
    return refuted(
        claim,
        [{"pointer": problem.pointer, "problem": problem.text} for problem in problems],
        text + more,
        "alloy: `forgekit schema` prints what is expected",
    )


CHECK = Check(name="schema", tier=1, claims=claims, settle=settle)
