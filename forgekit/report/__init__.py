"""Findings for people and programs. The only place that words a verdict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from forgekit.findings import Coverage, Finding, Verdict
from forgekit.verify import Report

ORDER = (Verdict.REFUTED, Verdict.UNPROVEN, Verdict.UNCHECKED, Verdict.CONFIRMED)  # what a reader needs first
SHOWN = (Verdict.CONFIRMED, Verdict.REFUTED, Verdict.UNPROVEN, Verdict.UNCHECKED)  # along a bar, and in summaries
MARK: Mapping[Verdict, str] = {
    Verdict.CONFIRMED: "✓",
    Verdict.REFUTED: "✗",
    Verdict.UNPROVEN: "?",
    Verdict.UNCHECKED: "·",
}
MEANING: Mapping[Verdict, str] = {
    Verdict.CONFIRMED: "the evidence was examined and agrees",
    Verdict.REFUTED: "the evidence was examined and disagrees",
    Verdict.UNPROVEN: "the publisher left out what would prove it",
    Verdict.UNCHECKED: "this machine could not check it, and says why",
}


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Findings with the worst news first; otherwise as they came."""
    return sorted(findings, key=lambda finding: ORDER.index(finding.verdict))


def total(reports: Iterable[Report]) -> Coverage:
    whole = Coverage()
    for report in reports:
        whole.update(report.coverage)
    return whole


def explain(finding: Finding) -> str:
    """One finding in a few lines, as pytest shows it."""
    claim = finding.claim
    lines = [f"{finding.verdict.value}: {claim.id} ({claim.kind})"]
    if finding.observed is not None and finding.verdict is not Verdict.CONFIRMED:
        lines += [f"  claimed   {shorten(claim.expected)}", f"  observed  {shorten(finding.observed)}"]
    if finding.reason:
        lines.append(f"  because   {clean(finding.reason)}")
    if finding.fix:
        lines.append(f"  fix       {clean(finding.fix)}")
    return "\n".join(lines)


def shorten(value: object, limit: int = 120) -> str:
    """A claimed or observed value on one line."""
    import json

    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    text = clean(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def clean(text: str) -> str:
    """Text of unknown origin without anything a terminal would obey."""
    return "".join(c if c.isprintable() or c == " " else "�" for c in text.replace("\n", " ⏎ "))
