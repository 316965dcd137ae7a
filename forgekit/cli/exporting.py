"""``forgekit attest``: provenance, bills of materials and evaluation statements, and what signed ones are worth."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.attesting import PASSWORD, keys_asked
from forgekit.cli.model_signing import exit_code, files_json, print_files
from forgekit.cli.shared import (
    CatalogPaths,
    DatasetFiles,
    Json,
    Offline,
    dataset_files,
    open_catalogs,
    print_json,
)
from forgekit.errors import AttestationError
from forgekit.findings import Verdict
from forgekit.sources.opening import open_target

if TYPE_CHECKING:
    from forgekit.attest.checked_files import FileFinding
    from forgekit.attest.signing import Judgement
    from forgekit.findings import Finding
    from forgekit.sources import Source

REFUTED, NOTHING_CHECKED = 1, 3
EPOCH = "SOURCE_DATE_EPOCH"
STATEMENTS = "attestations"
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
Target = Annotated[str, typer.Argument(help="A folder, an alloy file, hf://org/name[@revision], or a catalog entry.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Write here; else it is printed.")]
KeyId = Annotated[str | None, typer.Option("--key-id", help="The id that registries list the key under.")]


def provenance(
    target: Target,
    key: Annotated[Path | None, typer.Option("--key", help="Sign it, as a DSSE envelope, with this key.")] = None,
    key_id: KeyId = None,
    out: Out = None,
    catalog: CatalogPaths = None,
    offline: Offline = False,
) -> None:
    """Write the stage chain as an in-toto statement with SLSA v1 provenance.

    The files that are at hand must be those the alloy records; otherwise nothing is written.
    """
    from forgekit.attest.provenance import provenance as made

    if (key is None) != (key_id is None):
        raise typer.BadParameter("--key and --key-id go together")
    source = open_target(target, open_catalogs(catalog), offline=offline)
    alloy = source.alloy()
    _hold(source)
    data = made(alloy, epoch=_epoch())
    _write(out, data + b"\n" if key is None else _enveloped(data, key, str(key_id)))


def bom(target: Target, out: Out = None, catalog: CatalogPaths = None, offline: Offline = False) -> None:
    """Write a CycloneDX bill of materials with a model card.

    The files that are at hand must be those the alloy records; otherwise nothing is written.
    """
    from forgekit.attest.mlbom import bom as made

    source = open_target(target, open_catalogs(catalog), offline=offline)
    alloy = source.alloy()
    _hold(source)
    _write(out, made(alloy, epoch=_epoch()))


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
    private = _private(key)
    report = settled(source, settings, tiers=(4,), only=lambda claim: claim.kind == "score")
    if report.error is not None:
        raise report.error
    place = _Publication(source=source, out=out, repo=repo or _repository(source), key=private, key_id=key_id)
    rows = [_attested(finding, place, datasets) for finding in report.findings]
    _print_evals(source.name, rows, as_json=as_json)
    raise typer.Exit(exit_code([Verdict(row["verdict"]) for row in rows if row["own"]]))


def verify(
    statement: Annotated[Path, typer.Argument(help="DSSE envelopes, one a line, as these commands write them.")],
    target: Annotated[str | None, typer.Option(help="Hold the artifact's files to the statement as well.")] = None,
    keys: Annotated[Path | None, typer.Option(help="The key registry. Default: $FORGEKIT_KEYS.")] = None,
    catalog: CatalogPaths = None,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Say what signed statements are worth by a key registry, and whether an artifact is the one they are about."""
    from forgekit.attest import dsse

    registry = keys_asked(keys)
    if registry is None:
        typer.echo("nothing could be checked: no key registry is given\n  try  --keys KEYS.json", err=True)
        raise typer.Exit(NOTHING_CHECKED)
    source = open_target(target, open_catalogs(catalog), offline=offline) if target else None
    lines = [line for line in _bytes(statement).splitlines() if line.strip()]
    if not lines:
        raise AttestationError("there is no statement here", where=str(statement))
    rows = []
    for line in lines:
        envelope = dsse.read(line, str(statement))
        judged = dsse.judge(envelope, registry)
        rows.append(_verified(judged, envelope.payload, source, str(statement)))
    _print_verified(statement, rows, as_json=as_json)
    verdicts = [verdict for row in rows for verdict in (row.verdict, *(file.verdict for file in row.files))]
    raise typer.Exit(exit_code([row.verdict for row in rows], refuted=Verdict.REFUTED in verdicts))


