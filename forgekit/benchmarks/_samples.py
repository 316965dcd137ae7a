"""Samples files: one JSON record per line, every irregularity reported by line."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from forgekit.benchmarks import RecordProblem
from forgekit.errors import SamplesError

MAX_LINE = 8 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Sample:
    """One record: ``program`` is the whole program, ``completion`` what goes after the problem's prompt."""

    line: int
    task_id: str
    program: str | None
    completion: str | None

    def code(self, prompt: str) -> str:
        return self.program if self.program is not None else prompt + (self.completion or "")


@dataclass(frozen=True, slots=True)
class Samples:
    """A samples file, read.

    Attributes:
        per_problem: samples each problem has, where that is the same number for all; else None.
    """

    samples: tuple[Sample, ...]
    problems: tuple[RecordProblem, ...]
    per_problem: int | None


def read_samples(data: bytes, known: Iterable[str]) -> Samples:
    """Read a JSONL file of records with ``task_id`` and ``solution`` or ``completion``.

    Args:
        known: task ids of the data set, each of which should have as many records as the others.

    Raises:
        SamplesError: the file holds no record at all, or its compression is broken.
    """
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError) as error:
            raise SamplesError("the compressed samples file is damaged") from error
    tasks = set(known)
    samples: list[Sample] = []
    problems: list[RecordProblem] = []
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        sample = _sample(number, line)
        if isinstance(sample, str):
            problems.append(RecordProblem(line=number, text=sample))
        elif sample.task_id not in tasks:
            problems.append(RecordProblem(line=number, text=f"{sample.task_id!r} is not a problem of the data set"))
        else:
            samples.append(sample)
    if not samples and not problems:
        raise SamplesError("the samples file holds no records")
    counts = Counter(sample.task_id for sample in samples)
    missing = [task for task in known if task not in counts]
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        problems.append(RecordProblem(line=None, text=f"no record for {shown}"))
    sizes = set(counts.values())
    if len(sizes) > 1:
        problems += _duplicates(samples, min(sizes))
    return Samples(tuple(samples), tuple(problems), sizes.pop() if len(sizes) == 1 and not missing else None)


def _duplicates(samples: list[Sample], usual: int) -> list[RecordProblem]:
    seen: dict[str, list[int]] = {}
    found = []
    for sample in samples:
        lines = seen.setdefault(sample.task_id, [])
        if len(lines) >= usual:
            text = f"record {len(lines) + 1} for {sample.task_id}; the first is on line {lines[0]}"
            found.append(RecordProblem(line=sample.line, text=text))
        lines.append(sample.line)
    return found


def _sample(number: int, line: bytes) -> Sample | str:
    if len(line) > MAX_LINE:
        return f"the record has {len(line):,} bytes"
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"not JSON: {error}"
    fault = _record_fault(record)
    return fault or Sample(number, record["task_id"], record.get("solution"), record.get("completion"))


def _record_fault(record: Any) -> str:
    if not isinstance(record, dict):
        return "the record is not an object"
    if not isinstance(record.get("task_id"), str):
        return "the record has no task_id"
    if "solution" not in record and "completion" not in record:
        return "the record has neither solution nor completion"
    return next((f"{k} is not text" for k in ("solution", "completion") if not isinstance(record.get(k, ""), str)), "")
