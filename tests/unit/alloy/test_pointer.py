from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from forgekit.alloy.pointer import find, is_number, join, objects, split, walk

trees = st.recursive(
    st.none() | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=12,
)


@given(st.lists(st.text(max_size=5)))
def test_a_pointer_splits_into_the_steps_it_was_joined_from(steps):
    assert split(join("", *steps)) == steps


@given(trees)
def test_every_node_is_found_by_the_pointer_it_was_walked_at(tree):
    for pointer, value in walk(tree):
        assert find(tree, pointer, default="missing") is value


def test_the_rfc_6901_examples():
    document = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8}

    assert [find(document, p) for p in ("", "/foo", "/foo/0", "/", "/a~1b", "/c%d", "/m~0n")] == [
        document,
        ["bar", "baz"],
        "bar",
        0,
        1,
        2,
        8,
    ]


def test_a_path_that_does_not_exist_gives_the_default():
    assert find({"a": [1]}, "/a/1", "none") == "none"
    assert find({"a": [1]}, "/a/-", "none") == "none"
    assert find({"a": 3}, "/a/b", "none") == "none"


def test_objects_skips_what_is_no_object():
    assert list(objects({"rows": [1, {"a": 1}, None]}, "/rows")) == [("/rows/1", {"a": 1})]
    assert list(objects({"rows": "text"}, "/rows")) == []


def test_true_is_not_a_number():
    assert is_number(1)
    assert is_number(1.0)
    assert not is_number(json.loads("true"))
