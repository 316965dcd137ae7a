"""One hash for all records, and a short proof for each."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgekit.attest.merkle import Proof, holds, lines, prove, root
from forgekit.digest import Digest
from forgekit.errors import AttestationError, DigestError

records = st.lists(st.binary(max_size=20), min_size=1, max_size=40)


def rfc6962(leaves):
    """The tree head as RFC 6962, 2.1 defines it, by recursion."""
    if len(leaves) == 1:
        return hashlib.sha256(b"\x00" + leaves[0]).digest()
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + rfc6962(leaves[:split]) + rfc6962(leaves[split:])).digest()


@given(records)
@settings(max_examples=100, deadline=None)
def test_the_root_is_that_of_rfc_6962(leaves):
    assert root(leaves).hex == rfc6962(leaves).hex()


@given(records, st.data())
@settings(max_examples=100, deadline=None)
def test_every_record_has_a_proof_and_nothing_else_has(leaves, data):
    index = data.draw(st.integers(0, len(leaves) - 1))
    top, proof = root(leaves), prove(leaves, index)

    assert holds(leaves[index], proof, top)
    assert len(proof.steps) <= max(1, len(leaves)).bit_length()
    assert Proof.read(json.loads(json.dumps(proof.tree()))) == proof
    assert not holds(leaves[index] + b"x", proof, top)
    assert not holds(leaves[index], proof, Digest("0" * 64))
    if proof.steps:
        assert not holds(leaves[index], Proof(index=index, count=proof.count, steps=proof.steps[:-1]), top)
        assert not holds(leaves[index], Proof(index=index, count=proof.count, steps=(*proof.steps, "0" * 64)), top)


@given(records, st.data())
@settings(max_examples=60, deadline=None)
def test_a_record_cannot_be_shown_at_another_place(leaves, data):
    distinct = [bytes([index]) + leaf for index, leaf in enumerate(leaves)]
    index = data.draw(st.integers(0, len(leaves) - 1))
    other = data.draw(st.integers(0, len(leaves) - 1))
    proof = prove(distinct, index)

    moved = Proof(index=other, count=proof.count, steps=proof.steps)
    assert holds(distinct[index], moved, root(distinct)) is (other == index)


def test_a_leaf_is_not_an_inner_node():
    left, right = (hashlib.sha256(b"\x00" + leaf).digest() for leaf in (b"a", b"b"))

    assert root([b"a", b"b"]) != root([left + right])


@pytest.mark.parametrize(
    "tree",
    [
        None,
        {},
        {"index": 0, "count": 0, "steps": []},
        {"index": 2, "count": 2, "steps": []},
        {"index": -1, "count": 2, "steps": []},
        {"index": 0, "count": 2, "steps": ["0" * 64] * 65},
        {"index": "0", "count": 2, "steps": []},
    ],
)
def test_what_is_no_proof_is_told(tree):
    with pytest.raises(AttestationError):
        Proof.read(tree)


def test_a_step_that_is_no_hash_is_told():
    with pytest.raises(DigestError):
        Proof.read({"index": 0, "count": 2, "steps": ["xyz"]})


def test_no_records_have_no_root_and_no_record_past_the_end_a_proof():
    with pytest.raises(AttestationError, match="no records"):
        root([])
    with pytest.raises(AttestationError, match="there are 2"):
        prove([b"a", b"b"], 2)


def test_the_records_of_a_jsonl_file_are_its_lines():
    assert lines(b'{"a": 1}\r\n\n{"a": 2}\n') == [b'{"a": 1}', b'{"a": 2}']
