"""Findings on a terminal: tables for people, plain lines in a pipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from forgekit.findings import TIER_NAMES, TIERS, Coverage, Finding, Verdict
from forgekit.report import MARK, MEANING, SHOWN, clean, in_order, shorten, total
from forgekit.verify import Report

STYLE: Mapping[Verdict, str] = {
    Verdict.CONFIRMED: "green",
    Verdict.REFUTED: "bold red",
    Verdict.UNPROVEN: "yellow",
    Verdict.UNCHECKED: "dim",
}


def print_artifact(console: Console, report: Report, gaps: Mapping[str, str]) -> None:
    """Every claim of one artifact, worst news first."""
    if report.error is not None:
        console.print(Text(f"{report.name} cannot be read: {clean(str(report.error))}", style=STYLE[Verdict.REFUTED]))
        return
    if not console.is_terminal:
        for finding in in_order(report.findings):
            console.print(Text(_line(finding, gaps)), soft_wrap=True)
        return
    table = Table(title=_title(report), title_justify="left", expand=True, pad_edge=False, header_style="bold")
    table.add_column("verdict", no_wrap=True)
    table.add_column("tier", no_wrap=True, style="dim")
    table.add_column("claim", overflow="fold", ratio=4)
    table.add_column("finding", overflow="fold", ratio=5)
    for finding in in_order(report.findings):
        style = STYLE[finding.verdict]
        verdict = Text(f"{MARK[finding.verdict]} {finding.verdict.value}", style=style)
        table.add_row(verdict, str(finding.claim.tier), _claim(finding), _found(finding, gaps))
    console.print(table)
    console.print(_coverage_line(report.coverage))


def print_matrix(console: Console, reports: Sequence[Report]) -> None:
    """Coverage of each artifact by tier."""
    table = Table(title="Claim coverage", title_justify="left", pad_edge=False, header_style="bold")
    table.add_column("artifact", overflow="fold")
    for tier in TIERS:
        table.add_column(f"{tier} {TIER_NAMES[tier]}" if isinstance(tier, int) else TIER_NAMES[tier], no_wrap=True)
    table.add_column("confirmed", justify="right", no_wrap=True)
    for report in reports:
        if report.error is not None:
            table.add_row(clean(report.name), Text("unreadable", style=STYLE[Verdict.REFUTED]))
            continue
        cells = [_cell(report.tier(tier)) for tier in TIERS]
        table.add_row(clean(report.name), *cells, _share(report.coverage))
    console.print(table)
    console.print(_legend())
    console.print(_coverage_line(total(reports)))


def print_refuted(console: Console, reports: Sequence[Report], gaps: Mapping[str, str]) -> None:
    """Every refuted claim of a set of artifacts, and every artifact that could not be read."""
    for report in reports:
        if report.error is not None:
            console.print(Text(f"cannot read {report.name}: {clean(str(report.error))}", style=STYLE[Verdict.REFUTED]))
        for finding in report.findings:
            if finding.verdict is Verdict.REFUTED:
                console.print(Text(_line(finding, gaps), style=STYLE[Verdict.REFUTED]), soft_wrap=True)


def _cell(coverage: Coverage) -> Text:
    parts = [Text(f"{MARK[v]}{coverage[v]}", style=STYLE[v]) for v in SHOWN if coverage[v]]
    return Text(" ").join(parts) if parts else Text("")


def _share(coverage: Coverage) -> str:
    return f"{coverage[Verdict.CONFIRMED]}/{coverage.total()}" if coverage.total() else "no claims"


def _coverage_line(coverage: Coverage) -> Text:
    parts = [Text(f"{coverage[verdict]} {verdict.value}", style=STYLE[verdict]) for verdict in SHOWN]
    share = coverage.share
    line = Text(", ").join(parts)
    return line if share is None else line + Text(f" · {share:.0%} of {coverage.total()} claims confirmed")


def _legend() -> Text:
    return Text("\n").join(Text(f"{MARK[v]} {v.value}: {MEANING[v]}", style=STYLE[v]) for v in SHOWN)


def _title(report: Report) -> str:
    return clean(f"{report.name}  alloy {report.alloy_hash[:16]}")


def _claim(finding: Finding) -> Text:
    text = Text(clean(finding.claim.pointer or "the document"))
    text.append(f"\n{finding.claim.kind}", style="dim")
    if finding.claim.expected is not None:
        text.append(f": {shorten(finding.claim.expected, 40)}", style="dim")
    return text


def _found(finding: Finding, gaps: Mapping[str, str]) -> Text:
    text = Text(clean(finding.reason or shorten(finding.observed)))
    if finding.fix:
        text.append(f"\nfix {clean(finding.fix)}", style="italic dim")
    if finding.claim.id in gaps:
        text.append(f"\nknown: {clean(gaps[finding.claim.id])}", style="italic dim")
    return text


def _line(finding: Finding, gaps: Mapping[str, str]) -> str:
    known = f" [known: {gaps[finding.claim.id]}]" if finding.claim.id in gaps else ""
    said = finding.reason or shorten(finding.observed)
    return clean(f"{finding.verdict.value:<9}  {finding.claim.id}  {finding.claim.kind}  {said}{known}")
