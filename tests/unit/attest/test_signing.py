"""A signature counts when the registered key signed just this document, at a time it could, for whoever asks."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forgekit import alloy
from forgekit.alloy.pointer import walk
from forgekit.attest import algorithms
from forgekit.attest.payload import FIELDS, document_hash, payload
from forgekit.attest.registry import Entry, KeyRegistry, read
from forgekit.attest.signing import judge, sign
from forgekit.errors import AttestationError
from tests.support import embedded
from tests.support.running import forgekit, without_catalog

TREE = embedded._ember()[0]
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
KEY = algorithms.generate("EdDSA")
OTHER = algorithms.generate("EdDSA")


def entry(key=KEY, name="lab-1", **more):
    return Entry(
        key_id=name,
        algorithm=algorithms.algorithm_of(key),
        public_key=algorithms.public_text(key),
        owner="The Lab",
        **{"registered_at": NOW - timedelta(days=400), **more},
    )


def registry(*entries):
    return KeyRegistry({one.key_id: one for one in entries or (entry(),)}, "keys.json")


def signed(key=KEY, name="lab-1", **more):
    return sign(TREE, key, name, **{"at": NOW, **more})


def standing(tree, known=None, **more):
    return judge(tree, known or registry(), **{"now": NOW, **more})


@pytest.mark.parametrize("algorithm", algorithms.HAVE)
def test_each_algorithm_signs_and_verifies_and_knows_itself_from_its_text(algorithm):
    key = algorithms.generate(algorithm)
    made = algorithms.sign(key, b"m" * 32)
    public = algorithms.public_key(algorithms.public_text(key))

    assert algorithms.algorithm_of(key) == algorithms.algorithm_of(public) == algorithm
    assert algorithms.verifies(public, made, b"m" * 32)
    assert not algorithms.verifies(public, made, b"n" * 32)
    assert not algorithms.verifies(algorithms.generate(algorithm).public_key(), made, b"m" * 32)
    assert standing(signed(key, at=NOW), registry(entry(key))).standing == "valid"


def test_ecdsa_signatures_are_r_and_s_side_by_side():
    assert len(algorithms.decode(algorithms.sign(algorithms.generate("ES256"), b"x"))) == 64
    assert len(algorithms.decode(algorithms.sign(algorithms.generate("ES384"), b"x"))) == 96


def test_an_honest_signature_is_valid_and_says_whose_it_is():
    found = standing(signed())

    assert (found.standing, found.owner, found.key_id) == ("valid", "The Lab", "lab-1")
    assert "The Lab signed it with 'lab-1' (EdDSA)" in found.reason


def test_the_payload_has_the_published_fields():
    made = payload(signed(audience="https://example.org"))

    assert tuple(sorted(made)) == FIELDS
    assert made["audience"] == "https://example.org"
    assert made["modelHash"] == TREE["results"]["integrity"]["modelHash"]
    assert made["benchmarkResults"] == TREE["results"]["benchmarks"]


SIGNED = signed(audience="https://example.org", nonce=b"n" * 16)
PLACES = [
    pointer
    for pointer, value in walk(SIGNED)
    if pointer and not isinstance(value, dict | list) and not pointer.startswith("/receipt")
]


def at(tree, pointer):
    *path, last = pointer.split("/")[1:]
    for step in path:
        tree = tree[int(step)] if isinstance(tree, list) else tree[step.replace("~1", "/").replace("~0", "~")]
    return tree, int(last) if isinstance(tree, list) else last.replace("~1", "/").replace("~0", "~")


@pytest.mark.parametrize("pointer", PLACES)
def test_no_field_of_a_signed_document_can_be_changed(pointer):
    tree = copy.deepcopy(SIGNED)
    node, last = at(tree, pointer)
    value = node[last]
    node[last] = (
        (not value) if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value}x"
    )

    assert standing(tree).standing != "valid", pointer


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8), st.none() | st.booleans() | st.text(max_size=8), min_size=1, max_size=3
    )
)
@settings(max_examples=60, deadline=None)
def test_nothing_can_be_added_to_a_signed_document(added):
    tree = copy.deepcopy(SIGNED)
    new = {key: value for key, value in added.items() if key not in tree and key != "receipt"}
    tree |= new

    assert standing(tree).standing == ("invalid" if new else "valid")


def test_a_receipt_is_written_after_and_may_change():
    tree = copy.deepcopy(SIGNED)
    tree["receipt"] = {"issuedAt": "2026-11-21T00:00:00Z"}

    assert standing(tree).standing == "valid"


def test_a_round_trip_through_bytes_keeps_a_signature():
    assert standing(alloy.read(alloy.write(SIGNED)).tree).standing == "valid"


def test_a_swapped_key_is_not_believed():
    tree = copy.deepcopy(SIGNED)
    forged = sign(tree, OTHER, "lab-1", at=NOW)

    found = standing(forged)

    assert found.standing == "invalid"
    assert "not the one registered as 'lab-1'" in found.reason


def test_a_key_that_no_registry_knows_proves_nothing_either_way():
    assert standing(signed(OTHER, "stranger")).standing == "unknown"


def test_a_revoked_key_counts_for_nothing_it_ever_signed():
    revoked = registry(entry(revoked_at=NOW + timedelta(days=1)))

    found = standing(signed(at=NOW - timedelta(days=50)), revoked)

    assert found.standing == "invalid"
    assert "revoked" in found.reason


@pytest.mark.parametrize(("days", "expected"), [(-1, "valid"), (0, "invalid"), (1, "invalid")])
def test_a_superseded_key_counts_for_what_it_signed_before(days, expected):
    heir = entry(OTHER, "lab-2", registered_at=NOW - timedelta(days=10))
    known = registry(entry(superseded_by="lab-2"), heir)

    assert standing(signed(at=NOW - timedelta(days=10 - days)), known).standing == expected


@pytest.mark.parametrize(
    ("made", "known", "more", "says"),
    [
        ({"at": NOW + timedelta(hours=1)}, {}, {}, "yet to come"),
        ({"at": NOW - timedelta(days=500)}, {}, {}, "before its key was registered"),
        ({}, {"expires_at": NOW}, {}, "after its key had expired"),
        (
            {"audience": "https://a.org"},
            {},
            {"audience": "https://b.org"},
            "meant for https://a.org, not https://b.org",
        ),
        ({}, {}, {"audience": "https://b.org"}, "meant for nobody in particular"),
    ],
)
def test_a_signature_counts_in_its_time_and_for_whom_it_was_made(made, known, more, says):
    found = standing(signed(**made), registry(entry(**known)), **more)

    assert found.standing == "invalid"
    assert says in found.reason


def test_an_attestation_goes_stale_after_ninety_days():
    tree = signed(at=NOW - timedelta(days=91))

    assert standing(tree).standing == "stale"
    assert standing(tree, now=NOW - timedelta(days=2)).standing == "valid"


def test_a_replay_under_a_short_nonce_or_none_is_refused():
    with pytest.raises(AttestationError, match="16 are the least"):
        signed(nonce=b"short")
    tree = signed()
    tree["results"]["integrity"].pop("nonce")
    tree["results"]["integrity"].pop("signature")
    bare = copy.deepcopy(tree)
    bare["results"]["integrity"]["alloyHash"] = document_hash(bare)
    from forgekit.attest.payload import signed_bytes

    bare["results"]["integrity"]["signature"] = {
        "algorithm": "EdDSA",
        "publicKey": algorithms.public_text(KEY),
        "value": algorithms.sign(KEY, signed_bytes(bare)),
        "keyId": "lab-1",
    }
    found = standing(bare)

    assert found.standing == "invalid"
    assert "its nonce has 0 bytes" in found.reason


@pytest.mark.parametrize("value", ["", "!!", "AAAA", "a" * 86 + "==", None, 7, "é"])
def test_a_signature_of_any_other_shape_is_invalid_and_no_traceback(value):
    tree = copy.deepcopy(SIGNED)
    tree["results"]["integrity"]["signature"]["value"] = value

    assert standing(tree).standing == "invalid"


def test_what_attests_nothing_cannot_be_signed():
    with pytest.raises(AttestationError, match="attests nothing"):
        sign({"name": "x"}, KEY, "lab-1")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"{", "not JSON"),
        (b"[]", "no list of keys"),
        (b'{"keys": [1]}', "not an object"),
        (b'{"keys": [{"keyId": "a"}]}', "no algorithm"),
        (b'{"keys": [{"keyId": "a", "algorithm": "EdDSA", "publicKey": "AA", "owner": "o"}]}', "cannot be read"),
    ],
)
def test_a_registry_that_is_not_one_says_where(content, says, tmp_path):
    path = tmp_path / "keys.json"
    path.write_bytes(content)

    with pytest.raises(AttestationError, match=says):
        read(path)


def test_a_registry_reads_as_it_was_written_and_holds_no_contradiction(tmp_path):
    path = tmp_path / "keys.json"
    known = registry(entry(expires_at=NOW), entry(OTHER, "lab-2", revoked_at=NOW))
    path.write_bytes(known.render())

    assert read(path).entries == known.entries
    tree = json.loads(known.render())
    for change, says in (
        ({"algorithm": "ES256"}, "one of EdDSA"),
        ({"supersededBy": "nobody"}, "which is not listed"),
        ({"registeredAt": "2026-11-21"}, "no time with a zone"),
    ):
        path.write_text(json.dumps({"keys": [tree["keys"][0] | change]}))
        with pytest.raises(AttestationError, match=says):
            read(path)
    path.write_text(json.dumps({"keys": [tree["keys"][0]] * 2}))
    with pytest.raises(AttestationError, match="stands twice"):
        read(path)
    assert replace(entry(), owner="x").tree()["owner"] == "x"


def test_a_key_is_made_listed_used_revoked_and_verification_follows(tmp_path):
    env = without_catalog(FORGEKIT_KEY_PASSWORD="secret")
    folder = tmp_path / "lab"
    folder.mkdir()
    path, key, keys = folder / "x.alloy.json", tmp_path / "key.pem", tmp_path / "keys.json"
    path.write_bytes(alloy.write(TREE | {"target": {"domain": "code"}}))

    def verdict(*more):
        ran = forgekit(
            "verify", folder, "--tier", 3, "--only", "/results/integrity/signature", "--json", *more, env=env
        )
        (finding,) = ran.json["artifacts"][0]["findings"]
        return finding["verdict"], finding["reason"]

    public = forgekit("keys", "new", "--out", key, "--algorithm", "ES256", env=env).out.strip()
    assert key.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in key.read_bytes()
    assert forgekit("keys", "new", "--out", key, env=env).code == 2
    assert forgekit("keys", "add", keys, "lab-1", public, "--owner", "The Lab", env=env).code == 0
    assert verdict("--keys", keys)[0] == "unproven"
    assert forgekit("sign", path, "--key", key, "--key-id", "lab-1", env=env).code == 0
    assert verdict()[0] == "unchecked"
    assert verdict("--keys", keys)[0] == "confirmed"
    assert verdict("--keys", keys, "--audience", "https://b.org")[0] == "refuted"
    assert forgekit("keys", "revoke", keys, "lab-1", env=env).code == 0
    assert "revoked" in verdict("--keys", keys)[1]
    assert "revoked" in forgekit("keys", "list", keys, env=env).out
    assert forgekit("sign", path, "--key", key, "--key-id", "x", env=without_catalog()).code == 2


def test_what_declares_a_runtime_that_has_not_passed_is_not_signed(tmp_path):
    path, key = tmp_path / "x.alloy.json", tmp_path / "key.pem"
    path.write_bytes(alloy.write(TREE))
    key.write_bytes(algorithms.private_pem(KEY))

    ran = forgekit("sign", path, "--key", key, "--key-id", "lab-1")

    assert ran.code == 2
    assert "it declares transformers, and records no pass on these bytes" in ran.err
    assert path.read_bytes() == alloy.write(TREE)
