"""Claims an alloy makes, and what was found of each."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

Tier = int | str  # 1 to 4, or "runtime"
TIERS: tuple[Tier, ...] = (1, 2, 3, 4, "runtime")
TIER_NAMES: Mapping[Tier, str] = {
    1: "dispatch",
    2: "re-forge",
    3: "hashes",
    4: "scoring",
    "runtime": "runtimes",
}


class Verdict(enum.Enum):
    """What the evidence says of a claim. There is no default and no fifth value."""

    CONFIRMED = "confirmed"  # the evidence was examined and agrees
    REFUTED = "refuted"  # the evidence was examined and disagrees
    UNPROVEN = "unproven"  # the publisher left out what would prove it
    UNCHECKED = "unchecked"  # this verifier lacks something; the reason says what


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One checkable statement, and the place in the alloy that makes it.

    Attributes:
        artifact: name of the artifact, as in reports and test ids.
        kind: name of the check that settles it, kebab-case.
        pointer: RFC 6901 JSON pointer into the alloy; "" is the whole document.
        tier: where in the suite it belongs.
        expected: the claimed value, as JSON data.
        part: tells claims about the same place apart; empty for the first.
    """

    artifact: str
    kind: str
    pointer: str
    tier: Tier
    expected: Any
    part: str = ""

    @property
    def id(self) -> str:
        """Names the claim in test ids, reports and known gaps."""
        return f"{self.artifact}::{self.pointer or '/'}" + (f"~{self.part}" if self.part else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """The verdict on one claim, with the evidence for it.

    Attributes:
        observed: what was found, as JSON data; None where nothing could be observed.
        reason: why the verdict is what it is. Never empty for unproven and unchecked.
        fix: "layer: what to do" for whoever owns that layer; None when nothing is wrong.
        evidence: what was examined: counts, digests, versions. JSON data.
        seconds: wall time it took to settle.
    """

    claim: Claim
    verdict: Verdict
    observed: Any = None
    reason: str | None = None
    fix: str | None = None
    evidence: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.verdict in (Verdict.UNPROVEN, Verdict.UNCHECKED) and not self.reason:
            raise ValueError(f"{self.claim.id}: {self.verdict.value} needs a reason")


class Coverage(Counter[Verdict]):
    """How many claims got each verdict."""

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Coverage:
        return cls(finding.verdict for finding in findings)

    @property
    def share(self) -> float | None:
        """Claims confirmed over all claims, in [0, 1]; None where there are no claims."""
        return self[Verdict.CONFIRMED] / self.total() if self.total() else None

    def as_json(self) -> dict[str, int]:
        return {verdict.value: self[verdict] for verdict in Verdict}
