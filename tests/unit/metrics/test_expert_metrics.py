"""Each metric is its formula, and a cut by it is decided the same way everywhere."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.errors import CheckpointError
from forgekit.metrics import METRICS, ExpertWeights, Routing, exact_moments, select

torch = pytest.importorskip("torch")

TOKENS, EXPERTS, K = 40, 6, 2


@pytest.fixture
def routing():
    draw = torch.Generator().manual_seed(3)
    # no token is routed to the last expert
    chosen = torch.stack([torch.randperm(EXPERTS - 1, generator=draw)[:K] for _ in range(TOKENS)])
    gates = torch.rand(TOKENS, K, generator=draw, dtype=torch.float64)
    norms = torch.rand(TOKENS, K, generator=draw, dtype=torch.float64) * 9
    return Routing(EXPERTS, chosen, gates, norms)


def by_hand(routing, of_gate, of_norm):
    """Values of each expert's own tokens, the slow way."""
    found = [[] for _ in range(EXPERTS)]
    for t in range(TOKENS):
        for rank in range(K):
            gate, norm = float(routing.gates[t, rank]), float(routing.norms[t, rank])
            found[int(routing.chosen[t, rank])].append(gate**of_gate * norm**of_norm)
    return found


def mean(values):
    return sum(values) / len(values) if values else 0.0


FORMULAS = {  # powers of the gate weight and of the norm, and how a token's values are gathered
    "activation_count": (0, 0, sum),
    "gate_sum": (1, 0, sum),
    "reap": (1, 1, mean),
    "ean": (0, 1, sum),
    "man": (0, 1, mean),
    "activation_magnitude": (0, 1, mean),
    "msan": (0, 2, mean),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_a_measured_metric_is_its_formula(name, routing):
    of_gate, of_norm, gather = FORMULAS[name]
    metric = METRICS[name]

    sums = {key: found.tolist() for key, found in metric.observe(routing).items()}

    assert metric.score(sums) == pytest.approx([gather(values) for values in by_hand(routing, of_gate, of_norm)])
    assert metric.score(sums)[-1] == 0.0, "an expert no token reached shows nothing worth keeping"


@pytest.mark.parametrize("name", FORMULAS)
def test_sums_of_two_batches_add_up_to_the_sum_of_both(name, routing):
    metric = METRICS[name]
    halves = [
        Routing(EXPERTS, routing.chosen[part], routing.gates[part], routing.norms[part])
        for part in (slice(0, 13), slice(13, None))
    ]

    whole = metric.observe(routing)
    first, second = (metric.observe(half) for half in halves)

    for key, value in whole.items():
        assert (first[key] + second[key]).tolist() == pytest.approx(value.tolist())


def test_every_metric_is_tested_here_and_says_where_it_is_from():
    assert set(METRICS) == set(FORMULAS) | {"aimer", "router_l2"}
    assert all(metric.formula and metric.source for metric in METRICS.values())


def bf16(values):
    return torch.tensor(values, dtype=torch.bfloat16).view(torch.uint16).numpy().tobytes()


def expert(tensors, row=b""):
    return ExpertWeights(lambda: ("BF16", row), lambda: iter(("BF16", data) for data in tensors))


def test_aimer_is_mean_magnitude_over_root_mean_square_with_its_sign_turned():
    values = [[0.5, -0.25, 1.0, 3.0], [2.0, -8.0]]
    flat = np.abs(np.concatenate(values))

    found = METRICS["aimer"].weigh(expert([bf16(part) for part in values]))

    assert found == pytest.approx(-flat.mean() / np.sqrt((flat**2).mean()))
    assert METRICS["aimer"].weigh(expert([bf16([0.0, 0.0])])) == -1.0


def test_router_l2_is_the_norm_of_the_row():
    assert METRICS["router_l2"].weigh(expert([], row=bf16([3.0, -4.0]))) == 5.0


@given(st.lists(st.integers(0, 0xFFFF), min_size=1, max_size=200), st.sampled_from(["BF16", "F16"]))
def test_moments_are_rounded_once_whatever_the_order(patterns, dtype):
    infinite = 0x7F80 if dtype == "BF16" else 0x7C00
    patterns = [pattern & 0xFFFF for pattern in patterns if pattern & infinite != infinite] or [0]
    raw = np.array(patterns, "<u2")
    exact = (raw.astype("<u4") << 16).view("<f4") if dtype == "BF16" else raw.view("<f2")
    fractions = [Fraction(float(abs(value))) for value in exact]

    count, magnitude, squares = exact_moments(dtype, raw.tobytes())

    assert count == len(patterns)
    assert magnitude == float(sum(fractions))
    assert squares == float(sum(value * value for value in fractions))
    assert exact_moments(dtype, raw[::-1].tobytes()) == (count, magnitude, squares)


def test_moments_of_wide_floats_are_added_exactly():
    values = np.array([1e8, 1.0, -1e8, 1e-8], "<f4")

    assert exact_moments("F32", values.tobytes())[1] == math.fsum(abs(float(value)) for value in values)


@pytest.mark.parametrize(("dtype", "data"), [("BF16", b"\xc0\x7f"), ("F16", b"\x00\x7c"), ("F32", b"\x00\x00\xc0\x7f")])
def test_a_weight_that_is_no_number_is_an_error(dtype, data):
    with pytest.raises(CheckpointError, match="not a number"):
        exact_moments(dtype, data)


def test_a_dtype_without_magnitudes_is_an_error():
    with pytest.raises(CheckpointError, match="I32"):
        exact_moments("I32", b"1234")


def test_on_a_tie_the_lower_index_stays():
    assert select([1.0, 1.0, 1.0, 1.0], 2) == [0, 1]
    assert select([0.0, 2.0, 1.0, 2.0, 1.0], 3) == [1, 2, 3]


@given(st.lists(st.integers(0, 5).map(float), min_size=1, max_size=40), st.data())
def test_what_is_kept_outranks_what_is_not(scores, data):
    keep = data.draw(st.integers(1, len(scores)))
    kept = select(scores, keep)
    gone = sorted(set(range(len(scores))) - set(kept))

    assert kept == sorted(kept)
    assert len(kept) == keep
    assert all((scores[k], -k) > (scores[g], -g) for k in kept for g in gone)


def test_groups_lose_equally_many():
    assert select([9, 8, 7, 6, 1, 2, 3, 4], 4, groups=2) == [0, 1, 6, 7]
    with pytest.raises(CheckpointError, match="evenly"):
        select([1.0] * 8, 5, groups=2)


def test_a_score_that_is_no_number_is_an_error_that_names_the_expert():
    with pytest.raises(CheckpointError, match="expert 1 has no score"):
        select([1.0, math.nan], 1)
