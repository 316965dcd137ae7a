"""The evalplus format and rules: data sets, inputs, and when an output is the right one.

evalplus is the authority; this is its meaning written anew for a judge that
never runs the candidate. ``evalplus-0.3.1`` is the released version,
``evalplus-26d6d00`` its main branch. They differ in one rule: the release
loses the result of every ``find_zero`` call, so that HumanEval/32 always fails.

Source: evalplus 0.3.1 and 26d6d00: eval/__init__.py, eval/_special_oracle.py, data/mbpp.py.
"""

from __future__ import annotations

import gzip
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgekit import digest
from forgekit.errors import SamplesError
from forgekit.sandbox.wire import Answer, Opaque, as_set

RELEASED, MAIN = "evalplus-0.3.1", "evalplus-26d6d00"
ORACLES = (RELEASED, MAIN)
SUITES = ("base", "plus")

MIN_LIMIT = 1.0  # CPU seconds one call may use at least
LIMIT_FACTOR = 4.0  # or this many times what the canonical solution used
TOTAL_LIMIT = 60.0  # CPU seconds for all calls of one test set


@dataclass(frozen=True, kw_only=True, slots=True)
class Release:
    """A data set that forgekit knows by content."""

    version: str
    sha256: str  # of the uncompressed JSONL


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRef:
    """Where a data set is looked for.

    Attributes:
        rules: which special cases apply: "humaneval" or "mbpp".
        override: environment variable that evalplus reads for a file to use instead.
        cached_as: name in evalplus's own cache.
        getter: function of ``evalplus.data`` that downloads it.
        embedded: a file that ships with the package.
    """

    name: str
    rules: str
    releases: tuple[Release, ...] = ()
    override: str = ""
    cached_as: str = ""
    getter: str = ""
    embedded: Path | None = None


HUMANEVAL = DatasetRef(
    name="HumanEval+",
    rules="humaneval",
    releases=(Release(version="v0.1.10", sha256="42526ec0e7d5f3ee0b06d6ced98f8c8bae3d76519151bfb3d36f79010645bd7f"),),
    override="HUMANEVAL_OVERRIDE_PATH",
    cached_as="HumanEvalPlus-v0.1.10.jsonl",
    getter="get_human_eval_plus",
)
MBPP = DatasetRef(
    name="MBPP+",
    rules="mbpp",
    releases=(Release(version="v0.2.0", sha256="b54e762755248ca411b523c917fa9f93c07b5ff2966bf60b3917b853926a3dad"),),
    override="MBPP_OVERRIDE_PATH",
    cached_as="MbppPlus-v0.2.0.jsonl",
    getter="get_mbpp_plus",
)


@dataclass(frozen=True, eq=False)
class Problem:
    """One problem.

    Attributes:
        line: of the data set, with the inputs: they take far more memory parsed than not.
        canonical: the reference solution, as a whole program.
    """

    task_id: str
    line: bytes
    rules: str
    prompt: str
    entry_point: str
    canonical: str
    atol: float

    def inputs(self, suite: str) -> list[list[Any]]:
        """Arguments of every call of a test set, in order, in the types the function expects."""
        raw: list[list[Any]] = json.loads(self.line)[f"{suite}_input"]
        return mbpp_inputs(self.task_id, raw) if self.rules == "mbpp" else raw

    @property
    def collects_set(self) -> bool:
        return self.rules == "mbpp" and self.entry_point in SET_TASKS

    @property
    def asks_not_none(self) -> bool:
        return self.rules == "mbpp" and self.entry_point in NOT_NONE_TASKS


@dataclass(frozen=True, kw_only=True, slots=True)
class Dataset:
    """A data set at hand.

    Attributes:
        sha256: of the uncompressed JSONL.
        version: of the known release it is; None for any other content.
        found: where it was found, in words.
    """

    ref: DatasetRef
    sha256: digest.Digest
    version: str | None
    found: str
    problems: dict[str, Problem]

    def describe(self) -> dict[str, Any]:
        return {
            "name": self.ref.name,
            "version": self.version,
            "sha256": str(self.sha256),
            "problems": len(self.problems),
        }


