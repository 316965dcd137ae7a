"""A value is changed where it stands, and no other byte."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forgekit.checkpoint.patching import set_values
from forgekit.errors import CheckpointError

leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(st.text(min_size=1, max_size=6), trees, min_size=1, max_size=5)


def paths(tree, path=()):
    yield path
    pairs = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in pairs:
        yield from paths(value, (*path, key))


def replaced(tree, path, value):
    if not path:
        return value
    made = copy.deepcopy(tree)
    node = made
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return made


@given(objects, st.data(), leaves, st.sampled_from([None, 0, 1, 2, 4]), st.booleans())
def test_the_one_value_changes_and_everything_else_reads_the_same(tree, data, value, indent, ascii_only):
    text = json.dumps(tree, indent=indent, ensure_ascii=ascii_only)
    path = data.draw(st.sampled_from([path for path in paths(tree) if path]))

    made = set_values(text, {path: value}, "test")

    assert json.loads(made) == replaced(tree, path, value)


@given(objects, st.text(min_size=1, max_size=6), leaves, st.sampled_from([None, 2]))
def test_a_key_that_is_missing_is_added(tree, key, value, indent):
    made = set_values(json.dumps(tree, indent=indent), {(key,): value}, "test")

    assert json.loads(made) == {**tree, key: value}


def test_only_the_digits_change():
    text = '{\n  "a" : 1.50,\n\t"num_experts": 128 ,\n  "b": [ ]\n}\n'

    assert set_values(text, {("num_experts",): 80}, "test") == text.replace("128", "80")


def test_an_added_object_keeps_the_indent_of_its_neighbours():
    text = '{\n  "text_config": {\n    "a": 1\n  }\n}\n'

    made = set_values(text, {("text_config", "rope"): {"factor": 2.0}}, "test")

    assert made == '{\n  "text_config": {\n    "a": 1,\n    "rope": {\n      "factor": 2.0\n    }\n  }\n}\n'


def test_a_value_without_a_place_is_an_error():
    with pytest.raises(CheckpointError, match="no place for a/b"):
        set_values('{"x": 1}', {("a", "b"): 1}, "test")
