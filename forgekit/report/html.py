"""Findings as static pages that work from a folder: an overview, and a page per artifact."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from forgekit import __version__
from forgekit.alloy.files import write_atomically
from forgekit.findings import TIER_NAMES, TIERS, Coverage, Finding, Tier, Verdict
from forgekit.report import MARK, MEANING, SHOWN, clean, in_order, shorten, total
from forgekit.verify import Report


def write_pages(folder: Path, reports: Sequence[Report], gaps: Mapping[str, str], title: str) -> Path:
    """Write the pages and return the overview's path. Each file replaces its predecessor whole.

    Raises:
        SourceError: the folder cannot be written.
    """
    pages = Environment(
        loader=PackageLoader("forgekit.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_harmless,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters.update(short=shorten, data=_data)
    pages.globals.update(
        marks={verdict.value: MARK[verdict] for verdict in Verdict},
        meanings={verdict.value: MEANING[verdict] for verdict in SHOWN},
        tiers=[(tier, TIER_NAMES[tier]) for tier in TIERS],
        version=__version__,
    )
    names = _file_names([report.name for report in reports])
    cards = [_card(report, gaps, name) for report, name in zip(reports, names, strict=True)]
    for card in cards:
        page = pages.get_template("artifact.html").render(card=card, title=title)
        write_atomically(folder / card["file"], page.encode())
    overview = pages.get_template("overview.html").render(
        cards=cards, whole=_bar(total(reports)), title=title, runtimes=_columns(cards)
    )
    write_atomically(folder / "index.html", overview.encode())
    return folder / "index.html"


def _file_names(names: Sequence[str]) -> list[str]:
    """A file name for each artifact, all different."""
    taken = {"index"}
    made = []
    for name in names:
        stem = free = re.sub(r"[^\w.-]+", "--", name).strip("-.") or "artifact"
        number = 1
        while free.casefold() in taken:
            number += 1
            free = f"{stem}-{number}"
        taken.add(free.casefold())
        made.append(f"{free}.html")
    return made


def _card(report: Report, gaps: Mapping[str, str], file: str) -> dict[str, Any]:
    return {
        "name": report.name,
        "file": file,
        "title": clean(report.title or report.name),
        "description": clean(report.description),
        "base": clean(report.base_model),
        "alloy": report.alloy_name,
        "hash": report.alloy_hash,
        "revision": report.revision,
        "error": str(report.error) if report.error else "",
        "whole": _bar(report.coverage),
        "tiers": [_bar(report.tier(tier)) for tier in TIERS],
        "findings": [_row(finding, gaps) for finding in in_order(report.findings)],
        "cells": runtime_cells(report),
        "devices": [_device(finding) for finding in report.findings if finding.claim.kind == "hardware"],
    }


def runtime_cells(report: Report) -> list[dict[str, Any]]:
    """What is known of each form of an artifact in each runtime: one cell per pair, whichever claims asked."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for finding in report.findings:
        evidence = finding.evidence
        for cell in (*evidence.get("cells", ()), *([evidence["cell"]] if "cell" in evidence else ())):
            found.setdefault((cell["runtime"], cell["form"]), _cell(cell))
        if finding.claim.kind == "runtime" and "cells" not in evidence and "runtime" in evidence:
            bare = {"runtime": evidence["runtime"], "form": "", "precision": "", "verdict": finding.verdict.value}
            found.setdefault((bare["runtime"], ""), _cell({**bare, "reason": finding.reason}))
    return [found[key] for key in sorted(found)]


def _cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    measured = cell.get("evidence") or {}
    load, memory, speed = (measured.get(name) for name in ("loadSeconds", "peakMemoryMiB", "tokensPerSec"))
    engine = " ".join(str(measured[name]) for name in ("engine", "version") if name in measured)
    return {
        "runtime": cell["runtime"],
        "form": cell["form"],
        "precision": cell["precision"],
        "verdict": cell["verdict"],
        "reason": cell["reason"],
        "engine": engine,
        "load": "" if load is None else f"{load:.2f} s",
        "memory": "" if memory is None else f"{memory:,} MiB",
        "speed": "" if speed is None else f"{speed:,.0f}",
        "foretold": [obstacle["invariant"] for obstacle in cell.get("foretold", ())],
        "surprise": cell.get("surprise"),
    }


def _device(finding: Finding) -> dict[str, Any]:
    claimed = finding.evidence.get("claimed") or {}
    told = ", ".join(f"{name} {value}" for name, value in claimed.items())
    return {
        "name": finding.claim.expected,
        "claimed": told,
        "verdict": finding.verdict.value,
        "reason": finding.reason,
    }


def _columns(cards: Sequence[Mapping[str, Any]]) -> list[str]:
    """Runtimes that any artifact was asked about."""
    return sorted({cell["runtime"] for card in cards for cell in card["cells"]})


def _bar(coverage: Coverage) -> dict[str, Any]:
    """Counts and widths of one coverage bar, confirmed first."""
    whole = coverage.total()
    parts = [
        {"verdict": verdict.value, "count": coverage[verdict], "share": 100 * coverage[verdict] / whole}
        for verdict in SHOWN
        if coverage[verdict]
    ]
    share = coverage.share
    return {"total": whole, "parts": parts, "percent": None if share is None else round(share * 100)}


def _row(finding: Finding, gaps: Mapping[str, str]) -> dict[str, Any]:
    claim = finding.claim
    return {
        "id": claim.id,
        "anchor": re.sub(r"[^\w-]+", "-", f"{claim.pointer}-{claim.kind}-{claim.part}").strip("-"),
        "verdict": finding.verdict.value,
        "kind": claim.kind,
        "tier": claim.tier,
        "tier_name": _tier_name(claim.tier),
        "pointer": claim.pointer,
        "expected": claim.expected,
        "observed": finding.observed,
        "reason": finding.reason,
        "fix": finding.fix,
        "evidence": dict(finding.evidence),
        "seconds": finding.seconds,
        "gap": gaps.get(claim.id),
    }


def _tier_name(tier: Tier) -> str:
    return f"tier {tier}, {TIER_NAMES[tier]}" if isinstance(tier, int) else TIER_NAMES[tier]


def _harmless(value: Any) -> Any:
    """Text of unknown origin without characters that change how the rest of a line reads; lines stay."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(map(clean, value.split("\n")))


def _data(value: Any) -> str:
    """A value as indented JSON."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)
