from __future__ import annotations

import pytest

from forgekit import alloy
from forgekit.errors import PlanError, UnknownNameError
from forgekit.families import FAMILIES
from forgekit.resolve import plan, supported
from forgekit.stages import STAGES
from tests.support.builders import an_alloy, write_alloy
from tests.support.running import forgekit


def planned(**changes):
    return plan(alloy.read(alloy.write(an_alloy(**changes))))


def texts(made):
    return [str(problem) for problem in made.problems]


def dense(architecture="qwen2", **more):
    return {"baseModel": "b", "architecture": architecture, **more}


def test_a_sound_recipe_binds_every_stage_to_a_fact_of_its_family():
    made = planned()

    assert [(step.type, type(step.fact).__name__) for step in made.steps] == [
        ("expert-activation-profile", "UnfusedExperts"),
        ("expert-prune", "UnfusedExperts"),
    ]
    assert made.family is FAMILIES["qwen3_moe"]
    assert made.require() is made


def test_a_stage_without_a_body_is_known_and_not_forgeable():
    assert [step.forgeable for step in planned().steps] == [step.stage.run is not None for step in planned().steps]


def test_an_unsupported_pair_names_both_says_why_and_what_to_use_instead():
    made = planned(source=dense(), stages=[{"type": "expert-prune", "keepExpertsPerLayer": 4}])

    (text,) = texts(made)
    can = ", ".join(supported(FAMILIES["qwen2"]))
    assert text == (
        "#/stages/0: family 'qwen2' cannot do 'expert-prune', which needs Experts: the model is dense: it has no "
        f"experts. It supports {can}; to shrink, use depth-prune or ffn-prune or prune or quant"
    )


def test_every_problem_is_reported_at_once():
    made = planned(
        source=dense("qwen9"),
        stages=[
            {"type": "quantise"},
            {"type": "prune", "strategy": "magnitude", "level": 2},
            {"notype": 1},
            {"type": "expert-prune", "metric": "activation_count", "keepExpertsPerLayer": 4},
        ],
    )

    found = texts(made)
    assert len(found) == 5
    assert found[0].startswith("#/source/architecture: no family is named 'qwen9' (deepseek_v2, ")
    assert found[1].startswith("#/stages/0/type: no stage is named 'quantise' (")
    assert found[1].endswith("; add forgekit/stages/quantise.py")
    assert found[2] == "#/stages/1/level: is greater than 0.9"
    assert found[3] == "#/stages/2: the stage has no type"
    assert found[4] == (
        "#/stages/3: 'expert-prune' needs importance from an earlier stage; put expert-activation-profile before it"
    )


def test_requiring_a_broken_plan_lists_every_problem():
    with pytest.raises(PlanError) as caught:
        planned(source=dense(), stages=[{"type": "x"}, {"type": "y"}]).require()

    assert str(caught.value).startswith("ember: 2 problems\n  #/stages/0/type: no stage is named 'x'")


@pytest.mark.parametrize("stages", [[], None])
def test_a_recipe_needs_stages(stages):
    assert texts(planned(stages=stages)) == ["#/stages: there are no stages"]


def test_stages_must_be_a_list():
    assert texts(planned(stages={"type": "prune"})) == ["#/stages: stages is not a list"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({}, "neither keepExpertsPerLayer nor keepExperts says how many experts to keep"),
        ({"keepExperts": 5, "keepExpertsPerLayer": 6}, "keepExperts 5 and keepExpertsPerLayer 6 differ"),
        ({"keepExpertsPerLayer": 1}, "keeping 1 experts leaves fewer than the 2 each token is routed to"),
        ({"keepExpertsPerLayer": 8}, "keeping 8 of 8 experts (source.numExpertsPerLayer) removes none"),
        ({"keepExpertsPerLayer": 9}, "keeping 9 of 8 experts (source.numExpertsPerLayer) removes none"),
        (
            {"keepExpertsPerLayer": 6, "originalExpertsPerLayer": 16},
            "the number of experts is given as originalExpertsPerLayer 16, source.numExpertsPerLayer 8",
        ),
        (
            {"keepExpertsPerLayer": 6, "expertTensorLayout": "granite-moe-fused"},
            "expertTensorLayout 'granite-moe-fused' is not this family's 'mlp-experts-unfused'",
        ),
    ],
)
def test_impossible_expert_counts_and_layouts_are_refused(change, problem):
    assert texts(planned(stages=[{"type": "expert-prune", **change}])) == [f"#/stages/0: {problem}"]


