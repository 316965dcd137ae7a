"""DSSE envelopes: a payload, its type, and one signature over both, judged by a key registry.

The signature is over the pre-authentication encoding of DSSE v1. ECDSA signatures are in DER, as cosign and
securesystemslib have them; Ed25519 and ML-DSA ones as they are.

Source: https://github.com/secure-systems-lab/dsse, protocol.md and envelope.md, v1.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from forgekit.alloy.reading import parse
from forgekit.attest import algorithms, base64s
from forgekit.attest.registry import Entry, KeyRegistry, moment
from forgekit.attest.signing import VALID_FOR, Judgement
from forgekit.errors import AlloyError, AttestationError

IN_TOTO = "application/vnd.in-toto+json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Envelope:
    """A signed payload; nothing in it is believed yet.

    Attributes:
        key_id: as the signer calls the key; no signature covers it.
        signature: ECDSA in DER, others as they are.
    """

    payload: bytes
    payload_type: str
    key_id: str
    signature: bytes

    def tree(self) -> dict[str, Any]:
        return {
            "payloadType": self.payload_type,
            "payload": base64s.encode(self.payload),
            "signatures": [{"keyid": self.key_id, "sig": base64s.encode(self.signature)}],
        }


def encoded(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed: DSSE's pre-authentication encoding."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def sign(payload: bytes, key: Any, key_id: str, *, payload_type: str = IN_TOTO) -> Envelope:
    """Sign a payload.

    Raises:
        AttestationError: the key is of a kind that is not used here.
    """
    made = algorithms.decode(algorithms.sign(key, encoded(payload_type, payload)))
    signature = _der(made) if algorithms.algorithm_of(key) in algorithms.SIZES else made
    return Envelope(payload=payload, payload_type=payload_type, key_id=key_id, signature=signature)


def read(data: bytes, where: str) -> Envelope:
    """An envelope from its bytes.

    Raises:
        AttestationError: it is not one, has not just one signature, or has a field that no signature covers.
    """
    try:
        tree = parse(data, where=where)
    except AlloyError as error:
        raise AttestationError(f"this is no DSSE envelope: {error.what}", where=error.where) from error
    rows = tree.get("signatures")
    row = rows[0] if isinstance(rows, list) and len(rows) == 1 else None
    if tree.keys() != {"payload", "payloadType", "signatures"} or not isinstance(row, dict):
        raise AttestationError("a DSSE envelope here has a payload, a payloadType and one signature", where=where)
    if row.keys() != {"keyid", "sig"} or not isinstance(row["keyid"], str):
        raise AttestationError("a signature here has a keyid and a sig", where=where)
    if tree["payloadType"] != IN_TOTO:
        raise AttestationError(f"the payload is {tree['payloadType']!r}, not {IN_TOTO}", where=where)
    return Envelope(
        payload=base64s.decode(tree["payload"], "the payload"),
        payload_type=IN_TOTO,
        key_id=row["keyid"],
        signature=base64s.decode(row["sig"], "the signature"),
    )


def judge(envelope: Envelope, registry: KeyRegistry, *, now: datetime | None = None) -> Judgement:
    """What the signature on an in-toto statement is worth, by the registered key of its id.

    A statement whose predicate has ``attestedAt`` is judged as of then; one without as of now.
    """
    today = now or datetime.now(UTC)
    entry = registry.entries.get(envelope.key_id)
    if entry is None:
        reason = f"key {envelope.key_id!r} is in no registry here"
        return Judgement(standing="unknown", reason=reason, key_id=envelope.key_id)
    reason, at = _objection(envelope, entry, registry, today)
    if reason:
        return Judgement(standing="invalid", reason=reason, owner=entry.owner, key_id=entry.key_id)
    if at is not None and today - at > VALID_FOR:
        reason = f"it was signed at {at.isoformat()}, more than {VALID_FOR.days} days ago"
        return Judgement(standing="stale", reason=reason, owner=entry.owner, key_id=entry.key_id)
    when = f" at {at.isoformat()}" if at else ""
    reason = f"{entry.owner} signed it with {entry.key_id!r} ({entry.algorithm}){when}"
    return Judgement(standing="valid", reason=reason, owner=entry.owner, key_id=entry.key_id)


def _objection(envelope: Envelope, entry: Entry, registry: KeyRegistry, now: datetime) -> tuple[str, datetime | None]:
    """Why a registered key's signature does not count, empty where it does; and when it was made, if it says."""
    if entry.revoked_at is not None:
        return f"key {entry.key_id!r} was revoked at {entry.revoked_at.isoformat()}: it counts for nothing", None
    try:
        if not _verifies(envelope, entry):
            return "the statement was changed after it was signed, or somebody else signed it", None
        predicate = parse(envelope.payload, where="the statement").get("predicate")
    except (AttestationError, AlloyError) as error:
        return error.what, None
    stated = predicate.get("attestedAt") if isinstance(predicate, dict) else None
    at = moment(stated)
    if stated is not None and at is None:
        return f"attestedAt is {stated!r}, which is no time with a zone", None
    return registry.objection(entry, at or now, now), at


def _verifies(envelope: Envelope, entry: Entry) -> bool:
    signature = envelope.signature
    if entry.algorithm in algorithms.SIZES:
        signature = _side_by_side(signature, algorithms.SIZES[entry.algorithm])
    message = encoded(envelope.payload_type, envelope.payload)
    return algorithms.verifies(algorithms.public_key(entry.public_key), algorithms.encode(signature), message)


def _der(signature: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

    half = len(signature) // 2
    made: bytes = encode_dss_signature(int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big"))
    return made


def _side_by_side(signature: bytes, width: int) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

    try:
        r, s = decode_dss_signature(signature)
        made = r.to_bytes(width, "big") + s.to_bytes(width, "big")
    except (ValueError, OverflowError) as error:
        raise AttestationError("the signature is not one of ECDSA in DER") from error
    if _der(made) != signature:
        raise AttestationError("the signature is not one of ECDSA in DER")
    return made
