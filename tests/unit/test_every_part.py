"""The contract every registered part keeps: a new file is tested without a new test."""

from __future__ import annotations

import re

import pytest

from forgekit.benchmarks import BENCHMARKS, find_benchmark
from forgekit.checks import CHECKS
from forgekit.domains import DOMAINS
from forgekit.families import FAMILIES, Experts, FusedExperts, Towers, TrainingDefaults, UnfusedExperts
from forgekit.findings import TIERS
from forgekit.resolve import document_type, supported
from forgekit.stages import STAGES

PUBLISHED_ARCHITECTURES = {
    *("qwen2", "qwen3", "qwen3_5", "qwen2_5_vl", "qwen3_vl", "qwen3_5_vl", "qwen3_vl_moe", "qwen2_5_omni"),
    *("qwen3_moe", "olmoe", "mixtral", "phimoe", "granitemoe", "deepseek_v2"),
}
STAGE_TYPES = {
    *("source-config", "context-extend", "modality", "prune", "train", "lora", "compact", "expert-prune"),
    *("expert-activation-profile", "compensation-lora", "quant", "package", "eval", "publish", "deploy", "deliver"),
    *("many-worlds-substrate", "many-worlds-adapter", "many-worlds-ensemble", "team-search", "gate-profile"),
    *("population-prune", "cv-ingest", "cv-eval", "validate-runtime"),
}
OURS = {"ffn-prune", "depth-prune"}


def test_every_architecture_that_alloys_name_has_a_family():
    assert set(FAMILIES) >= PUBLISHED_ARCHITECTURES


def test_every_stage_type_of_the_schema_is_registered():
    assert set(STAGES) == STAGE_TYPES | OURS


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_states_each_kind_of_fact_once_and_says_where_from(name):
    family = FAMILIES[name]
    kinds = [type(fact) for fact in family.facts]

    assert len(kinds) == len(set(kinds))
    assert "/" in family.source
    assert not any(family.fact(kind) for kind in family.without)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_tensor_templates_can_be_filled(name):
    for fact in FAMILIES[name].facts:
        for field in getattr(type(fact), "__dataclass_fields__", {}):
            value = getattr(fact, field)
            texts = value if isinstance(value, tuple) and value and isinstance(value[0], str) else (value,)
            for text in texts:
                if isinstance(text, str) and "{" in text:
                    filled = text.format(layer=3, expert=7)
                    assert re.fullmatch(r"[\w.]+", filled)
                    assert ".3." in filled


@pytest.mark.parametrize("name", FAMILIES)
def test_experts_are_fused_or_not_and_count_their_tensors(name):
    experts = FAMILIES[name].fact(Experts)
    if experts is None:
        return

    assert isinstance(experts, UnfusedExperts) != isinstance(experts, FusedExperts)
    assert experts.tensors_per_expert == (3 if isinstance(experts, UnfusedExperts) else 0)
    assert experts.count_keys


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_with_towers_names_what_must_not_be_touched(name):
    towers = FAMILIES[name].fact(Towers)
    if towers is None:
        return

    assert towers.untouchable
    assert all(prefix.endswith(".") for prefix in towers.untouchable)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [0.5, 4.9, 7, 14, 30, 400, None])
def test_training_defaults_cover_every_size(name, size):
    defaults = FAMILIES[name].fact(TrainingDefaults)
    if defaults is None:
        return

    steps, rate = defaults.for_size(size)

    assert steps > 0
    assert float(rate) > 0


def test_dense_qwen_trains_for_as_long_as_its_size_asks():
    defaults = FAMILIES["qwen2"].fact(TrainingDefaults)

    assert [defaults.for_size(size) for size in (4, 5, 34, 35)] == [
        (300, "1e-4"),
        (200, "5e-5"),
        (150, "2e-5"),
        (100, "2e-5"),
    ]
    assert defaults.for_size(None) == defaults.for_size(7)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_can_be_planned_with_something_that_shrinks_it(name):
    assert {"quant", "eval", "package", "publish"} <= supported(FAMILIES[name]).keys()


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_keeps_unknown_parameters_and_its_notes(name):
    params = STAGES[name].params
    required = {f.alias: _sample(params, f.alias) for f in params.model_fields.values() if f.is_required()}
    tree = {"type": name, **required, "notes": "why", "somethingNew": {"a": [1, 2.0, None]}}

    read = params.parse(tree)

    assert read.tree() == tree
    assert list(read.tree()) == list(tree)


def _sample(params, alias):
    """A value a required parameter accepts, by its JSON schema."""
    schema = params.model_json_schema(by_alias=True)
    found = schema["properties"][alias]
    found = schema["$defs"][found["$ref"].rsplit("/", 1)[-1]] if "$ref" in found else found
    if "enum" in found:
        return found["enum"][0]
    if "const" in found:
        return found["const"]
    return {"string": "x", "array": [], "integer": 4096, "number": found.get("minimum", 0.5)}[found["type"]]


@pytest.mark.parametrize("name", DOMAINS)
def test_a_domain_has_stages_and_a_document_type(name):
    domain = DOMAINS[name]

    assert len(domain.stages) >= 3
    assert document_type((domain,)).model_fields.keys() >= domain.root.model_fields.keys()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_knows_its_size_and_its_oracles(name):
    benchmark = BENCHMARKS[name]

    assert benchmark.total
    assert benchmark.oracles[0] == "evalplus-0.3.1"
    assert find_benchmark(name) is benchmark


def test_a_published_alias_finds_its_benchmark():
    assert find_benchmark("humaneval+") is BENCHMARKS["humaneval_plus"]
    assert find_benchmark("humaneval++") is None


@pytest.mark.parametrize("name", CHECKS)
def test_a_check_belongs_to_a_tier(name):
    assert CHECKS[name].tier in TIERS
    assert CHECKS[name].domain in (None, *DOMAINS)
