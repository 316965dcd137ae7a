"""The base model, measured in the publisher's pipeline, lands within tolerance of its own published score."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, is_number, join, objects
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unproven
from forgekit.figures import Figure, show
from forgekit.findings import Claim, Finding


def anchors(alloy: Alloy) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for pointer, stage in objects(alloy.tree, "/stages"):
        if isinstance(stage.get("calibrationAnchor"), Mapping):
            yield join(pointer, "calibrationAnchor"), stage["calibrationAnchor"]
        for at, benchmark in objects(stage, "/benchmarks"):
            if isinstance(benchmark.get("calibrationAnchor"), Mapping):
                yield pointer + join(at, "calibrationAnchor"), benchmark["calibrationAnchor"]


def claims(alloy: Alloy) -> Found:
    for pointer, anchor in anchors(alloy):
        yield pointer, {key: anchor.get(key) for key in ("publishedScore", "measuredScore", "tolerance", "passed")}


def settle(claim: Claim, evidence: Evidence) -> Finding:
    anchor = find(evidence.alloy.tree, claim.pointer)
    published, measured, tolerance = (anchor.get(key) for key in ("publishedScore", "measuredScore", "tolerance"))
    if not is_number(published):
        reason = "the anchor has no published score to be compared with: it is the publisher's own measurement"
        return unproven(claim, reason, "anchor: calibrate against a model whose score others have published")
    if not is_number(measured) or not is_number(tolerance):
        missing = "measuredScore" if not is_number(measured) else "tolerance"
        return unproven(claim, f"{missing} is not given as a number", f"anchor: record {missing}")
    off = abs(Fraction(Figure.of(measured).value) - Fraction(Figure.of(published).value))
    within = off <= Fraction(Figure.of(tolerance).value)
    said = f"{measured} is {show(off, 1)} points from the published {published}; {tolerance} are allowed"
    recorded = anchor.get("passed")
    if isinstance(recorded, bool) and recorded != within:
        return refuted(claim, within, f"{said}, and passed is recorded as {recorded}", "anchor: correct passed")
    if not within:
        return refuted(claim, within, said, "anchor: the pipeline does not reproduce the anchor; fix it before scoring")
    return confirmed(claim, within, said)


CHECK = Check(name="anchor", tier=4, claims=claims, settle=settle, domain="llm-forge")
