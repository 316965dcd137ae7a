"""Score a samples file in evalplus format: the one function behind every benchmark of that format."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from forgekit import digest
from forgekit.benchmarks import Benchmark, Score, ScoreSettings, Scoring, Verdict
from forgekit.benchmarks._engine import Engine, Task
from forgekit.benchmarks._evalplus import ORACLES, RELEASED, SUITES, DatasetRef, load, lost_by_release
from forgekit.benchmarks._samples import Samples, read_samples
from forgekit.benchmarks._selfcheck import self_check
from forgekit.benchmarks._truth import ground_truth
from forgekit.errors import SamplesError
from forgekit.sandbox import Sandbox


def evalplus_benchmark(
    name: str, ref: DatasetRef, suites: tuple[str, ...], *, total: int, aliases: dict[str, str] | None = None
) -> Benchmark:
    """A benchmark in evalplus format. ``suites`` are the test sets a sample must pass, all of them."""
    score: Callable[[bytes, ScoreSettings], Scoring] = partial(_score, ref, suites)
    return Benchmark(
        name=name,
        metric="pass@1",
        total=total,
        oracles=ORACLES,
        score=score,
        prompts=partial(_prompts, ref),
        aliases=aliases or {},
    )


def _prompts(ref: DatasetRef, settings: ScoreSettings) -> dict[str, str]:
    problems = load(ref, file=settings.dataset_file, offline=settings.offline).problems
    return {name: problem.prompt for name, problem in problems.items()}


def cache_folder() -> Path:
    """Where ground truth and self-checks are kept; safe to delete."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("forgekit"))


def _score(ref: DatasetRef, suites: tuple[str, ...], data: bytes, settings: ScoreSettings) -> Scoring:
    if importlib.util.find_spec("numpy") is None:
        raise SamplesError(
            "numpy is not installed, and evalplus compares floats with it", hint="pip install 'forgekit[score]'"
        )
    cache = settings.cache or cache_folder()
    with ExitStack() as opened:
        pool = opened.enter_context(ThreadPoolExecutor(max_workers=1))
        setting_up = pool.submit(lambda: opened.enter_context(Sandbox()))  # takes as long as reading the data set
        dataset = load(ref, file=settings.dataset_file, offline=settings.offline)
        read = read_samples(data, dataset.problems)
        sandbox = setting_up.result()
        engine = Engine(sandbox, settings.workers)
        truth = ground_truth(dataset, engine, cache)
        check = self_check(dataset, truth, engine, cache, again=settings.self_check)
        tasks = []
        for sample in read.samples:
            problem = dataset.problems[sample.task_id]
            code = sample.code(problem.prompt)
            tasks += [Task(problem, suite, code, truth.expected(sample.task_id, suite)) for suite in suites]
        outcomes = engine.judge(tasks, settings.progress)
        isolation, numpy = sandbox.isolation, sandbox.numpy
    verdicts = iter(outcome.verdict for outcome in outcomes)
    rows = [{suite: next(verdicts) for suite in suites} for _ in read.samples]
    lost = {task_id for task_id, problem in dataset.problems.items() if lost_by_release(problem)}
    return Scoring(
        scores={oracle: _count(oracle, read, rows, list(dataset.problems), lost) for oracle in ORACLES},
        problems=read.problems,
        evidence={
            "dataset": dataset.describe() | {"found": dataset.found},
            "samples": {"sha256": str(digest.sha256(data)), "records": len(read.samples)},
            "selfCheck": check,
            "isolation": str(isolation),
            "weakerBecause": list(isolation.weaker_because),
            "python": platform.python_version(),
            "numpy": numpy,
            "cpuSeconds": round(sum(outcome.cpu for outcome in outcomes), 2),
            "peakMemory": max((outcome.memory for outcome in outcomes), default=0),
        },
    )


def _count(oracle: str, read: Samples, rows: list[dict[str, Verdict]], known: list[str], lost: set[str]) -> Score:
    verdicts: dict[str, list[dict[str, Verdict]]] = {task_id: [] for task_id in known}
    passed = unstable = 0
    for sample, judged in zip(read.samples, rows, strict=True):
        row = judged
        if oracle == RELEASED and sample.task_id in lost:
            row = {suite: _lost(verdict) for suite, verdict in judged.items()}
        verdicts[sample.task_id].append(row)
        statuses = {verdict.status for verdict in row.values()}
        passed += statuses == {"pass"}
        unstable += "unstable" in statuses and not statuses & {"fail", "timeout"}
    return Score(
        oracle=oracle,
        passed=passed,
        total=len(known) * (read.per_problem or 1),
        unstable=unstable,
        per_problem=read.per_problem,
        verdicts=verdicts,
    )


def _lost(verdict: Verdict) -> Verdict:
    if verdict.status != "pass":
        return verdict
    return Verdict("fail", "evalplus 0.3.1 loses the result of every find_zero call; fixed in 26d6d00")


def as_json(scoring: Scoring) -> dict[str, Any]:
    """Counts and verdicts by oracle, in the shape of the recorded cases."""
    return {
        oracle: {
            **{f"{suite}_pass": _suite_count(score, suite) for suite in SUITES if _has(score, suite)},
            "passed": score.passed,
            "n": score.total,
            "unstable": score.unstable,
            "closeToLimit": score.close,
            "tasks": {
                task_id: [{suite: verdict.status for suite, verdict in row.items()} for row in rows]
                for task_id, rows in score.verdicts.items()
            },
        }
        for oracle, score in scoring.scores.items()
    }


def _has(score: Score, suite: str) -> bool:
    return any(suite in row for rows in score.verdicts.values() for row in rows)


def _suite_count(score: Score, suite: str) -> int:
    """Samples that pass; for the plus tests, those that pass the base tests as well."""
    wanted = SUITES[: SUITES.index(suite) + 1]
    return sum(
        all(row[name].status == "pass" for name in wanted if name in row)
        for rows in score.verdicts.values()
        for row in rows
    )
