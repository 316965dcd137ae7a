"""Corpora that a result depends on are published, or at least named by content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join, objects, rows_by
from forgekit.checks import (
    Check,
    Evidence,
    Found,
    confirmed,
    judge_hash_text,
    refuted,
    unchecked,
    unproven,
    without_file,
)
from forgekit.digest import Digest
from forgekit.errors import SourceError
from forgekit.findings import Claim, Finding

LAYER = "corpus: publish it with the artifact and record its SHA-256"


@dataclass(frozen=True, slots=True)
class Corpus:
    """A corpus as an alloy refers to it."""

    pointer: str
    claimed: Any
    name: str
    path: str | None
    hash: str | None


def corpora(alloy: Alloy) -> Iterator[Corpus]:
    """Every corpus or data set an alloy refers to."""
    for pointer, row in objects(alloy.tree, "/calibrationCorpora"):
        yield Corpus(
            join(pointer, "sha256"), row.get("sha256"), _name(row, pointer), row.get("path"), row.get("sha256")
        )
    pinned = alloy.at("/calibrationCorpus")
    if isinstance(pinned, Mapping):
        at = "/calibrationCorpus/contentHash"
        yield Corpus(at, pinned.get("contentHash"), _name(pinned, at), pinned.get("path"), pinned.get("contentHash"))
    for pointer, row in objects(alloy.tree, "/results/integrity/datasets"):
        yield Corpus(join(pointer, "hash"), row.get("hash"), _name(row, pointer), row.get("path"), row.get("hash"))
    yield from _of_stages(alloy)
    for pointer, row in objects(alloy.tree, "/priorMetricBaselines"):
        metric = row.get("metric")
        if isinstance(metric, Mapping) and isinstance(metric.get("calibrationCorpus"), str):
            at = join(pointer, "metric", "calibrationCorpusSha256")
            recorded = metric.get("calibrationCorpusSha256")
            yield Corpus(at, recorded, metric["calibrationCorpus"], None, recorded)


def _of_stages(alloy: Alloy) -> Iterator[Corpus]:
    rooted = rows_by(alloy.tree, "/calibrationCorpora", "id")
    for pointer, stage in objects(alloy.tree, "/stages"):
        for key in ("calibrationCorpus", "calibrationDataset"):
            name = stage.get(key)
            if isinstance(name, str):
                row = rooted.get(name, {})
                path = stage.get(f"{key}File") or row.get("path")
                recorded = stage.get(f"{key}Sha256") or row.get("sha256")
                yield Corpus(join(pointer, key), name, name, path, recorded)


def _name(row: Mapping[str, Any], default: str) -> str:
    return str(row.get("name") or row.get("id") or default)


def claims(alloy: Alloy) -> Found:
    for corpus in corpora(alloy):
        yield corpus.pointer, corpus.claimed


def settle(claim: Claim, evidence: Evidence) -> Finding:
    corpus = next(corpus for corpus in corpora(evidence.alloy) if corpus.pointer == claim.pointer)
    if corpus.hash is None:
        there = f", though {corpus.path} is named as its file" if corpus.path else ""
        return unproven(claim, f"{corpus.name} is named and no hash says which text that is{there}", LAYER)
    asked = Claim(
        artifact=claim.artifact, kind=claim.kind, pointer=claim.pointer, tier=claim.tier, expected=corpus.hash
    )
    if malformed := judge_hash_text(asked, "corpus"):
        return malformed
    if not isinstance(corpus.path, str):
        return unchecked(claim, f"{corpus.name} is named by hash only, and its text is not here", hash=corpus.hash)
    try:
        observed = evidence.sha256(corpus.path)
    except SourceError as error:
        return without_file(claim, error, LAYER)
    if observed == Digest.parse(corpus.hash):
        return confirmed(claim, str(observed), f"{corpus.path} is the text that was hashed", file=corpus.path)
    return refuted(
        claim,
        str(observed),
        f"{corpus.path} is {observed.short}, not the text that was hashed",
        LAYER,
        file=corpus.path,
    )


CHECK = Check(name="corpus", tier=3, claims=claims, settle=settle)
