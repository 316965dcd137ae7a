"""A DSSE envelope counts when the registered key signed just this statement, at a time it could."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib import dsse as theirs
from securesystemslib.signer import SSlibKey

from forgekit.attest import algorithms, base64s, dsse
from forgekit.attest.registry import Entry, KeyRegistry
from forgekit.errors import AttestationError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)
KEYS = {name: algorithms.generate(name) for name in algorithms.HAVE}
STATEMENT = json.dumps({"_type": "x", "predicate": {"attestedAt": NOW.isoformat()}}).encode()


def entry(key=KEYS["ES256"], name="lab", **more):
    return Entry(
        key_id=name,
        algorithm=algorithms.algorithm_of(key),
        public_key=algorithms.public_text(key),
        owner="The Lab",
        **{"registered_at": NOW - 400 * DAY, **more},
    )


def registry(*entries):
    return KeyRegistry({one.key_id: one for one in entries or (entry(),)})


def data(payload=STATEMENT, key=KEYS["ES256"], name="lab"):
    return json.dumps(dsse.sign(payload, key, name).tree()).encode()


def standing(envelope, known=None, now=NOW):
    return dsse.judge(dsse.read(envelope, "x"), known or registry(), now=now)


@pytest.mark.parametrize("algorithm", algorithms.HAVE)
def test_each_algorithm_signs_and_verifies(algorithm):
    key = KEYS[algorithm]

    found = standing(data(key=key), registry(entry(key)))

    assert found.standing == "valid"
    assert found.reason.startswith(f"The Lab signed it with 'lab' ({algorithm}) at 2026-11-21T12:00:00")
    other = algorithms.generate(algorithm)
    assert standing(data(key=key), registry(entry(other))).standing == "invalid"


@pytest.mark.parametrize(
    ("algorithm", "scheme", "kind"), [("ES256", "ecdsa-sha2-nistp256", "ecdsa"), ("EdDSA", "ed25519", "ed25519")]
)
def test_securesystemslib_verifies_what_we_sign(algorithm, scheme, kind):
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = KEYS[algorithm].public_key()
    if kind == "ed25519":
        value = public.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
    else:
        value = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    key = SSlibKey("lab", kind, scheme, {"public": value})
    tree = json.loads(data(key=KEYS[algorithm]))

    # securesystemslib writes signatures in hex into its own objects and reads base64 as we write it
    assert theirs.Envelope.from_dict(tree).verify([key], 1).keys() == {"lab"}


@pytest.mark.parametrize("algorithm", ["ES256", "EdDSA"])
def test_no_byte_of_an_envelope_can_be_changed(algorithm):
    whole = json.dumps(json.loads(data(key=KEYS[algorithm])), separators=(",", ":")).encode()
    known = registry(entry(KEYS[algorithm]))

    def passes(changed):
        try:
            return standing(changed, known).standing == "valid"
        except AttestationError:
            return False

    passed = []
    for index in range(len(whole)):
        for mask in (1 << index % 8, 0x20, 0xFF):
            changed = bytearray(whole)
            changed[index] ^= mask
            passed += [index] if passes(bytes(changed)) else []
    assert passed == []
    assert passes(whole)


def test_a_key_s_time_is_judged_by_what_the_statement_says():
    old = entry(superseded_by="new")
    assert standing(data(), registry(entry(revoked_at=NOW))).standing == "invalid"
    assert "had expired" in standing(data(), registry(entry(expires_at=NOW))).reason
    assert "before its key was registered" in standing(data(), registry(entry(registered_at=NOW + DAY))).reason
    assert standing(data(), registry(old, entry(KEYS["ES384"], "new", registered_at=NOW + DAY))).standing == "valid"
    gone = standing(data(), registry(old, entry(KEYS["ES384"], "new", registered_at=NOW - DAY)))
    assert gone.reason == "it was signed after its key gave way to 'new'"
    assert standing(data(), now=NOW + 91 * DAY).standing == "stale"
    assert "yet to come" in standing(data(), now=NOW - DAY).reason
    assert standing(data(name="nobody")).standing == "unknown"


def test_a_statement_without_a_time_is_judged_as_of_now():
    timeless = data(b'{"predicate": {}}')

    assert standing(timeless, now=NOW + 300 * DAY).standing == "valid"
    assert "had expired" in standing(timeless, registry(entry(expires_at=NOW - DAY))).reason
    assert "no time with a zone" in standing(data(b'{"predicate": {"attestedAt": "noon"}}')).reason
    assert standing(data(b"not JSON")).standing == "invalid"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda tree: tree.update(more=1), "one signature"),
        (lambda tree: tree["signatures"].append(tree["signatures"][0]), "one signature"),
        (lambda tree: tree["signatures"][0].pop("keyid"), "a keyid and a sig"),
        (lambda tree: tree.update(payloadType="text/plain"), "the payload is"),
        (lambda tree: tree.update(payload="_-8="), "not base64"),
        (lambda tree: tree.update(payload="QR=="), "as encoders write it"),
        (lambda tree: tree.update(payload=1), "is not text"),
    ],
)
def test_what_is_no_envelope_is_told(change, says):
    tree = json.loads(data())
    change(tree)

    with pytest.raises(AttestationError, match=says):
        dsse.read(json.dumps(tree).encode(), "x")


def test_an_ecdsa_signature_is_in_der_and_nothing_else():
    tree = json.loads(data())
    held = base64s.decode(tree["signatures"][0]["sig"], "x")
    assert held[0] == 0x30
    for other in (b"", held + b"\x00", algorithms.decode(algorithms.sign(KEYS["ES256"], b"x"))):
        tree["signatures"][0]["sig"] = base64s.encode(other)
        assert standing(json.dumps(tree).encode()).reason == "the signature is not one of ECDSA in DER"


def test_a_file_that_is_not_json_is_told():
    with pytest.raises(AttestationError, match="no DSSE envelope"):
        dsse.read(b"{", "x")
