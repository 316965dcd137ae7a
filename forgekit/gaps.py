"""Known gaps: claims of a catalog that are refuted, that everybody knows of, and why.

A gap stays refuted in every report. It only stops counting as news, and a
line whose claim is no longer refuted is itself a failure.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

from forgekit.errors import SourceError
from forgekit.findings import Finding, Verdict
from forgekit.sources.catalog import Catalog

FILE = "known-gaps.toml"


def known_gaps(catalogs: Iterable[Catalog]) -> dict[str, str]:
    """Claim id -> reason, from the ``known-gaps.toml`` of each catalog.

    Raises:
        SourceError: a file cannot be read, or holds something else.
    """
    found: dict[str, str] = {}
    for catalog in catalogs:
        path = catalog.root / FILE
        if path.is_file():
            found.update(read_gaps(path))
    return found


def read_gaps(path: Path) -> dict[str, str]:
    """One file: a table ``[gaps]`` of ``"<claim id>" = "<reason>"``."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("gaps", {})
    except (OSError, ValueError) as error:
        raise SourceError(f"the known gaps cannot be read: {error}", where=str(path)) from error
    if not isinstance(table, dict) or not all(isinstance(reason, str) and reason for reason in table.values()):
        raise SourceError(
            "every known gap needs a reason", where=str(path), hint='"<claim id>" = "<reason>" under [gaps]'
        )
    return table


def closed(gaps: Mapping[str, str], findings: Iterable[Finding]) -> list[str]:
    """Known gaps whose claim was settled and is not refuted, a sentence each."""
    return [
        f"{finding.claim.id} is a known gap and is {finding.verdict.value}: take it off the list"
        for finding in findings
        if finding.claim.id in gaps and finding.verdict is not Verdict.REFUTED
    ]


def news(gaps: Mapping[str, str], findings: Iterable[Finding]) -> list[Finding]:
    """Refuted findings that are not known."""
    return [f for f in findings if f.verdict is Verdict.REFUTED and f.claim.id not in gaps]
