"""Ground truth: what the canonical solutions answer, computed once in the sandbox and kept by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from forgekit import digest
from forgekit.benchmarks._engine import Answers, Engine, Expected, canonical_job
from forgekit.benchmarks._evalplus import SUITES, Dataset, Problem
from forgekit.errors import SamplesError
from forgekit.sandbox import CELL, Cell
from forgekit.sandbox.wire import HEADER, decode

NOTICEABLE = 0.02  # CPU seconds a call must take to be remembered as slow


class Truth:
    """Expected answers of a data set, read from disk problem by problem.

    Args:
        folder: holds ``manifest.json`` and ``frames.bin``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_bytes())

    def expected(self, task_id: str, suite: str) -> Expected:
        """What one test set of one problem should answer.

        Raises:
            SamplesError: the file was changed since it was written.
        """
        entry = self.manifest["tasks"][task_id][suite]
        with (self.folder / "frames.bin").open("rb") as file:
            file.seek(entry["offset"])
            data = file.read(entry["size"])
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise SamplesError("the cached ground truth is damaged", where=str(self.folder), hint="delete that folder")
        times = {int(index): spent for index, spent in entry["times"].items()}
        return Expected(tuple(_cut(data)), times, entry["floatsAt"])


def ground_truth(dataset: Dataset, engine: Engine, cache: Path) -> Truth:
    """The ground truth of a data set: from the cache, or computed now.

    Raises:
        SamplesError: a canonical solution does not answer all inputs.
    """
    folder = cache / "truth" / _key(dataset, engine)
    with contextlib.suppress(OSError, ValueError, KeyError):
        truth = Truth(folder)
        if set(truth.manifest["tasks"]) == set(dataset.problems):
            return truth
    made = _compute(dataset, engine)
    _store(folder, made)
    return Truth(folder)


def _key(dataset: Dataset, engine: Engine) -> str:
    """Everything the recorded answers depend on: data, interpreter, numpy, and how values are encoded."""
    encoder = digest.sha256(CELL.read_bytes()).hex[:12]
    python = f"py{sys.version_info.major}.{sys.version_info.minor}"
    return f"{dataset.sha256.hex[:24]}-{encoder}-{python}-np{engine.sandbox.numpy}"


def _compute(dataset: Dataset, engine: Engine) -> dict[str, dict[str, Answers]]:
    made: dict[str, dict[str, Answers]] = {task_id: {} for task_id in dataset.problems}

    def work(cell: Cell, item: tuple[Problem, str]) -> Answers:
        problem, suite = item
        job = canonical_job(problem, suite, total=600.0)
        answers = engine.answers(cell, job, lambda _: 60.0)
        if answers.end != "done" or len(answers.frames) != len(job.inputs):
            raise SamplesError(
                f"the canonical solution of {problem.task_id} fails on its own {suite} tests: {answers.end}",
                where=dataset.found,
                hint="the data set is damaged, or needs a package that candidates cannot see here",
            )
        return answers

    items = [(problem, suite) for problem in dataset.problems.values() for suite in SUITES]
    for (problem, suite), answers in engine.each(items, work):
        made[problem.task_id][suite] = _asked(problem, answers)
    return made


def _asked(problem: Problem, answers: Answers) -> Answers:
    """For problems that only ask whether there is a result, that is what is expected."""
    if not problem.asks_not_none:
        return answers
    frames = tuple(_truth_value(decode(frame).value is not None) for frame in answers.frames)
    return Answers(frames, answers.times, answers.floats_at, answers.end, answers.cpu, answers.memory)


def _truth_value(value: bool) -> bytes:  # noqa: FBT001 - it is the value
    return b"V" + (1).to_bytes(4, "little") + (b"T" if value else b"F")


def _store(folder: Path, made: dict[str, dict[str, Answers]]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        tasks: dict[str, dict[str, Any]] = {}
        with (aside / "frames.bin").open("wb") as file:
            for task_id, suites in made.items():
                tasks[task_id] = {}
                for suite, answers in suites.items():
                    data = b"".join(answers.frames)
                    tasks[task_id][suite] = {
                        "offset": file.tell(),
                        "size": len(data),
                        "sha256": hashlib.sha256(data).hexdigest(),
                        "floatsAt": answers.floats_at,
                        "times": {i: round(t, 4) for i, t in enumerate(answers.times) if t > NOTICEABLE},
                    }
                    file.write(data)
            file.flush()
            os.fsync(file.fileno())
        (aside / "manifest.json").write_text(json.dumps({"tasks": tasks}))
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):  # another process was quicker: its ground truth is as good
            aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _cut(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + HEADER + int.from_bytes(data[at + 1 : at + HEADER], "little")
        yield data[at:end]
        at = end


__all__: Sequence[str] = ["Truth", "ground_truth"]
