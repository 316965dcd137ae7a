"""``forgekit verify`` and ``forgekit claims``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.attesting import keys_asked
from forgekit.cli.shared import (
    CatalogPaths,
    DatasetFiles,
    Json,
    Offline,
    console,
    dataset_files,
    open_catalogs,
    print_json,
)
from forgekit.errors import AbsentError, ForgeError, SourceError
from forgekit.findings import TIERS, Claim, Tier, Verdict
from forgekit.sources.catalog import Broken, Catalog
from forgekit.sources.opening import open_target

if TYPE_CHECKING:
    from forgekit.checks import Settings
    from forgekit.sources import Source
    from forgekit.verify import Report

Targets = Annotated[
    list[str] | None,
    typer.Argument(metavar="TARGET...", help="A folder, an alloy file, hf://org/name[@revision], or a catalog entry."),
]
All = Annotated[bool, typer.Option("--all", help="Every entry of the catalogs.")]
Tiers = Annotated[
    list[str] | None, typer.Option("--tier", metavar="1|2|3|4|runtime", help="Only claims of this tier; repeatable.")
]
Only = Annotated[
    list[str] | None,
    typer.Option("--only", metavar="TEXT", help="Only claims whose id contains this, or matches it as a pattern."),
]


def verify(
    targets: Targets = None,
    everything: All = False,
    catalog: CatalogPaths = None,
    tier: Tiers = None,
    only: Only = None,
    offline: Offline = False,
    oracle: Annotated[str | None, typer.Option(help="The reading of a benchmark's rules that counts.")] = None,
    dataset_file: DatasetFiles = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Candidates scored side by side.")] = None,
    keys: Annotated[
        Path | None, typer.Option(help="A key registry, by which signatures are judged. Default: $FORGEKIT_KEYS.")
    ] = None,
    audience: Annotated[
        str | None, typer.Option(help="Origin that asks; attestations for others do not count.")
    ] = None,
    html: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Write a report page here as well.")] = None,
    title: Annotated[str, typer.Option(help="Heading of the report page.")] = "Claim coverage",
    as_json: Json = False,
) -> None:
    """Settle every claim an artifact makes: confirmed, refuted, unproven or unchecked."""
    from forgekit.benchmarks import ScoreSettings
    from forgekit.checks import Settings
    from forgekit.gaps import closed, known_gaps, news
    from forgekit.probing.bench import Bench

    catalogs = open_catalogs(catalog)
    gaps = known_gaps(catalogs)
    with Bench() as bench:
        settings = Settings(
            offline=offline,
            catalogs=catalogs,
            oracle=oracle,
            dataset_files=dataset_files(dataset_file),
            score=ScoreSettings(workers=workers),
            bench=bench,
            keys=keys_asked(keys),
            audience=audience,
        )
        reports = list(
            _reports(targets or [], catalogs, settings, everything=everything, tiers=_tiers(tier), only=only)
        )
    _print(reports, gaps, as_json=as_json)
    if html is not None:
        from forgekit.report.html import write_pages

        page = write_pages(html, reports, gaps, title)
        typer.echo(f"report page: {page}", err=True)
    findings = [finding for report in reports for finding in report.findings]
    stale = closed(gaps, findings)
    for sentence in stale:
        typer.echo(f"error: {sentence}", err=True)
    raise typer.Exit(_exit_code(reports, refuted=bool(news(gaps, findings)) or bool(stale)))


def claims(
    targets: Targets = None,
    everything: All = False,
    catalog: CatalogPaths = None,
    tier: Tiers = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """List every claim an artifact makes, without settling any."""
    from forgekit.verify import claims_of

    found: list[Claim] = []
    for source in _sources(targets or [], open_catalogs(catalog), everything=everything, offline=offline):
        if isinstance(source, Broken):
            raise source.error
        found += claims_of(source.name, source.alloy(), source, _tiers(tier))
    if as_json:
        rows = [
            {"id": c.id, "pointer": c.pointer, "kind": c.kind, "tier": c.tier, "expected": c.expected} for c in found
        ]
        print_json({"schema": "forgekit.claims/1", "claims": rows})
        return
    from forgekit.report import shorten

    for claim in found:
        typer.echo(f"{claim.tier!s:<8} {claim.kind:<18} {claim.id}  {shorten(claim.expected, 80)}")
    typer.echo(f"{len(found)} claims", err=True)


def _reports(
    targets: Sequence[str],
    catalogs: Sequence[Catalog],
    settings: Settings,
    *,
    everything: bool,
    tiers: Sequence[Tier],
    only: list[str] | None,
) -> Iterator[Report]:
    from forgekit.verify import Report, verify

    single = len(targets) == 1 and not everything
    for source in _sources(targets, catalogs, everything=everything, offline=settings.offline):
        if isinstance(source, Broken):
            yield Report(name=source.name, error=source.error)
            continue
        with _watching(source) as progress:
            report = verify(source, settings, tiers=tiers, only=_selector(only), progress=progress)
        if single and report.error is not None:
            raise report.error
        yield report


def _sources(
    targets: Sequence[str], catalogs: Sequence[Catalog], *, everything: bool, offline: bool
) -> Iterator[Source | Broken]:
    if everything:
        if not catalogs:
            raise AbsentError(
                "there is no catalog here",
                hint="give one with --catalog or FORGEKIT_CATALOG, or pull one: forgekit catalog pull",
            )
        for catalog in catalogs:
            yield from catalog.entries()
    if not everything and not targets:
        raise SourceError("no target is given", hint="name an artifact, or --all for every entry of the catalogs")
    for target in targets:
        try:
            yield open_target(target, catalogs, offline=offline)
        except ForgeError as error:
            if len(targets) == 1:
                raise
            yield Broken(target, error)


def _tiers(names: list[str] | None) -> tuple[Tier, ...]:
    by_name = {str(tier): tier for tier in TIERS}
    for name in names or ():
        if name not in by_name:
            raise typer.BadParameter(f"{name!r} is not a tier ({', '.join(by_name)})", param_hint="--tier")
    return tuple(by_name[name] for name in names) if names else TIERS


def _selector(only: list[str] | None) -> Any:
    if not only:
        return None
    return lambda claim: any(text in claim.id or fnmatchcase(claim.id, text) or text == claim.kind for text in only)


def _watching(source: Source) -> Any:
    """A line that says which claim is being settled, on a terminal."""
    import contextlib

    from forgekit.verify import Progress

    if not sys.stderr.isatty():
        return contextlib.nullcontext(Progress())

    @contextlib.contextmanager
    def spinning() -> Iterator[Progress]:
        with console(err=True).status(f"{source.name}") as status:
            yield Progress(started=lambda claim: status.update(f"{claim.id}"))

    return spinning()


def _print(reports: Sequence[Report], gaps: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        from forgekit.report.json_report import as_json as document

        print_json(document(reports, gaps))
        return
    from forgekit.report.text import print_artifact, print_matrix, print_refuted

    out = console()
    if len(reports) == 1:
        print_artifact(out, reports[0], gaps)
        return
    print_matrix(out, reports)
    print_refuted(out, reports, gaps)


def _exit_code(reports: Sequence[Report], *, refuted: bool) -> int:
    if any(report.error is not None for report in reports):
        return 2
    if refuted:
        return 1
    settled = any(f.verdict in (Verdict.CONFIRMED, Verdict.REFUTED) for report in reports for f in report.findings)
    return 0 if settled else 3