# --- evaluations ------------------------------------------------------------


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
    _put(path, _line(dsse.sign(made, place.key, place.key_id)))
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
    _put(path, entry(predicate, dataset, url).encode())
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


# --- signed statements ------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class _Verified:
    """What one signed statement is worth."""

    judgement: Judgement
    predicate_type: str
    files: Sequence[FileFinding]

    @property
    def verdict(self) -> Verdict:
        standing = self.judgement.standing
        if standing == "invalid":
            return Verdict.REFUTED
        return Verdict.CONFIRMED if standing == "valid" else Verdict.UNCHECKED


def _verified(judged: Judgement, payload: bytes, source: Source | None, where: str) -> _Verified:
    """The statement and its subjects are only read where its signature holds."""
    from forgekit.attest import statement
    from forgekit.attest.checked_files import recorded

    if judged.standing == "invalid":
        return _Verified(judgement=judged, predicate_type="", files=())
    tree = statement.read(payload, where)
    files = recorded(source, statement.subjects(tree, where)) if source is not None else []
    return _Verified(judgement=judged, predicate_type=str(tree.get("predicateType")), files=files)


def _print_verified(path: Path, rows: Sequence[_Verified], *, as_json: bool) -> None:
    if as_json:
        told = [
            {
                "verdict": row.verdict.value,
                "standing": row.judgement.standing,
                "reason": row.judgement.reason,
                "keyId": row.judgement.key_id,
                "owner": row.judgement.owner or None,
                "predicateType": row.predicate_type or None,
                "files": files_json(row.files),
            }
            for row in rows
        ]
        print_json({"schema": "forgekit.statements/1", "file": str(path), "statements": told})
        return
    for row in rows:
        typer.echo(f"{row.verdict.value:<10} {row.predicate_type or 'statement'}  {row.judgement.reason}")
        print_files(row.files)


# --- files and times --------------------------------------------------------


def _hold(source: Source) -> None:
    """Stop where a file at hand is not the one the alloy records; say what could not be held to anything."""
    from forgekit.attest.checked_files import recorded
    from forgekit.attest.materials import files

    rows = recorded(source, files(source.alloy()))
    wrong = [row for row in rows if row.verdict is Verdict.REFUTED]
    if wrong:
        for row in wrong:
            typer.echo(f"refuted    {row.path}  {row.reason}", err=True)
        typer.echo("nothing is written: the artifact is not the one the alloy describes", err=True)
        raise typer.Exit(REFUTED)
    held = sum(row.verdict is Verdict.CONFIRMED for row in rows)
    if held < len(rows):
        typer.echo(f"{held} of {len(rows)} files are held to the alloy; the others are not at hand", err=True)


def _enveloped(data: bytes, key: Path, key_id: str) -> bytes:
    from forgekit.attest import dsse

    return _line(dsse.sign(data, _private(key), key_id))


def _line(envelope: Any) -> bytes:
    import json

    return json.dumps(envelope.tree(), separators=(",", ":")).encode() + b"\n"


def _private(key: Path) -> Any:
    from forgekit.attest import algorithms

    password = os.environ.get(PASSWORD)
    return algorithms.private_key(_bytes(key), password.encode() if password else None)


def _write(out: Path | None, data: bytes) -> None:
    if out is None:
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    _put(out, data)
    typer.echo(f"{out}: {len(data):,} bytes")


def _put(path: Path, data: bytes) -> None:
    from forgekit.alloy.files import write_atomically

    write_atomically(path, data)


def _epoch() -> int | None:
    """SOURCE_DATE_EPOCH, as reproducible-builds.org has it.

    Raises:
        AttestationError: it is no number of seconds.
    """
    text = os.environ.get(EPOCH)
    if not text:
        return None
    if not text.isdecimal() or int(text) > 253402300799:  # the last second that four digits of a year can say
        raise AttestationError(f"{text!r} is no number of seconds", where=EPOCH)
    return int(text)


def _now() -> datetime:
    epoch = _epoch()
    return datetime.now(UTC).replace(microsecond=0) if epoch is None else datetime.fromtimestamp(epoch, UTC)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AttestationError(f"the file cannot be read: {error.strerror}", where=str(path)) from error