def load(ref: DatasetRef, *, file: Path | None, offline: bool) -> Dataset:
    """Find and read a data set: the file given, evalplus's override, the embedded file, evalplus's cache, a download.

    Raises:
        SamplesError: it is nowhere, or is not a data set in evalplus format.
    """
    path, found = _locate(ref, file, offline=offline)
    data = _read(path)
    identity = digest.sha256(data)
    problems: dict[str, Problem] = {}
    for number, line in enumerate(data.splitlines(), 1):
        if line.strip():
            problem = _problem(line, ref.rules, f"{path}, line {number}")
            problems[problem.task_id] = problem
    if not problems:
        raise SamplesError("the data set is empty", where=str(path))
    version = next((release.version for release in ref.releases if release.sha256 == identity.hex), None)
    return Dataset(ref=ref, sha256=identity, version=version, found=found, problems=problems)


def _locate(ref: DatasetRef, file: Path | None, *, offline: bool) -> tuple[Path, str]:
    if file is not None:
        return file, "the file given"
    if ref.override and (named := os.environ.get(ref.override)):
        return Path(named), ref.override
    if ref.embedded is not None:
        return ref.embedded, "the file that ships with forgekit"
    cached = evalplus_cache() / ref.cached_as
    if not cached.exists() and not offline:
        _download(ref)
    if cached.exists():
        return cached, "evalplus's cache"
    raise SamplesError(
        f"the data set {ref.name} is not on this machine",
        hint=f"give it with --dataset-file, set {ref.override}, or let evalplus download it",
    )


def evalplus_cache() -> Path:
    """Where evalplus keeps its data sets."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("evalplus"))


def _download(ref: DatasetRef) -> None:
    """Let evalplus, where it is installed, fetch its own data set into its own cache; a failure leaves none there."""
    import importlib.util

    if importlib.util.find_spec("evalplus") is None:
        return
    code = f"from evalplus.data import {ref.getter}; {ref.getter}()"
    try:
        subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=300)  # noqa: S603
    except subprocess.TimeoutExpired:
        return


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
        return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except OSError as error:
        raise SamplesError(f"cannot read the data set: {error.strerror or error}", where=str(path)) from error
    except EOFError as error:
        raise SamplesError("the data set is cut short", where=str(path)) from error


def _problem(line: bytes, rules: str, where: str) -> Problem:
    try:
        fields = json.loads(line)
    except ValueError as error:
        raise SamplesError("the data set has a line that is not JSON", where=where) from error
    needed = ("task_id", "prompt", "entry_point", "canonical_solution", "base_input", "plus_input", "atol")
    missing = [name for name in needed if not isinstance(fields, dict) or name not in fields]
    if missing:
        raise SamplesError(f"a problem of the data set lacks {', '.join(missing)}", where=where)
    prompt = str(fields["prompt"])
    try:
        return Problem(
            task_id=str(fields["task_id"]),
            line=line,
            rules=rules,
            prompt=prompt,
            entry_point=str(fields["entry_point"]),
            canonical=prompt + str(fields["canonical_solution"]),
            atol=float(fields["atol"]),
        )
    except (TypeError, ValueError) as error:
        raise SamplesError("a problem of the data set has an atol that is no number", where=where) from error


# --- inputs ----------------------------------------------------------------


def _all_tuples(value: Any) -> Any:
    return tuple(_all_tuples(item) for item in value) if isinstance(value, list) else value


# JSON has no tuples, sets or complex numbers: how each problem's arguments get them back
_INPUT_RULES: tuple[tuple[str, Callable[[list[Any]], Any]], ...] = (
    (
        "2 116 132 143 222 261 273 394 399 421 424 429 470 560 579 596 616 630 726 740 744 809",
        lambda args: [tuple(item) for item in args],
    ),
    (
        "63 64 70 94 120 237 272 299 400 409 417 438 473 614 780",
        lambda args: [[tuple(item) for item in outer] for outer in args],
    ),
    ("75 413 444 753", lambda args: [[tuple(item) for item in args[0]], args[1]]),
    ("106 750", lambda args: [args[0], tuple(args[1])]),
    ("115", lambda args: [[set(item) if isinstance(item, list) and item else {} for item in args[0]]]),
    ("124", lambda args: (float(args[0]), complex(args[1]))),
    ("250 405 446 617 720 763 808", lambda args: [tuple(args[0]), args[1]]),
    ("259 401 445", lambda args: [tuple(tuple(item) for item in outer) for outer in args]),
    ("278", lambda args: [tuple(tuple(item) if isinstance(item, list) else item for item in args[0])]),
    ("307", lambda args: [tuple(args[0]), args[1], args[2]]),
    ("722", lambda args: [{key: tuple(value) for key, value in args[0].items()}, *args[1:]]),
    ("252", lambda args: [complex(args[0])]),
    ("580 615 791", lambda args: list(_all_tuples(args))),
)
_INPUT_RULE = {f"Mbpp/{number}": rule for numbers, rule in _INPUT_RULES for number in numbers.split()}


def mbpp_inputs(task_id: str, raw: list[list[Any]]) -> list[list[Any]]:
    """MBPP+ arguments in the types their functions expect."""
    rule = _INPUT_RULE.get(task_id)
    return raw if rule is None else [list(rule(arguments)) for arguments in raw]


# --- when an output is right ------------------------------------------------

SET_TASKS = frozenset(
    {
        "similar_elements",
        "find_char_long",
        "common_in_nested_lists",
        "extract_singly",
        "larg_nnum",
        "intersection_array",
        "find_dissimilar",
        "Diff",
    }
)
NOT_NONE_TASKS = frozenset(["check_str", "text_match_three", "text_starta_endb"])


def polynomial(coefficients: Sequence[float], x: float) -> float:
    """Value at ``x`` of the polynomial with these coefficients, lowest first (HumanEval/32)."""
    return sum(coefficient * math.pow(x, power) for power, coefficient in enumerate(coefficients))


def pyramid_surface(base_edge: float, height: float) -> int:
    """Surface of a square pyramid, ``height`` from base to apex: the other reading of Mbpp/581."""
    slant = math.sqrt((base_edge / 2) ** 2 + height**2)
    return round(base_edge**2 + 4 * (base_edge * slant) / 2)


def digit_distance(first: int, second: int) -> int:
    """Sum of the digits' distances after padding with zeros: the other reading of Mbpp/558."""
    a, b = str(first), str(second)
    width = max(len(a), len(b))
    return sum(abs(int(x) - int(y)) for x, y in zip(a.zfill(width), b.zfill(width), strict=True))


