"""When evalplus says an answer is right, so do we."""

from __future__ import annotations

import importlib.util
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.benchmarks._evalplus import (
    Problem,
    Question,
    digit_distance,
    is_floats,
    mbpp_inputs,
    polynomial,
    pyramid_surface,
    right,
    tolerance,
)
from forgekit.sandbox.wire import Answer, Opaque
from tests.support.running import python

np = pytest.importorskip("numpy")


def a_problem(entry="f", rules="humaneval", atol=0.0, task_id="T/0"):
    return Problem(task_id=task_id, line=b"", rules=rules, prompt="", entry_point=entry, canonical="", atol=atol)


def judged(out, expected, *, entry="f", rules="humaneval", atol=0.0, arguments=(), exact=True):
    return right(Question(a_problem(entry, rules), list(arguments), expected, atol), Answer(out, exact))


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        (1, 1),
        (1.0, 1),
        (True, 1),
        ([1, 2], [1, 2]),
        ({"a": 1}, {"a": 1}),
        ((1,), (1,)),
        (0.1 + 0.2, 0.3),
        (1.0 + 1e-7, 1.0),
        ([0.1 + 0.2, 1.0], [0.3, 1.0]),
        (np.float64(2.5), 2.5),
        (None, None),
    ],
)
def test_it_is_right(out, expected):
    assert judged(out, expected)


@pytest.mark.parametrize(
    ("out", "expected"),
    [
        (2, 1),
        ("1", 1),
        ((1, 2), [1, 2]),
        ([1, 2, 3], [1, 2]),
        (1.1, 1.0),
        (1, 1.0000001),  # evalplus asks for the same type before it asks for closeness
        ([0.3], [0.3, 1.0]),
        (math.nan, math.nan),
        (Opaque("E"), Opaque("E")),
        (None, 0),
        (np.array([1.0, 2.0]), [1.0, 2.0]),
    ],
)
def test_it_is_wrong(out, expected):
    assert not judged(out, expected)


def test_a_stated_tolerance_counts_for_whole_numbers_too():
    assert judged(5, 6, atol=1.0)
    assert not judged(5, 7, atol=1.0)


def test_an_instance_of_a_subclass_is_never_close():
    assert not judged(1.0 + 1e-9, 1.0, exact=False)
    assert judged(1.0, 1.0, exact=False)


@given(st.floats(-1e6, 1e6), st.floats(-1, 1))
def test_closeness_is_numpys(expected, off):
    assert judged(expected + off, expected) == bool(np.allclose(expected + off, expected, rtol=1e-7, atol=1e-6))


def test_the_tolerance_stays_once_a_float_was_expected():
    assert tolerance(a_problem(), after_floats=False) == 0
    assert tolerance(a_problem(), after_floats=True) == 1e-6
    assert tolerance(a_problem(atol=0.5), after_floats=True) == 0.5


@pytest.mark.parametrize("value", [1.0, [1.0], (1.0, 2.0)])
def test_these_are_floats(value):
    assert is_floats(value)


@pytest.mark.parametrize("value", [1, [], [1.0, 1], {1.0}, "1.0", [[1.0]], None])
def test_these_are_not(value):
    assert not is_floats(value)


def test_a_root_is_right_where_the_polynomial_vanishes():
    assert polynomial([6, -5, 1], 2) == 0
    for root in (2, 3, 2.0000001):
        assert judged(root, 2, entry="find_zero", atol=1e-4, arguments=[[6, -5, 1]])
    for wrong in (2.5, "2", None, math.nan, math.inf, [2]):
        assert not judged(wrong, 2, entry="find_zero", atol=1e-4, arguments=[[6, -5, 1]])


def test_of_the_same_name_elsewhere_nothing_special_is_asked():
    assert judged(2, 2, entry="find_zero", rules="mbpp", arguments=[[6, -5, 1]])


def test_sets_are_compared_as_sets():
    assert judged([3, 1, 1], [1, 3], entry="similar_elements", rules="mbpp")
    assert not judged([3], [1, 3], entry="similar_elements", rules="mbpp")
    assert not judged(range(10**15), [1, 3], entry="similar_elements", rules="mbpp")
    assert not judged(3, [1, 3], entry="similar_elements", rules="mbpp")
    assert not judged([3, 1, 1], [1, 3], entry="similar_elements")


