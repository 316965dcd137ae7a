from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from forgekit import alloy
from forgekit.alloy.schema import AlloyDocument, Artifact, DerivedFrom, IntegrityAttestation, Recipe
from forgekit.domains import DOMAINS
from forgekit.errors import AlloyError
from forgekit.resolve import document_type, read_document, schema_problems
from forgekit.stages import STAGES
from forgekit.stages.prune import Params as PruneParams
from tests.support.builders import an_alloy

LLM = document_type((DOMAINS["llm-forge"],))
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
extras = st.dictionaries(st.text(min_size=1, max_size=10).map(lambda key: "x" + key), trees, max_size=4)


def spread(tree, extra, draw_order):
    """The tree with unknown keys mixed in at every object, in a drawn order."""
    if isinstance(tree, dict):
        kept = ((k, v if k == "metrics" else spread(v, extra, draw_order)) for k, v in tree.items())
        items = [*kept, *extra.items()]
        return dict(draw_order(items))
    if isinstance(tree, list):
        return [spread(item, extra, draw_order) for item in tree]
    return tree


numbers = st.sampled_from([12, 12.0, 0, 0.0, 1, 1.5, 1e-7, 88.4, 10**15, 1e15])
documents = st.fixed_dictionaries(
    {"name": st.text(max_size=5), "version": st.just("1")},
    optional={
        "description": st.text(max_size=5),
        "userSummary": st.none() | st.text(max_size=3),
        "cycles": st.sampled_from([1, 3, 3.0]),
        "source": st.fixed_dictionaries(
            {"baseModel": st.text(max_size=4), "architecture": st.text(max_size=4)},
            optional={
                "isMoE": st.booleans(),
                "totalExperts": st.none() | st.sampled_from([64, 64.0]),
                "totalParamsB": numbers,
            },
        ),
        "results": st.fixed_dictionaries(
            {},
            optional={
                "baselinePerplexity": st.none() | numbers,
                "improvementPct": st.none() | numbers,
                "benchmarks": st.lists(
                    st.fixed_dictionaries(
                        {"name": st.text(max_size=4)},
                        optional={
                            "score": st.none() | numbers,
                            "metrics": st.dictionaries(
                                st.text(max_size=3), numbers | st.booleans() | st.none(), max_size=2
                            ),
                        },
                    ),
                    max_size=2,
                ),
                "integrity": st.fixed_dictionaries({}, optional={"modelHash": st.none() | st.text(max_size=3)}),
            },
        ),
        "receipt": st.none() | st.just({}),
        "stages": st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from([*STAGES, "unheard-of"])}, optional={"notes": st.none() | st.text(max_size=3)}
            ),
            max_size=2,
        ),
    },
)


def same(a, b) -> bool:
    """Equal to the type, the sign of zero and the order of keys."""
    return json.dumps(a) == json.dumps(b)


@given(documents, extras, st.randoms())
def test_no_field_of_a_document_is_ever_dropped_retyped_or_moved(document, extra, random):
    document.setdefault("source", {"baseModel": "b", "architecture": "a"})
    tree = spread(document, extra, lambda items: random.sample(items, len(items)))

    assert same(LLM.parse(tree).tree(), tree)
    assert same(AlloyDocument.parse(tree).tree(), tree)


@given(documents, extras, st.randoms())
def test_dumping_through_pydantic_gives_the_same_tree(document, extra, random):
    document.setdefault("source", {"baseModel": "b", "architecture": "a"})
    tree = spread(document, extra, lambda items: random.sample(items, len(items)))

    assert same(LLM.parse(tree).model_dump(mode="json"), tree)


@given(st.sampled_from([12, 12.0, True, "12", None, 12.5]))
def test_a_number_is_kept_as_it_is_or_refused(value):
    tree = {"name": "n", "version": "1", "cycles": value}
    try:
        read = AlloyDocument.parse(tree)
    except ValidationError:
        assert value not in (12, 12.0) or value is True
        return
    assert type(read.cycles) is type(value)


