"""What counts as agreement with the reference."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgekit.probing.agreement import BOUNDS, EXACT, bits_of, bound_for, compare

WIDTH, PROMPT, ANSWER = 64, 5, 8


def rows(seed, spread=4.0):
    return np.random.default_rng(seed).normal(0, spread, (PROMPT + ANSWER, WIDTH)).astype(np.float32)


def greedy(logits):
    return [int(row.argmax()) for row in logits[PROMPT - 1 : PROMPT + ANSWER - 1]]


def held(expected, found, outputs=None):
    answers = [greedy(one) for one in expected]
    mine = [greedy(one) for one in found] if outputs is None else outputs
    return compare([list(range(PROMPT))] * len(expected), answers, mine, expected, found)


@given(st.integers(0, 1000), st.floats(-50, 50), st.floats(0.5, 8))
@settings(max_examples=30, deadline=None)
def test_the_same_logits_agree_whatever_is_added_to_a_row(seed, added, spread):
    ours = [rows(seed, spread), rows(seed + 1, spread)]

    found = held(ours, [one + np.float32(added) for one in ours])

    assert found.fault(EXACT) == ""
    assert found.same == ANSWER
    assert found.positions == 2 * ANSWER
    assert found.divergence < 1e-4


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_other_weights_agree_at_no_precision(seed):
    found = held([rows(seed), rows(seed + 1)], [rows(seed + 2), rows(seed + 3)])

    assert all(found.fault(bound) for _, bound in BOUNDS)
    assert found.loss > 0.65


@given(st.integers(0, 1000))
@settings(max_examples=30, deadline=None)
def test_a_permuted_vocabulary_is_another_model(seed):
    ours = [rows(seed), rows(seed + 1)]

    assert held(ours, [np.roll(one, 7, axis=1) for one in ours]).fault(bound_for(4, exact=False))


def test_rounding_is_forgiven_up_to_the_bound_and_no_further():
    ours = [rows(1), rows(2)]
    noise = np.random.default_rng(5).normal(0, 1, ours[0].shape).astype(np.float32)
    small = held(ours, [one + noise * np.float32(0.02) for one in ours])
    large = held(ours, [one + noise * np.float32(0.4) for one in ours])

    assert small.fault(EXACT) == ""
    assert "more than" in large.fault(EXACT)
    assert large.fault(bound_for(8, exact=False)) == ""


def test_a_token_that_the_reference_finds_unlikely_is_a_fault_where_logits_are_exact():
    ours = [rows(3), rows(4)]
    wrong = [list(greedy(one)) for one in ours]
    wrong[1][2] = int(ours[1][PROMPT - 1 + 2].argmin())

    found = held(ours, ours, outputs=wrong)

    assert found.same == 2
    assert found.gap > 5
    assert "its token 3" in found.fault(EXACT)


def test_a_tie_may_go_either_way():
    ours = [rows(3)]
    row = ours[0][PROMPT - 1]
    first, second = np.argsort(-row)[:2]
    row[second] = row[first] - np.float32(1e-4)
    other = [list(greedy(ours[0]))]
    other[0][0] = int(second)

    found = held(ours, ours, outputs=other)

    assert found.same == 0
    assert found.fault(EXACT) == ""


def test_nan_is_no_agreement():
    ours = [rows(1)]
    broken = [ours[0].copy()]
    broken[0][PROMPT, 3] = np.nan

    assert "not finite" in held(ours, broken).fault(bound_for(4, exact=False))


def test_a_vocabulary_padded_to_a_round_number_is_still_the_same():
    ours = [rows(1)]
    padded = [np.pad(ours[0], ((0, 0), (0, 32)), constant_values=-1e9)]

    assert held(ours, padded).fault(EXACT) == ""


def test_a_vocabulary_of_another_size_is_another_model():
    ours = [rows(1)]

    with pytest.raises(ValueError, match="1064 token ids and the reference 64"):
        held(ours, [np.pad(ours[0], ((0, 0), (0, 1000)))])


@pytest.mark.parametrize(
    ("precision", "bits"),
    [
        ("Q4_K_M", 4),
        ("Q8_0", 8),
        ("Q5_K_M", 5),
        ("Q6_K", 6),
        ("Q2_K", 2),
        ("IQ4_NL", 4),
        ("BF16", 16),
        ("F32", 32),
        ("mlx-4bit", 4),
        ("bitsandbytes-8bit", 8),
        ("unknown", 0),
    ],
)
def test_bits_are_read_from_a_precision_s_name(precision, bits):
    assert bits_of(precision) == bits


def test_below_four_bits_agreement_decides_nothing():
    assert bound_for(3, exact=False) is None
    assert [bound_for(bits, exact=False).loss for bits in (16, 8, 6, 5, 4)] == sorted(
        bound_for(bits, exact=False).loss for bits in (16, 8, 6, 5, 4)
    )


def test_a_divergence_without_a_scale_is_infinite():
    flat = [np.zeros((PROMPT + ANSWER, WIDTH), dtype=np.float32)]
    found = compare([[0] * PROMPT], [[0] * ANSWER], [[0] * ANSWER], flat, [rows(9)])

    assert found.loss == math.inf
    assert found.fault(bound_for(4, exact=False))
