"""The scorer scores itself before it judges anybody.

The data set's canonical solutions must pass and known-wrong mutants of them
must fail. What does not is reported with every score: that is how the
released evalplus shows that it cannot pass its own solution of HumanEval/32.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgekit import sandbox
from forgekit.alloy.files import write_atomically
from forgekit.benchmarks._engine import Engine, Outcome, Task
from forgekit.benchmarks._evalplus import MAIN, ORACLES, RELEASED, SUITES, Dataset, Problem, lost_by_release
from forgekit.benchmarks._truth import Truth

SPOIL = """
def _spoil(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float, complex)):
        return value + 1 + abs(value) if value - value == 0 else 0
    if isinstance(value, (str, bytes)):
        return value + type(value)(b"?" if isinstance(value, bytes) else "?")
    if isinstance(value, (list, tuple)):
        return value + type(value)([None])
    if isinstance(value, (set, frozenset)):
        return value | {None}
    if isinstance(value, dict):
        return {**value, None: None}
    return 0 if value is None else None
_solve, _calls, _inside = ENTRY, 0, False
def ENTRY(*arguments):
    global _calls, _inside
    if _inside:
        return _solve(*arguments)
    _calls, _inside = _calls + 1, True
    value = _solve(*arguments)
    _inside = False
    return _spoil(value) if _calls == LAST else value
"""
SPOIL_EXISTENCE = (
    "\ndef _spoil(value):\n    return (not value) if isinstance(value, bool) else 0 if value is None else None\n"
)


def self_check(dataset: Dataset, truth: Truth, engine: Engine, cache: Path, *, again: bool) -> dict[str, Any]:
    """The result for this data set, this scorer and this machine's isolation: from the cache, or made now.

    Returns:
        JSON data: ``canonical`` by oracle (passed, total, failed), ``mutants`` (made, rejected, accepted),
        ``sound``: whether canonical solutions all pass by the main oracle.
    """
    path = cache / "selfcheck" / f"{_key(dataset, engine)}.json"
    if not again:
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except (OSError, ValueError):
            pass
        else:
            return found
    made = _make(dataset, truth, engine)
    write_atomically(path, json.dumps(made, indent=2).encode())
    return made


def _key(dataset: Dataset, engine: Engine) -> str:
    state = hashlib.sha256()
    for folder in (Path(__file__).parent, Path(sandbox.__file__).parent):
        for path in sorted(folder.glob("*.py")):
            state.update(path.read_bytes())
    for word in (dataset.sha256.hex, sys.version, engine.sandbox.numpy, str(engine.sandbox.isolation)):
        state.update(word.encode())
    return state.hexdigest()[:32]


def _make(dataset: Dataset, truth: Truth, engine: Engine) -> dict[str, Any]:
    honest = list(_tasks(dataset, truth, lambda problem, _: problem.canonical))
    wrong = list(_mutants(dataset, truth))
    outcomes = engine.judge(honest + wrong)
    failed = _failed(honest, outcomes[: len(honest)])
    accepted = {task.problem.task_id for task, o in zip(wrong, outcomes[len(honest) :], strict=True) if _passed(o)}
    lost = {problem.task_id for problem in dataset.problems.values() if lost_by_release(problem)}
    return {
        "canonical": {
            oracle: {
                "passed": len(dataset.problems) - len(found),
                "total": len(dataset.problems),
                "failed": sorted(found),
            }
            for oracle, found in ((RELEASED, failed | lost), (MAIN, failed))
        },
        "mutants": {
            "made": len(wrong),
            "rejected": sum(not _passed(outcome) for outcome in outcomes[len(honest) :]),
            "accepted": sorted(accepted),
        },
        "sound": not failed,
    }


def _tasks(dataset: Dataset, truth: Truth, code: Any) -> Iterator[Task]:
    for problem in dataset.problems.values():
        for suite in SUITES:
            yield Task(problem, suite, code(problem, suite), truth.expected(problem.task_id, suite))


def _mutants(dataset: Dataset, truth: Truth) -> Iterator[Task]:
    """Per test set: the canonical solution with its last answer spoilt, and one that always answers 0."""
    for problem in dataset.problems.values():
        for suite in SUITES:
            expected = truth.expected(problem.task_id, suite)
            if not expected.frames:
                continue
            yield Task(problem, suite, _spoilt(problem, len(expected.frames)), expected)
            if not _zero_is_right(problem, expected.frames):
                yield Task(problem, suite, f"def {problem.entry_point}(*arguments):\n    return 0\n", expected)


def _spoilt(problem: Problem, last: int) -> str:
    code = SPOIL.replace("ENTRY", problem.entry_point).replace("LAST", str(last))
    if problem.asks_not_none:
        code = SPOIL_EXISTENCE + code[code.index("_solve,") :]
    return problem.canonical + "\n" + code


def _zero_is_right(problem: Problem, frames: tuple[bytes, ...]) -> bool:
    zeros = {b"i\0\0\0\0", b"F", b"g" + bytes(8)} if not problem.asks_not_none else {b"T"}
    return all(frame[5:] in zeros for frame in frames)


def _failed(tasks: list[Task], outcomes: list[Outcome]) -> set[str]:
    return {task.problem.task_id for task, outcome in zip(tasks, outcomes, strict=True) if not _passed(outcome)}


def _passed(outcome: Outcome) -> bool:
    return outcome.verdict.status == "pass"


__all__ = ["ORACLES", "self_check"]
