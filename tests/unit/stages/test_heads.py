"""Heads are ranked by what the recipe says, cut evenly, and never where the result would not load."""

from __future__ import annotations

import json

import pytest

from forgekit.errors import CheckpointError
from forgekit.families import FAMILIES, AttentionHeads
from forgekit.resolve import plan
from forgekit.stages.prune import choose
from forgekit.surgery.heads import Attention, CutHeads
from tests.support.builders import an_alloy
from tests.support.models import base, run_stage

FACT = FAMILIES["qwen3"].fact(AttentionHeads)
EIGHT_IN_TWO = Attention(FACT, (0, 1), 8, 2, 32)
ALONE = Attention(FACT, (0, 1), 8, 8, 32)
RISING = {0: [float(n) for n in range(8)], 1: [float(8 - n) for n in range(8)]}


def chosen(made, scores, level, **more):
    options = {"min_heads": 1, "min_groups": 1, "whole_groups": False, "overall": False} | more
    return choose(made, scores, level, **options)


def test_every_group_loses_its_own_lowest_head():
    assert chosen(EIGHT_IN_TWO, RISING, 0.25) == {0: (0, 4), 1: (3, 7)}


def test_whole_groups_go_with_all_their_heads():
    assert chosen(EIGHT_IN_TWO, RISING, 0.5, whole_groups=True) == {0: (0, 1, 2, 3), 1: (4, 5, 6, 7)}


def test_heads_with_their_own_keys_go_one_by_one():
    assert chosen(ALONE, RISING, 0.25) == {0: (0, 1), 1: (6, 7)}


def test_heads_of_all_layers_compete_where_the_recipe_says_so():
    scores = {0: [9.0, 9, 9, 9, 9, 9, 9, 9], 1: [9.0, 9, 9, 9, 1, 1, 1, 1]}

    assert chosen(ALONE, scores, 0.25, overall=True) == {0: (), 1: (4, 5, 6, 7)}


def test_the_minima_are_kept():
    assert all(len(gone) == 4 for gone in chosen(ALONE, RISING, 0.9, min_heads=4).values())
    assert all(len(gone) == 2 for gone in chosen(ALONE, RISING, 0.9, min_groups=6).values())
    assert all(len(gone) == 4 for gone in chosen(EIGHT_IN_TWO, RISING, 0.9, min_heads=4).values())
    assert chosen(EIGHT_IN_TWO, RISING, 0.9, whole_groups=True, min_groups=2) == {0: (), 1: ()}


def test_on_a_tie_the_lower_head_stays():
    assert chosen(ALONE, {0: [1.0] * 8, 1: [1.0] * 8}, 0.25) == {0: (6, 7), 1: (6, 7)}


@pytest.mark.parametrize("strategy", ["entropy", "gradient", "activation-magnitude", "magnitude", "random"])
def test_every_strategy_ranks_by_something_of_its_own(strategy, tmp_path):
    pytest.importorskip("torch")
    needs = {} if strategy in ("magnitude", "random") else {"calibrationCorpus": "words"}

    run_stage("prune", "qwen2", tmp_path / "out", strategy=strategy, level=0.25, **needs)

    tree = json.loads((tmp_path / "out" / "surgery.json").read_text())
    assert tree["metric"] == strategy
    assert all(len(set(row)) == 8 for row in tree["scores"].values())
    assert all(len(row) == 2 for row in tree["gone"].values())


def test_a_hybrid_model_loses_heads_of_full_attention_layers_only(tmp_path):
    run_stage("prune", "qwen3_5", tmp_path / "out", strategy="magnitude", level=0.25)

    assert list(json.loads((tmp_path / "out" / "surgery.json").read_text())["gone"]) == ["1"]


def test_level_zero_changes_nothing(tmp_path):
    assert run_stage("prune", "qwen2", tmp_path / "out", strategy="entropy", level=0.0).weights is False


def test_a_level_that_removes_nothing_says_why(tmp_path):
    with pytest.raises(CheckpointError, match=r"removes no head: 8 heads in 2 groups, of which 4 and 2 must stay"):
        run_stage("prune", "qwen2", tmp_path / "out", strategy="magnitude", level=0.05)


def test_cutting_different_numbers_from_layers_is_refused():
    from forgekit.checkpoint.opening import open_folder

    uneven = CutHeads(gone={0: (0, 4), 1: (0, 1, 4, 5)}, heads=8, mode="slice")
    with pytest.raises(CheckpointError, match="a config has room for one"):
        uneven.origins(open_folder(base("qwen3")), FAMILIES["qwen3"])
    lopsided = CutHeads(gone={0: (0, 1), 1: (0, 1)}, heads=8, mode="slice")
    with pytest.raises(CheckpointError, match="groups of layer 0 would keep different numbers"):
        lopsided.origins(open_folder(base("qwen3")), FAMILIES["qwen3"])


def problems(architecture, runtimes=(), **stage):
    tree = an_alloy(
        source={"baseModel": "x", "architecture": architecture},
        target={"runtimes": list(runtimes)},
        stages=[{"type": "prune", "strategy": "magnitude", "level": 0.25, **stage}],
    )
    from forgekit import alloy

    return [problem.text for problem in plan(alloy.read(alloy.write(tree))).problems]


def test_the_bug_that_started_this_project_is_refused_before_a_byte_is_read():
    (said,) = problems("qwen2", ["transformers", "llama_cpp"], defragMode="slice")

    assert "a model that llama_cpp, a declared runtime, cannot load" in said
    assert "hidden_size / num_attention_heads" in said
    assert problems("qwen2", ["transformers"], defragMode="slice") == []
    assert problems("qwen2", ["transformers", "llama_cpp"], defragMode="pad") == []
    assert problems("qwen3", ["transformers", "llama_cpp"], defragMode="slice") == [], "its head_dim is explicit"


def test_families_whose_heads_cannot_be_cut_out_say_why():
    (said,) = problems("olmoe", defragMode="slice")

    assert "normalised over all heads at once" in said
    (said,) = problems("qwen3", defragMode="slice", perLayerNormalized=False)
    assert "different numbers of heads" in said
