"""``forgekit score``: re-score a samples file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from forgekit.cli.shared import DatasetFiles, Json, Offline, count_progress, dataset_files, print_json
from forgekit.errors import AbsentError, SamplesError, SourceError, UnknownNameError

if TYPE_CHECKING:
    from forgekit.benchmarks import Benchmark, Scoring


def score(
    samples: Annotated[Path, typer.Argument(help="A JSONL file with task_id and solution or completion per line.")],
    benchmark: Annotated[str, typer.Option("--benchmark", "-b", help="humaneval, humaneval_plus, mbpp, mbpp_plus, …")],
    oracle: Annotated[
        str | None, typer.Option(help="The reading of the rules to show; the released one by default.")
    ] = None,
    dataset_file: DatasetFiles = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Candidates run side by side.")] = None,
    self_check: Annotated[
        bool, typer.Option("--self-check", help="Run the scorer's self-check even if one is on record.")
    ] = False,
    offline: Offline = False,
    as_json: Json = False,
) -> None:
    """Score published samples in a sandbox, problem by problem."""
    from forgekit.benchmarks import BENCHMARKS, ScoreSettings, find_benchmark

    found = find_benchmark(benchmark)
    if found is None:
        raise UnknownNameError(
            f"no benchmark is named {benchmark!r}", where=f"forgekit.benchmarks: {', '.join(BENCHMARKS)}"
        )
    if oracle is not None and oracle not in found.oracles:
        raise UnknownNameError(f"{found.name} has no oracle {oracle!r}", where=", ".join(found.oracles))
    with count_progress("scoring") as progress:
        settings = ScoreSettings(
            dataset_file=dataset_files(dataset_file).get(found.name),
            workers=workers,
            self_check=self_check,
            offline=offline,
            progress=progress,
        )
        scoring = found.score(_read(samples), settings)
    if as_json:
        _print_json(found, scoring, oracle)
    else:
        _print(found, scoring, oracle or found.oracles[0])
    raise typer.Exit(2 if scoring.problems else 0)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise AbsentError("there is no such samples file", where=str(path)) from error
    except IsADirectoryError as error:
        raise SamplesError("this is a folder; one JSONL file is expected", where=str(path)) from error
    except OSError as error:
        raise SourceError(f"cannot read the file: {error.strerror}", where=str(path)) from error


def _print_json(benchmark: Benchmark, scoring: Scoring, oracle: str | None) -> None:
    from forgekit.benchmarks._score import as_json

    scores = as_json(scoring)
    print_json(
        {
            "schema": "forgekit.score/1",
            "benchmark": benchmark.name,
            "metric": benchmark.metric,
            "oracle": oracle or benchmark.oracles[0],
            "scores": scores if oracle is None else {oracle: scores[oracle]},
            "problems": [{"line": problem.line, "text": problem.text} for problem in scoring.problems],
            "evidence": dict(scoring.evidence),
        }
    )


def _print(benchmark: Benchmark, scoring: Scoring, oracle: str) -> None:
    from forgekit.figures import show
    from forgekit.report import clean

    score = scoring.scores[oracle]
    evidence = scoring.evidence
    dataset = evidence["dataset"]
    for problem in scoring.problems:
        typer.echo(f"warning: {clean(str(problem))}", err=True)
    for task_id, rows in score.verdicts.items():
        for row in rows:
            failing = [f"{suite} {v.status}: {clean(v.reason)}" for suite, v in row.items() if v.status != "pass"]
            if failing:
                typer.echo(f"{task_id:<16} {'; '.join(failing)}")
        if not rows:
            typer.echo(f"{task_id:<16} no sample")
    typer.echo(
        f"{benchmark.name} {benchmark.metric} {show(score.rate * 100)} %  ({score.passed}/{score.total} by {oracle})"
    )
    for name, other in scoring.scores.items():
        if other.passed != score.passed:
            typer.echo(f"{'':<4}{name} gives {other.passed}/{other.total}")
    if score.unstable:
        typer.echo(f"{'':<4}{score.unstable} verdicts change from run to run and count as not passed")
    if score.close:
        typer.echo(f"{'':<4}near the time limit, so a slower machine may differ: {', '.join(score.close)}")
    version = dataset["version"] or "a version forgekit does not know"
    typer.echo(f"{'':<4}data set {dataset['name']} {version} {dataset['sha256'][:23]}… from {dataset['found']}")
    check = evidence["selfCheck"]
    canonical, mutants = check["canonical"][oracle], check["mutants"]
    failed = f", which fails {', '.join(canonical['failed'])}" if canonical["failed"] else ""
    typer.echo(
        f"{'':<4}self-check {canonical['passed']}/{canonical['total']} canonical solutions pass by {oracle}{failed}; "
        f"{mutants['rejected']}/{mutants['made']} known-wrong mutants fail"
    )
    typer.echo(f"{'':<4}isolation {evidence['isolation']}")