def test_an_importance_file_stands_in_for_a_profile_stage():
    stage = {"type": "expert-prune", "metric": "activation_count", "keepExpertsPerLayer": 6, "importanceJson": "i.json"}

    assert texts(planned(stages=[stage])) == []


@pytest.mark.parametrize("layout", ["auto", None, "mlp-experts-unfused"])
def test_the_familys_own_layout_may_be_named_or_left_open(layout):
    stage = {"type": "expert-prune", "keepExpertsPerLayer": 6, "expertTensorLayout": layout}

    assert texts(planned(stages=[stage])) == []


def test_a_context_can_only_be_extended():
    source = dense("qwen3", contextLength=32768)
    stage = {"type": "context-extend", "targetLength": 32768, "method": "yarn"}

    assert texts(planned(source=source, stages=[stage])) == [
        "#/stages/0: targetLength 32768 does not exceed the base's contextLength 32768"
    ]


def test_a_modality_must_be_one_the_model_has():
    stage = {"type": "modality", "modality": "audio", "encoderModel": "whisper"}

    (text,) = texts(planned(source=dense("qwen3_vl"), stages=[stage]))
    assert text == "#/stages/0: modality 'audio' is not one of vision"
    assert texts(planned(source=dense("qwen2_5_omni"), stages=[stage])) == []


def test_thresholds_of_compaction_ascend():
    profile = {"type": "expert-activation-profile", "calibrationCorpus": "embers"}
    stage = {"type": "compact", "deadThreshold": 0.5, "dormantThreshold": 0.1}

    (text,) = texts(planned(stages=[profile, stage]))
    assert text.startswith("#/stages/1: the thresholds dead, dormant, low, medium, high do not ascend: 0.5, 0.1")


def test_head_pruning_is_refused_where_heads_share_a_latent_state():
    stage = {"type": "prune", "strategy": "magnitude", "level": 0.2}

    (text,) = texts(planned(source=dense("deepseek_v2"), stages=[stage]))
    assert "latent attention shares one compressed key-value state between all heads" in text
    assert text.endswith("to shrink, use compact or expert-prune or quant")


@pytest.mark.parametrize("architecture", FAMILIES)
def test_every_family_either_does_a_stage_or_is_refused_by_name(architecture):
    can = supported(FAMILIES[architecture])
    for stage in STAGES.values():
        if not stage.needs:
            assert stage.name in can
            continue
        made = planned(source=dense(architecture), stages=[{"type": stage.name}])
        refused = any(f"family {architecture!r} cannot do {stage.name!r}" in text for text in texts(made))
        assert refused != (stage.name in can)


def test_parameters_that_no_stage_reads_are_noted():
    stage = {"type": "expert-prune", "keepExpertsPerLayer": 6, "keepExpertPerLayer": 7}

    (step,) = planned(stages=[stage]).steps
    assert step.notes == ("not read by 'expert-prune': keepExpertPerLayer",)


def test_a_benchmark_nobody_can_score_is_noted():
    (step,) = planned(stages=[{"type": "eval", "benchmarks": [{"name": "mmlu_pro"}]}]).steps

    assert step.problems == ()
    assert step.notes[0].startswith("no benchmark is named 'mmlu_pro' here (")


def test_an_unknown_domain_is_an_error_that_lists_the_known():
    with pytest.raises(UnknownNameError, match=r"forgekit\.domains: llm-forge, photo-provenance, ticketing"):
        planned(domains=["llm_forge"])


def test_the_command_prints_the_plan(tmp_path):
    ran = forgekit("plan", write_alloy(tmp_path, an_alloy()))

    assert ran.code == 0
    assert ran.out.splitlines()[0] == "ember"
    assert "expert-prune               UnfusedExperts   exact" in ran.out


def test_the_command_refuses_a_broken_recipe_with_every_problem_and_code_2(tmp_path):
    ran = forgekit(
        "plan", write_alloy(tmp_path, an_alloy(source=dense(), stages=[{"type": "x"}, {"type": "lora", "rank": 0}]))
    )

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: ember: 2 problems\n")
    assert "#/stages/1/rank: is less than 1" in ran.err


def test_the_plan_as_json(tmp_path):
    ran = forgekit("plan", write_alloy(tmp_path, an_alloy()), "--json")

    assert ran.json["schema"] == "forgekit.plan/1"
    assert [step["resolved"] for step in ran.json["steps"]] == [True, True]
    assert ran.json["problems"] == []