def test_python_writes_snake_case_and_disk_has_camel_case():
    made = DerivedFrom(repo="a/b", alloy_hash=None)

    assert made.tree() == {"repo": "a/b", "alloyHash": None}
    assert IntegrityAttestation().tree() == {}


def test_snake_case_on_disk_is_an_unknown_field_and_is_kept():
    read = IntegrityAttestation.parse({"model_hash": "x"})

    assert read.model_hash is None
    assert read.tree() == {"model_hash": "x"}
    both = {"model_hash": "x", "modelHash": "y"}
    assert same(IntegrityAttestation.parse(both).tree(), both)


def test_a_field_set_later_comes_after_those_that_were_read():
    read = DerivedFrom.parse({"kind": "gguf", "repo": "a/b"})

    changed = read.model_copy(update={"alloy_hash": "sha256:0"})

    assert list(changed.tree().items()) == [("kind", "gguf"), ("repo", "a/b"), ("alloyHash", "sha256:0")]


def test_documents_are_frozen():
    with pytest.raises(ValidationError):
        DerivedFrom(repo="a/b").repo = "c/d"


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"name": 3}, "#/name: should be a valid string"),
        ({"stages": "prune"}, "#/stages: should be a valid list"),
        ({"cycles": 0}, "#/cycles: is less than 1"),
        ({"source": {"architecture": "qwen2"}}, "#/source/baseModel: is missing"),
        ({"stages": [{"type": "prune", "strategy": "combined", "level": 0.3}]}, "#/stages/0/strategy: should be "),
        ({"stages": [{"type": "prune", "strategy": "magnitude", "level": 1}]}, "#/stages/0/level: is greater than 0.9"),
        ({"stages": [{"type": "publish"}]}, "#/stages/0/org: is missing"),
        (
            {"stages": [{"type": "modality", "modality": "video", "encoderModel": "x"}]},
            "#/stages/0/modality: should be",
        ),
        (
            {"acceptanceCriteria": {"benchmarks": {"x": {"min": 1.5}}}},
            "#/acceptanceCriteria/benchmarks/x/min: is greater",
        ),
        ({"results": {"benchmarks": [{"name": "x", "score": "88"}]}}, "#/results/benchmarks/0/score: is not a number"),
        ({"results": {"benchmarks": [{"name": "x", "score": True}]}}, "#/results/benchmarks/0/score: is not a number"),
    ],
)
def test_a_wrong_type_or_bound_is_named_with_its_place(change, problem):
    tree = an_alloy(**change)

    found = [str(problem) for problem in schema_problems(alloy.read(alloy.write(tree)))]

    assert any(text.startswith(problem) for text in found), found


def test_a_typed_document_has_typed_stages():
    tree = an_alloy(stages=[{"type": "prune", "strategy": "magnitude", "level": 0.25, "extra": 1}])

    document = read_document(alloy.read(alloy.write(tree)))

    assert isinstance(document.stages[0], PruneParams)
    assert document.stages[0].level == 0.25
    assert same(document.tree(), tree)


def test_a_recipe_refuses_results():
    with pytest.raises(AlloyError, match="a recipe is written before the run and cannot hold receipt, results"):
        Recipe.of(an_alloy(receipt={}))


def test_an_artifact_needs_results():
    recipe = {key: value for key, value in an_alloy().items() if key != "results"}

    with pytest.raises(AlloyError, match="it is a recipe, not an artifact"):
        Artifact.of(recipe)
    assert Recipe.of(recipe).tree() == recipe


def test_an_artifact_knows_its_recipe():
    tree = an_alloy(
        recipeId="r1",
        recipeVersion="2.0.0",
        receipt={"issuedAt": "now"},
        quantTiers=[{"format": "gguf", "variants": []}],
    )

    artifact = Artifact.of(tree)

    assert (artifact.recipe_id, artifact.recipe_version) == ("r1", "2.0.0")
    assert same(artifact.tree(), tree)
    assert artifact.recipe().tree().keys() == tree.keys() - {"results", "receipt", "recipeId", "recipeVersion"}
