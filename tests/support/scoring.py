"""Small data sets in evalplus format, and samples to score with them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from forgekit.benchmarks import Benchmark, ScoreSettings, Scoring
from forgekit.benchmarks._evalplus import SUITES, DatasetRef
from forgekit.benchmarks._score import evalplus_benchmark


def problem(
    task_id: str, solution: str, base: Sequence[Any], plus: Sequence[Any] = (), **changes: Any
) -> dict[str, Any]:
    """A problem whose function is called ``f``; ``solution`` is its body's text after ``def f(x):``."""
    return {
        "task_id": task_id,
        "prompt": "def f(x):\n",
        "entry_point": "f",
        "canonical_solution": solution,
        "base_input": [list(arguments) for arguments in base],
        "plus_input": [list(arguments) for arguments in plus],
        "atol": 0,
        "contract": "",
        "test": "",
    } | changes


def write_dataset(path: Path, problems: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in problems))
    return path


def benchmark(path: Path, suites: tuple[str, ...] = SUITES, rules: str = "humaneval") -> Benchmark:
    """A benchmark over a data set file of our own."""
    return evalplus_benchmark("small", DatasetRef(name="small", rules=rules, embedded=path), suites, total=1)


def sections(name: str) -> dict[str, str]:
    """Programs from a text file beside this one, by the titles of their sections."""
    text = Path(__file__).with_name(name).read_text()
    found = (section.partition("\n") for section in text.split("\n=== ")[1:])
    return {title: code for title, _, code in found}


def samples(solutions: Mapping[str, str]) -> bytes:
    return "".join(json.dumps({"task_id": t, "solution": code}) + "\n" for t, code in solutions.items()).encode()


def statuses(scoring: Scoring) -> dict[str, dict[str, str]]:
    """Status by task and test set, of the first sample of each."""
    score = next(iter(scoring.scores.values()))
    return {task: {suite: v.status for suite, v in rows[0].items()} for task, rows in score.verdicts.items() if rows}


def settings(cache: Path, **more: Any) -> ScoreSettings:
    return ScoreSettings(cache=cache, offline=True, **more)
