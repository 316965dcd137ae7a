from __future__ import annotations

import pytest

from forgekit.alloy.canonical import canonical
from forgekit.errors import AlloyError


def test_the_rfc_8785_example():
    tree = {
        "numbers": [333333333.33333329, 1e30, 4.50, 2e-3, 0.000000000000000000000000001],
        "literals": [None, True, False],
    }

    assert canonical(tree) == b'{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27]}'


def test_keys_are_sorted_by_utf_16_and_text_is_not_escaped_needlessly():
    assert canonical({"\u20ac": 1, "\U0001f600": 2, "a": "\u00e9\n"}) == '{"a":"é\\n","€":1,"😀":2}'.encode()


@pytest.mark.parametrize("tree", [{"n": 2**60}, {"n": float("nan")}, {"s": "\ud800"}])
def test_what_has_no_canonical_form_is_an_error(tree):
    with pytest.raises(AlloyError, match="no RFC 8785 form"):
        canonical(tree)
