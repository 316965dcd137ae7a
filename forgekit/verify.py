"""Every claim of an artifact, settled. Knows no pytest and no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from forgekit.alloy import Alloy
from forgekit.checks import CHECKS, Evidence, Settings
from forgekit.errors import ForgeError
from forgekit.findings import TIERS, Claim, Coverage, Finding, Tier
from forgekit.sources import Source


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One artifact and what was found of its claims.

    Attributes:
        error: why the alloy could not be read at all; then there are no findings.
    """

    name: str
    alloy_name: str = ""
    alloy_hash: str = ""
    revision: str | None = None
    findings: tuple[Finding, ...] = ()
    error: ForgeError | None = None
    title: str = ""
    description: str = ""
    base_model: str = ""

    @property
    def coverage(self) -> Coverage:
        return Coverage.of(self.findings)

    def tier(self, tier: Tier) -> Coverage:
        return Coverage.of(finding for finding in self.findings if finding.claim.tier == tier)


@dataclass(frozen=True, kw_only=True, slots=True)
class Progress:
    """Where a verification reports to while it runs."""

    started: Callable[[str, int], None] = field(default=lambda _name, _claims: None)
    settled: Callable[[Finding], None] = field(default=lambda _finding: None)


def claims_of(name: str, alloy: Alloy, source: Source | None = None, tiers: Collection[Tier] = TIERS) -> list[Claim]:
    """Every claim an alloy makes, by tier and then in document order of each check."""
    found = [claim for check in CHECKS.values() if check.tier in tiers for claim in check.of(name, alloy, source)]
    return sorted(found, key=lambda claim: TIERS.index(claim.tier))


def settle(claim: Claim, evidence: Evidence) -> Finding:
    """Decide one claim and say how long it took."""
    started = time.perf_counter()
    finding = CHECKS[claim.kind].settle(claim, evidence)
    return replace(finding, seconds=round(time.perf_counter() - started, 4))


def verify(
    source: Source, settings: Settings, *, tiers: Collection[Tier] = TIERS, progress: Progress | None = None
) -> Report:
    """Settle every claim of one artifact. An alloy that cannot be read becomes a report that says so."""
    told = progress or Progress()
    try:
        alloy = source.alloy()
        revision = source.revision
        claims = claims_of(source.name, alloy, source, tiers)
    except ForgeError as error:
        return Report(name=source.name, error=error)
    evidence = Evidence(name=source.name, alloy=alloy, source=source, settings=settings)
    told.started(source.name, len(claims))
    findings = []
    for claim in claims:
        finding = settle(claim, evidence)
        told.settled(finding)
        findings.append(finding)
    return Report(
        name=source.name,
        alloy_name=alloy.where.rsplit("/", 1)[-1],
        alloy_hash=alloy.hash.hex,
        revision=revision,
        findings=tuple(findings),
        title=str(alloy.tree.get("name") or source.name),
        description=str(alloy.tree.get("description") or ""),
        base_model=str(alloy.at("/source/baseModel") or ""),
    )
