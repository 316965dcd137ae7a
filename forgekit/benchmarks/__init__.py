"""Benchmarks: published samples in, counts out.

A benchmark scores text that a model has written already; it never runs the
model. A score is a count of a count, so that a published percentage can be
judged exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from forgekit.registry import Registry

Status = Literal["pass", "fail", "timeout", "unstable"]
"""timeout: the whole run was stopped. unstable: repeats alone on the machine disagreed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one set of tests said of one sample.

    Attributes:
        close: it passed, and so near the time limit that a slower machine may fail it.
    """

    status: Status
    reason: str = ""
    close: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordProblem:
    """Something wrong with the samples file; it is reported, never skipped in silence.

    Attributes:
        line: 1-based; None for a problem of the file as a whole.
    """

    line: int | None
    text: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.text}" if self.line else self.text


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How many problems were solved, by one reading of the rules.

    Attributes:
        oracle: whose reading of the rules.
        passed: samples that passed.
        total: samples there should be; a missing one counts as not passed.
        unstable: samples whose verdict depends on the day.
        per_problem: samples per problem, where each problem has the same number; else None.
        verdicts: by problem, one dict per sample from test set name ("base", "plus") to verdict.
    """

    oracle: str
    passed: int
    total: int
    unstable: int
    per_problem: int | None
    verdicts: Mapping[str, list[dict[str, Verdict]]]

    @property
    def close(self) -> list[str]:
        """Problems whose pass hangs on the speed of the machine."""
        return [
            task_id
            for task_id, rows in self.verdicts.items()
            if any(_ok(row) and any(verdict.close for verdict in row.values()) for row in rows)
        ]

    @property
    def rate(self) -> Fraction:
        """pass@1, exactly: mean over problems of the share of its samples that pass."""
        if self.per_problem == 1 or not self.total:
            return Fraction(self.passed, self.total or 1)
        shares = (Fraction(sum(_ok(row) for row in rows), len(rows)) for rows in self.verdicts.values() if rows)
        return sum(shares, Fraction(0)) / len(self.verdicts)


def _ok(row: Mapping[str, Verdict]) -> bool:
    return all(verdict.status == "pass" for verdict in row.values())


@dataclass(frozen=True, kw_only=True, slots=True)
class Scoring:
    """One samples file, scored.

    Attributes:
        scores: by oracle.
        problems: what is wrong with the file.
        evidence: versions, digests, isolation and self-check, as JSON data.
    """

    scores: Mapping[str, Score]
    problems: tuple[RecordProblem, ...]
    evidence: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """How to score.

    Attributes:
        dataset_file: the data set, where it is not to be looked for.
        workers: candidates run side by side; by default one per processor.
        cache: folder for ground truth and self-checks, keyed by content, safe to delete.
        self_check: run the scorer's self-check even if one is on record.
        offline: never download a data set.
        progress: called with (samples done, samples in all).
    """

    dataset_file: Path | None = None
    workers: int | None = None
    cache: Path | None = None
    self_check: bool = False
    offline: bool = False
    progress: Callable[[int, int], None] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """One benchmark.

    Attributes:
        name: as alloys and the command line write it.
        metric: what ``Score.rate`` is.
        total: problems it has; None where that depends on the data set file.
        oracles: readings of its rules by name, the default first.
        score: (bytes of a JSONL samples file, settings) -> scoring. Raises ``SamplesError`` where the
            data set or a package it needs is not at hand, ``SandboxError`` where code cannot be isolated.
        prompts: the text each problem is asked with, by its id; None where samples cannot be made from text alone.
        aliases: other spellings in published alloys, each with the artifact that uses it.
    """

    name: str
    metric: str
    total: int | None
    oracles: tuple[str, ...]
    score: Callable[[bytes, ScoreSettings], Scoring]
    prompts: Callable[[ScoreSettings], Mapping[str, str]] | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)


BENCHMARKS = Registry("benchmark", "forgekit.benchmarks", Benchmark)


def find_benchmark(name: str) -> Benchmark | None:
    """The benchmark called ``name``, by its own name or a published alias; None where there is none."""
    if name in BENCHMARKS:
        return BENCHMARKS[name]
    return next((benchmark for benchmark in BENCHMARKS.values() if name in benchmark.aliases), None)
