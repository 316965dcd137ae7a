"""Every claim of an artifact, settled. Knows no pytest and no terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from forgekit.alloy import Alloy
from forgekit.checks import CHECKS, Evidence, Settings
from forgekit.errors import ForgeError
from forgekit.findings import TIERS, Claim, Coverage, Finding, Tier, Verdict
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

    started: Callable[[Claim], None] = field(default=lambda _claim: None)


def claims_of(name: str, alloy: Alloy, source: Source | None = None, tiers: Collection[Tier] = TIERS) -> list[Claim]:
    """Every claim an alloy makes, by tier; each with an id of its own, whichever tiers are asked for."""
    found = [claim for check in CHECKS.values() for claim in check.of(name, alloy, source)]
    found.sort(key=lambda claim: TIERS.index(claim.tier))
    seen: set[str] = set()
    for index, claim in enumerate(found):
        if claim.id in seen:
            found[index] = replace(claim, part=claim.kind)
        seen.add(found[index].id)
    return [claim for claim in found if claim.tier in tiers]


def settle(claim: Claim, evidence: Evidence) -> Finding:
    """Decide one claim and say how long it took."""
    started = time.perf_counter()
    finding = CHECKS[claim.kind].settle(claim, evidence)
    return replace(finding, seconds=round(time.perf_counter() - started, 4))


def verify(
    source: Source,
    settings: Settings,
    *,
    tiers: Collection[Tier] = TIERS,
    only: Callable[[Claim], bool] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Settle every claim of one artifact. An alloy that cannot be read becomes a report that says so."""
    told = progress or Progress()
    try:
        alloy = source.alloy()
        revision = source.revision
        claims = [c for c in claims_of(source.name, alloy, source, tiers) if only is None or only(c)]
    except ForgeError as error:
        return Report(name=source.name, error=error)
    evidence = Evidence(name=source.name, alloy=alloy, source=source, settings=settings)
    findings = []
    for claim in claims:
        told.started(claim)
        try:
            findings.append(settle(claim, evidence))
        except Exception as error:  # noqa: BLE001 - our bug must not hide what the other checks found
            reason = f"forgekit's own check broke, which is a bug to report: {type(error).__name__}: {error}"
            findings.append(Finding(claim=claim, verdict=Verdict.UNCHECKED, reason=reason))
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
