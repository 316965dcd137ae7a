"""Statements that a published score was computed again from the published samples, and came out the same.

The model was not run: what is attested is that these samples, judged by this harness on this data set, give this count.
Only a confirmed finding of tier 4 about the artifact's own score makes one.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import forgekit
from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find
from forgekit.attest import merkle, statement
from forgekit.attest.materials import stamp
from forgekit.digest import sha256
from forgekit.errors import AttestationError
from forgekit.findings import Finding, Verdict

PREDICATE = "urn:forgekit:evaluation:1"
OWN = re.compile(r"(/results/benchmarks/\d+)/(score|metrics/score)")
MEANING = "the published samples were scored again and give this count; the model was not run"


def objection(finding: Finding) -> str:
    """Why a finding makes no attestation; empty where it makes one."""
    if finding.claim.tier != 4 or finding.claim.kind != "score":
        return "it is no score"
    if not OWN.fullmatch(finding.claim.pointer):
        return "it is the score of another model than this artifact"
    if finding.verdict is not Verdict.CONFIRMED:
        return f"it is {finding.verdict.value}: {finding.reason or 'no reason is given'}"
    if not {"samples", "dataset", "selfCheck"} <= finding.evidence.keys() or not isinstance(finding.observed, dict):
        return "its scorer says too little of what it did"
    return ""


def samples_path(alloy: Alloy, finding: Finding) -> str:
    """Path of the samples that a score was computed from.

    Raises:
        AttestationError: the finding makes no attestation.
    """
    found = OWN.fullmatch(finding.claim.pointer)
    path = find(alloy.tree, f"{found[1]}/samplesPath") if found else None
    if not isinstance(path, str):
        raise AttestationError("the alloy names no samples of this score", where=f"#{finding.claim.pointer}")
    return path


def evaluation(alloy: Alloy, finding: Finding, samples: bytes, *, at: datetime) -> bytes:
    """The statement that a score was reproduced, in RFC 8785 bytes.

    Args:
        samples: the bytes that were scored.
        at: when it is attested.

    Raises:
        AttestationError: the finding is not confirmed, or was made from other samples.
        MachineError: in-toto's library is not installed here.
    """
    if reason := objection(finding):
        raise AttestationError(f"nothing is attested of this score: {reason}", where=f"#{finding.claim.pointer}")
    if finding.evidence["samples"]["sha256"] != str(sha256(samples)):
        raise AttestationError("these are not the samples that were scored", where=f"#{finding.claim.pointer}")
    return statement.about(alloy, PREDICATE, _predicate(alloy, finding, samples, at))


def _predicate(alloy: Alloy, finding: Finding, samples: bytes, at: datetime) -> dict[str, Any]:
    observed, evidence = finding.observed, finding.evidence
    row = find(alloy.tree, finding.claim.pointer.split("/score")[0].removesuffix("/metrics")) or {}
    unstable = observed.get("unstable", 0)
    records = merkle.lines(samples)
    return {
        "assuranceLevel": "reproduced",
        "meaning": MEANING,
        "attestedAt": stamp(at),
        "benchmark": {
            "name": evidence["benchmark"],
            "metric": row.get("metric"),
            "pointer": finding.claim.pointer,
            "claimed": finding.claim.expected,
        },
        "result": {"percent": observed["percent"], "oracle": observed["oracle"], "oracles": evidence["oracles"]},
        "verdicts": {
            "passed": observed["passed"],
            "notPassed": observed["total"] - observed["passed"] - unstable,
            "unstable": unstable,
            "total": observed["total"],
        },
        "samples": {
            "path": samples_path(alloy, finding),
            "sha256": sha256(samples).hex,
            "merkleRoot": str(merkle.root(records)),
            "records": len(records),
        },
        "dataset": {key: evidence["dataset"].get(key) for key in ("name", "version", "sha256")},
        "harness": {
            "name": "forgekit",
            "version": forgekit.__version__,
            "python": evidence.get("python"),
            "numpy": evidence.get("numpy"),
            "isolation": evidence.get("isolation"),
        },
    }
