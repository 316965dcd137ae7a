"""Published samples are the bytes whose hash was recorded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join, objects
from forgekit.checks import Check, Evidence, Found, confirmed, judge_hash_text, refuted, unproven, without_file
from forgekit.digest import Digest
from forgekit.errors import SourceError, UnreachableError
from forgekit.findings import Claim, Finding

LAYER = "samples: publish the JSONL the score was computed from, and record its SHA-256"


@dataclass(frozen=True, slots=True)
class Pair:
    """Where a samples file and its hash are named."""

    path_at: str
    hash_at: str
    path: str | None
    hash: str | None


def pairs(alloy: Alloy) -> Iterator[Pair]:
    """Every place an alloy names samples or their hash."""
    for pointer, row in objects(alloy.tree, "/results/benchmarks"):
        for path, digest in (("samplesPath", "resultHash"), ("baseSamplesPath", "baseResultHash")):
            if row.get(path) is not None or row.get(digest) is not None:
                yield Pair(join(pointer, path), join(pointer, digest), row.get(path), row.get(digest))
    for pointer, row in objects(alloy.tree, "/priorMetricBaselines"):
        evaluation = row.get("evaluation")
        here, at = (evaluation, join(pointer, "evaluation")) if isinstance(evaluation, dict) else (row, pointer)
        if here.get("samplesPath") is not None or here.get("samplesHash") is not None:
            yield Pair(
                join(at, "samplesPath"), join(at, "samplesHash"), here.get("samplesPath"), here.get("samplesHash")
            )


def claims(alloy: Alloy) -> Found:
    for pair in pairs(alloy):
        yield pair.hash_at, pair.hash


def settle(claim: Claim, evidence: Evidence) -> Finding:
    pair = next(pair for pair in pairs(evidence.alloy) if pair.hash_at == claim.pointer)
    if pair.hash is None:
        return unproven(claim, f"{pair.path} is published without a hash", "samples: record the SHA-256 of the samples")
    if not isinstance(pair.path, str):
        return unproven(claim, "a hash is recorded and no samples file is named", LAYER)
    return judge_hash_text(claim, "samples") or _compare(claim, pair.path, evidence)


def _compare(claim: Claim, path: str, evidence: Evidence) -> Finding:
    wanted = Digest.parse(claim.expected)
    told_by = "its bytes"
    try:
        observed = evidence.sha256(path)
    except UnreachableError as error:
        record = evidence.source.listing().get(path)
        if record is None or not record.sha256:
            return without_file(claim, error, LAYER)
        observed, told_by = Digest.parse(record.sha256), f"{record.told_by} (not downloaded)"
    except SourceError as error:
        return without_file(claim, error, LAYER)
    if observed == wanted:
        return confirmed(claim, str(observed), f"by {told_by}", file=path)
    reason = f"{path} is {observed.short} by {told_by}: these are not the samples that were hashed"
    return refuted(claim, str(observed), reason, "samples: publish the samples that were hashed", file=path)


CHECK = Check(name="samples-hash", tier=3, claims=claims, settle=settle, domain="llm-forge")