@pytest.mark.parametrize(
    ("out", "expected", "verdict"),
    [(True, True, True), (False, True, False), ("match", True, True), (None, False, True), (None, True, False)],
)
def test_whether_there_is_a_match_can_be_said_in_two_ways(out, expected, verdict):
    assert judged(out, expected, entry="text_match_three", rules="mbpp") is verdict


def test_other_readings_of_a_problem_count():
    assert judged(0, 9, entry="sum_div", rules="mbpp")
    assert pyramid_surface(3, 4) == 35
    assert judged(35, 12, entry="surface_Area", rules="mbpp", arguments=[3, 4])
    assert digit_distance(1, 256) == 12
    assert judged(12, 7, entry="digit_distance_nums", rules="mbpp", arguments=[1, 256])
    assert judged("anything", 1, entry="are_equivalent", rules="mbpp")


@pytest.mark.parametrize(
    ("task", "raw", "made"),
    [
        (2, [[[1, 2], [3]]], [[(1, 2), (3,)]]),
        (63, [[[[1, 2], [3]]]], [[[(1, 2), (3,)]]]),
        (75, [[[[1], [2]], 3]], [[[(1,), (2,)], 3]]),
        (106, [[[1], [2]]], [[[1], (2,)]]),
        (115, [[[[], [1]]]], [[[{}, {1}]]]),
        (124, [["1", "2j"]], [[1.0, 2j]]),
        (250, [[[1, 2], 3]], [[(1, 2), 3]]),
        (252, [["1+2j"]], [[1 + 2j]]),
        (259, [[[[1, 2]], [[3, 4]]]], [[((1, 2),), ((3, 4),)]]),
        (278, [[[1, [2, 3]]]], [[(1, (2, 3))]]),
        (307, [[[1], 2, 3]], [[(1,), 2, 3]]),
        (722, [[{"a": [1, 2]}, 6.0, 70]], [[{"a": (1, 2)}, 6.0, 70]]),
        (580, [[[1, [2, [3]]]]], [[(1, (2, (3,)))]]),
        (100, [[[1, [2]]]], [[[1, [2]]]]),
    ],
)
def test_arguments_get_the_types_that_json_has_not(task, raw, made):
    found = mbpp_inputs(f"Mbpp/{task}", raw)

    assert found == made
    assert repr(found) == repr(made)


SAME = """
import copy
from evalplus.data.mbpp import mbpp_deserialize_inputs
from evalplus.eval import _special_oracle as theirs
from forgekit.benchmarks import _evalplus as ours

RAWS = [
    [[[1, 2], [3]]], [[[[1, 2], [3]]]], [[[[1], [2]], 3]], [[[1], [2]]], [[[[], [1]]]], [["1", "2j"]], [[[1, 2], 3]],
    [["1+2j"]], [[[[1, 2]], [[3, 4]]]], [[[1, [2, 3]]]], [[[1], 2, 3]], [[{"a": [1, 2]}, 6.0, 70]], [[1, 2]], [["a"]],
]

def made(act, *arguments):
    try:
        return repr(list(map(list, act(*copy.deepcopy(arguments)))))
    except Exception:
        return "refused"

agreed = 0
for number in range(1, 812):
    for raw in RAWS:
        a, b = (made(act, f"Mbpp/{number}", raw) for act in (mbpp_deserialize_inputs, ours.mbpp_inputs))
        if "refused" not in (a, b):
            assert a == b, (number, raw, a, b)
            agreed += 1
assert agreed > 5000, agreed
assert ours.SET_TASKS == set(theirs.MBPP_OUTPUT_SET_EQ_TASKS)
assert ours.NOT_NONE_TASKS == set(theirs.MBPP_OUTPUT_NOT_NONE_TASKS)
for coefficients in ([6, -5, 1], [1, 2], [-10, 0.5]):
    for x in (-2, 0, 1.5):
        assert ours.polynomial(coefficients, x) == theirs._poly(coefficients, x)
for a, b in ((3, 4), (1, 1), (7, 2)):
    assert ours.pyramid_surface(a, b) == theirs._surface_Area(a, b)
for a, b in ((1, 2), (23, 56), (123, 7), (1, 256)):
    assert ours.digit_distance(a, b) == theirs._digit_distance_nums(a, b)
"""


@pytest.mark.skipif(importlib.util.find_spec("evalplus") is None, reason="evalplus is not installed")
def test_the_rules_are_evalpluss_own():
    ran = python(SAME)

    assert ran.code == 0, ran.err