def is_floats(expected: Any) -> bool:
    """Whether evalplus compares an expected value with a tolerance."""
    if isinstance(expected, float):
        return True
    return isinstance(expected, list | tuple) and bool(expected) and all(isinstance(item, float) for item in expected)


@dataclass(frozen=True, slots=True)
class Question:
    """One call: its pristine arguments, the expected value, and the tolerance in force before it."""

    problem: Problem
    arguments: list[Any]
    expected: Any
    atol: float


def right(question: Question, answer: Answer) -> bool:
    """Whether an answer passes. An answer that cannot even be compared does not."""
    try:
        return _right(question, answer)
    except (TypeError, ValueError, ArithmeticError, AttributeError, RecursionError):
        return False


def _right(question: Question, answer: Answer) -> bool:
    problem, out, expected, atol = question.problem, answer.value, question.expected, question.atol
    entry = problem.entry_point
    if problem.rules == "humaneval" and entry == "find_zero":
        return bool(abs(polynomial(question.arguments[0], out)) <= atol)
    matches: Any = out == expected
    if problem.rules == "mbpp":
        if entry == "are_equivalent":  # evalplus accepts whatever returns
            return True
        if entry == "sum_div":
            matches = matches or out == 0
        elif entry == "surface_Area":
            matches = matches or abs(out - pyramid_surface(*question.arguments)) <= atol
        elif entry == "digit_distance_nums":
            matches = matches or out == digit_distance(*question.arguments)
        elif entry in SET_TASKS:
            matches = not isinstance(out, range) and as_set(out) == set(expected)
        elif entry in NOT_NONE_TASKS:
            matches = out == expected if isinstance(out, bool) else expected == (out is not None)
    atol = _raised(atol, expected)
    if matches or atol == 0:
        return bool(matches)
    return _close(answer, expected, atol)


def _close(answer: Answer, expected: Any, atol: float) -> bool:
    import numpy as np

    out = answer.value
    if not answer.exact or type(out) is not type(expected) or isinstance(out, Opaque):
        return False
    if isinstance(expected, list | tuple) and len(out) != len(expected):
        return False
    return bool(np.allclose(out, expected, rtol=1e-07, atol=atol))


def tolerance(problem: Problem, *, after_floats: bool) -> float:
    """The tolerance in force before a call: once a float was expected, evalplus keeps 1e-6 for the rest."""
    return 1e-6 if after_floats and problem.atol == 0 else problem.atol


def _raised(atol: float, expected: Any) -> float:
    return 1e-6 if atol == 0 and is_floats(expected) else atol


def lost_by_release(problem: Problem) -> bool:
    """Whether ``evalplus-0.3.1`` fails this problem whatever the candidate returns."""
    return problem.rules == "humaneval" and problem.entry_point == "find_zero"
