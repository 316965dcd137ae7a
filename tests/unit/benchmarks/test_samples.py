"""Samples files: every irregularity is reported by line, none is dropped in silence."""

from __future__ import annotations

import gzip
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.benchmarks._samples import MAX_LINE, read_samples
from forgekit.errors import SamplesError

KNOWN = ("T/0", "T/1", "T/2")


def lines(*rows):
    return b"".join((row if isinstance(row, bytes) else json.dumps(row).encode()) + b"\n" for row in rows)


def row(task, **fields):
    return {"task_id": task} | (fields or {"solution": "x"})


COMPLETE = [row(task) for task in KNOWN]


def test_a_complete_file_has_no_problems():
    read = read_samples(lines(*COMPLETE), KNOWN)

    assert read.problems == ()
    assert read.per_problem == 1
    assert [(sample.line, sample.task_id) for sample in read.samples] == [(1, "T/0"), (2, "T/1"), (3, "T/2")]


def test_a_solution_is_the_program_and_a_completion_goes_after_the_prompt():
    data = lines(
        row("T/0", solution="whole"), row("T/1", completion="rest"), row("T/2", solution="", completion="rest")
    )

    assert [sample.code("prompt ") for sample in read_samples(data, KNOWN).samples] == ["whole", "prompt rest", ""]


def test_order_blank_lines_further_fields_and_line_ends_do_not_matter():
    data = b"\n  \n" + b"\r\n".join(json.dumps(r | {"extra": 1}).encode() for r in reversed(COMPLETE)) + b"\n\n"

    assert read_samples(data, KNOWN).problems == ()


def test_a_compressed_file_is_read():
    assert len(read_samples(gzip.compress(lines(*COMPLETE), mtime=0), KNOWN).samples) == 3


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (b"{", "not JSON"),
        (b'{"task_id": "T/0", "solution": "x"', "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"7", "the record is not an object"),
        (b"null", "the record is not an object"),
        ({"solution": "x"}, "no task_id"),
        ({"task_id": 3, "solution": "x"}, "no task_id"),
        ({"task_id": "T/1"}, "neither solution nor completion"),
        (row("T/1", solution=3), "solution is not text"),
        (row("T/1", solution=None), "solution is not text"),
        (row("T/1", completion=["x"]), "completion is not text"),
        (row("T/9"), "'T/9' is not a problem"),
        (b'"' + b"x" * MAX_LINE + b'"', "the record has 8,388,610 bytes"),
    ],
)
def test_a_bad_record_is_reported_by_its_line(bad, says):
    read = read_samples(lines(COMPLETE[0], bad, COMPLETE[2]), KNOWN)

    assert [sample.task_id for sample in read.samples] == ["T/0", "T/2"]
    assert str(read.problems[0]).startswith("line 2: ")
    assert says in read.problems[0].text
    assert str(read.problems[1]) == "no record for T/1"
    assert read.per_problem is None


def test_a_missing_problem_is_named():
    assert [str(problem) for problem in read_samples(lines(row("T/1")), KNOWN).problems] == ["no record for T/0, T/2"]


def test_many_missing_problems_are_counted():
    known = [f"T/{n}" for n in range(20)]

    (problem,) = read_samples(lines(row("T/0")), known).problems

    assert str(problem) == "no record for T/1, T/2, T/3, T/4, T/5 and 14 more"


def test_a_duplicate_is_reported_with_the_line_of_the_first():
    (problem,) = read_samples(lines(*COMPLETE, row("T/1")), KNOWN).problems

    assert str(problem) == "line 4: record 2 for T/1; the first is on line 2"


def test_the_same_number_for_every_problem_is_no_duplicate():
    read = read_samples(lines(*COMPLETE, *COMPLETE), KNOWN)

    assert read.problems == ()
    assert read.per_problem == 2


@pytest.mark.parametrize("data", [b"", b"\n\n", gzip.compress(b"", mtime=0)])
def test_an_empty_file_is_an_error(data):
    with pytest.raises(SamplesError, match="no records"):
        read_samples(data, KNOWN)


def test_a_damaged_compressed_file_is_an_error():
    with pytest.raises(SamplesError, match="damaged"):
        read_samples(gzip.compress(lines(*COMPLETE), mtime=0)[:-9], KNOWN)


records = st.lists(
    st.builds(row, st.sampled_from([*KNOWN, "T/9"])).map(lambda r: json.dumps(r).encode())
    | st.binary(max_size=30).filter(lambda b: b"\n" not in b and b[:2] != b"\x1f\x8b"),
    min_size=1,
    max_size=12,
)


@given(records)
def test_every_line_is_a_sample_or_a_problem(found):
    wanted = {number for number, line in enumerate(found, 1) if line.strip()}
    if not wanted:
        return

    read = read_samples(b"\n".join(found), KNOWN)

    samples = {sample.line for sample in read.samples}
    told = {problem.line for problem in read.problems if problem.line}
    assert samples | told == wanted
    missing = set(KNOWN) - {sample.task_id for sample in read.samples}
    assert bool(missing) == any("no record for" in problem.text for problem in read.problems)
