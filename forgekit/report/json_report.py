"""Findings as one JSON document, ``forgekit.findings/1``. Keys may be added; none is removed or re-typed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from forgekit import __version__
from forgekit.findings import TIERS, Finding
from forgekit.report import total
from forgekit.verify import Report

SCHEMA = "forgekit.findings/1"


def as_json(reports: Iterable[Report], gaps: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The document for a set of artifacts."""
    reports = list(reports)
    return {
        "schema": SCHEMA,
        "forgekit": __version__,
        "artifacts": [_artifact(report, gaps or {}) for report in reports],
        "summary": total(reports).as_json(),
    }


def _artifact(report: Report, gaps: Mapping[str, str]) -> dict[str, Any]:
    made: dict[str, Any] = {"target": report.name}
    if report.error is not None:
        error = {"what": report.error.what, "where": report.error.where, "try": report.error.hint}
        return made | {"error": error, "coverage": report.coverage.as_json(), "findings": []}
    return made | {
        "alloy": report.alloy_name,
        "alloyHash": report.alloy_hash[:16],
        "alloySha256": report.alloy_hash,
        "revision": report.revision,
        "coverage": report.coverage.as_json(),
        "tiers": {str(tier): report.tier(tier).as_json() for tier in TIERS},
        "findings": [_finding(finding, gaps) for finding in report.findings],
    }


def _finding(finding: Finding, gaps: Mapping[str, str]) -> dict[str, Any]:
    claim = finding.claim
    made = {
        "id": claim.id,
        "pointer": claim.pointer,
        "kind": claim.kind,
        "tier": claim.tier,
        "verdict": finding.verdict.value,
        "expected": claim.expected,
        "observed": finding.observed,
        "reason": finding.reason,
        "fix": finding.fix,
        "evidence": dict(finding.evidence),
        "seconds": finding.seconds,
    }
    return made | ({"knownGap": gaps[claim.id]} if claim.id in gaps else {})
