"""``forgekit attest evals``: signed statements of scores that came out the same, and entries for the Hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.exporting import Target, epoch, line, private, put
from forgekit.cli.model_signing import exit_code
from forgekit.cli.shared import CatalogPaths, DatasetFiles, Json, Offline, dataset_files, open_catalogs, print_json
from forgekit.errors import AttestationError
from forgekit.findings import Verdict
from forgekit.sources.opening import open_target

if TYPE_CHECKING:
    from forgekit.findings import Finding
    from forgekit.sources import Source

STATEMENTS = "attestations"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def evals(
    target: Target,
    key: Annotated[Path, typer.Option("--key", help="Private key in PEM, as `forgekit keys new` writes it.")],
    key_id: Annotated[str, typer.Option("--key-id", help="The id that registries list it under.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for statements and .eval_results entries.")],
    repo: Annotated[
        str | None, typer.Option(help="Repository they will be published in, org/name; the target's own by default.")
    ] = None,
    hub_dataset: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=ORG/SET[#TASK]", help="A benchmark's data set on the Hub; repeatable."),
    ] = None,
    catalog: CatalogPaths = None,
    dataset_file: DatasetFiles = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Candidates scored side by side.")] = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Re-score every published benchmark, and sign a statement for each score that comes out the same."""
    from forgekit.benchmarks import ScoreSettings
    from forgekit.checks import Settings
    from forgekit.verify import verify as settled

    datasets = _hub_datasets(hub_dataset)
    catalogs = open_catalogs(catalog)
    source = open_target(target, catalogs, offline=offline)
    settings = Settings(
        offline=offline,
        catalogs=catalogs,
        dataset_files=dataset_files(dataset_file),
        score=ScoreSettings(workers=workers),
    )
    loaded = private(key)
    report = settled(source, settings, tiers=(4,), only=lambda claim: claim.kind == "score")
    if report.error is not None:
        raise report.error
    place = _Publication(source=source, out=out, repo=repo or _repository(source), key=loaded, key_id=key_id)
    rows = [_attested(finding, place, datasets) for finding in report.findings]
    _print_evals(source.name, rows, as_json=as_json)
    raise typer.Exit(exit_code([Verdict(row["verdict"]) for row in rows if row["own"]]))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Publication:
    """Where statements go, and who signs them."""

    source: Source
    out: Path
    repo: str | None
    key: Any
    key_id: str
    named: set[str] = field(default_factory=set)

    def name(self, benchmark: str) -> str:
        """A name for what is written of a benchmark; a second score of it gets a number."""
        numbered = (f"{benchmark}-{number}" for number in count(2))
        name = next(name for name in chain([benchmark], numbered) if name not in self.named)
        self.named.add(name)
        return name


def _attested(finding: Finding, place: _Publication, datasets: dict[str, Any]) -> dict[str, Any]:
    """Write the statement of one finding and its entry for the Hub, or say why there is none."""
    from forgekit.attest import dsse, evaluation
    from forgekit.attest.statement import read

    own = evaluation.OWN.fullmatch(finding.claim.pointer) is not None
    row = {"pointer": finding.claim.pointer, "own": own, "verdict": finding.verdict.value, "statement": None}
    row |= {"evalResults": None, "reason": evaluation.objection(finding) or None}
    if row["reason"]:
        return row
    alloy = place.source.alloy()
    samples = place.source.fetch(evaluation.samples_path(alloy, finding)).read_bytes()
    made = evaluation.evaluation(alloy, finding, samples, at=_now())
    name = place.name(finding.evidence["benchmark"])
    path = place.out / STATEMENTS / f"{name}.intoto.jsonl"
    put(path, line(dsse.sign(made, place.key, place.key_id)))
    predicate = read(made, "the statement")["predicate"]
    row["statement"] = str(path)
    return row | _published(predicate, place, datasets, name)


def _published(predicate: dict[str, Any], place: _Publication, datasets: dict[str, Any], name: str) -> dict[str, Any]:
    """The entry for the Hub that links to a statement, or why there is none."""
    from forgekit.attest.eval_results import FOLDER, KNOWN, entry

    benchmark = predicate["benchmark"]["name"]
    dataset = datasets.get(benchmark) or KNOWN.get(benchmark)
    if dataset is None:
        hint = f"--hub-dataset {benchmark}=org/name"
        return {"reason": f"no entry for the Hub: {benchmark} is no data set there that forgekit knows; {hint}"}
    if place.repo is None:
        return {
            "reason": "no entry for the Hub: it links to the statement, and no repository is named; --repo org/name"
        }
    url = f"https://huggingface.co/{place.repo}/blob/main/{STATEMENTS}/{name}.intoto.jsonl"
    path = place.out / FOLDER / f"{name}.yaml"
    put(path, entry(predicate, dataset, url).encode())
    return {"evalResults": str(path)}


def _print_evals(name: str, rows: Sequence[dict[str, Any]], *, as_json: bool) -> None:
    if as_json:
        kept = [{key: value for key, value in row.items() if key != "own"} for row in rows]
        print_json({"schema": "forgekit.evaluations/1", "artifact": name, "scores": kept})
        return
    from forgekit.report import clean

    for row in rows:
        said = " and ".join(row[key] for key in ("statement", "evalResults") if row[key]) or "nothing is attested"
        reason = f" ({row['reason']})" if row["reason"] else ""
        typer.echo(f"{row['verdict']:<10} {row['pointer']}  {clean(said + reason)}")
    if not rows:
        typer.echo("the alloy claims no score", err=True)


def _hub_datasets(values: list[str] | None) -> dict[str, Any]:
    from forgekit.attest.eval_results import HubDataset

    found = {}
    for value in values or ():
        name, equals, text = value.partition("=")
        if not equals:
            raise AttestationError(f"{value!r} names no benchmark", hint="NAME=org/name[#task]")
        found[name] = HubDataset.parse(text)
    return found


def _repository(source: Source) -> str | None:
    return source.name if REPOSITORY.fullmatch(source.name) else None


def _now() -> datetime:
    stated = epoch()
    return datetime.now(UTC).replace(microsecond=0) if stated is None else datetime.fromtimestamp(stated, UTC)
