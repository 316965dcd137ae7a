from __future__ import annotations

import pytest

from forgekit.domains.llm_forge import AcceptanceCriteria
from tests.support.builders import an_alloy


def gate(criteria, **results):
    tree = an_alloy(acceptanceCriteria=criteria, **results)
    return AcceptanceCriteria.parse(criteria).gate(tree)


def scored(score, base=None, **more):
    row = {"name": "humaneval", "score": score, **more} | ({} if base is None else {"baseScore": base})
    return {"results": {"benchmarks": [row], "integrity": {"modelHash": "sha256:0"}}}


@pytest.mark.parametrize(("score", "ships"), [(50.0, True), (49.9, False), (50.1, True)])
def test_min_is_a_fraction_and_reaching_it_exactly_ships(score, ships):
    assert gate({"benchmarks": {"humaneval": {"min": 0.5}}}, **scored(score)).ship is ships


@pytest.mark.parametrize(("base", "ships"), [(91.4, True), (91.5, False), (91.3, True)])
def test_anchor_delta_is_in_percentage_points_and_losing_exactly_that_ships(base, ships):
    criteria = {"benchmarks": {"humaneval": {"min": 0.5, "anchorDelta": -3.0}}}

    assert gate(criteria, **scored(88.4, base)).ship is ships


def test_no_float_error_decides_at_the_bound():
    criteria = {"benchmarks": {"humaneval": {"min": 0.07, "anchorDelta": -0.3}}}

    assert gate(criteria, **scored(7.0, 7.3)).ship


def test_another_benchmark_can_be_the_anchor():
    criteria = {"benchmarks": {"humaneval": {"min": 0.1, "anchorDelta": -1, "anchorBenchmark": "mbpp"}}}
    rows = [{"name": "humaneval", "score": 80.0, "baseScore": 99.0}, {"name": "mbpp", "score": 1.0, "baseScore": 81.0}]

    assert gate(criteria, results={"benchmarks": rows}).ship


def test_a_missing_score_is_neither_shipped_nor_refused():
    found = gate({"benchmarks": {"humaneval": {"min": 0.5}}}, results={"benchmarks": []})

    assert (found.ship, found.undecided, found.verdict) == (False, True, "rework")
    assert found.reasons[0].text == "humaneval has no published score"


def test_a_missing_base_score_leaves_the_anchor_undecided():
    found = gate({"benchmarks": {"humaneval": {"min": 0.5, "anchorDelta": -3}}}, **scored(88.4))

    assert found.undecided
    assert found.reasons[1].pointer == "/acceptanceCriteria/benchmarks/humaneval/anchorDelta"


@pytest.mark.parametrize(("needed", "ships"), [(12, True), (12.1, False), (None, None)])
def test_memory_must_fit(needed, ships):
    found = gate({"hardware": {"maxVramGb": 12}}, hardware={"minVramGb": needed})

    assert found.reasons[0].met is ships


def test_required_evidence_must_be_there():
    criteria = {"integrity": {"modelHashRequired": True, "samplesPathRequired": True}}

    assert gate(criteria, **scored(88.4, samplesPath="s.jsonl")).ship
    missing = gate(criteria, results={"benchmarks": [{"name": "humaneval", "score": 1.0}]})
    assert [reason.text for reason in missing.reasons] == ["modelHash is missing", "no samplesPath for humaneval"]


def test_every_reason_is_given_not_only_the_first():
    criteria = {"benchmarks": {"humaneval": {"min": 0.9, "anchorDelta": -1.0}}, "hardware": {"maxVramGb": 8}}

    found = gate(criteria, **scored(88.4, 92.1), hardware={"minVramGb": 12})

    assert [reason.met for reason in found.reasons] == [False, False, False]
    assert found.reasons[1].text == "humaneval 88.4 is -3.7 points from the base's humaneval 92.1; allowed is -1.0"


def test_nothing_required_ships():
    assert gate({}).ship
