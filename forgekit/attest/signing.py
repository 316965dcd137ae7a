"""Sign an alloy, and say what a signature on one is worth."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from forgekit.alloy.pointer import find
from forgekit.attest import algorithms
from forgekit.attest.payload import document_hash, signed_bytes
from forgekit.attest.registry import KeyRegistry, moment
from forgekit.errors import AlloyError, AttestationError

VALID_FOR = timedelta(days=90)
NONCE = 16  # bytes
INTEGRITY = "/results/integrity"

Standing = Literal["valid", "invalid", "stale", "unknown"]
"""valid: the registered key signed just this document, when it could.
invalid: it did not, or must not have.
stale: it did, and that is too long ago to count.
unknown: no registry here knows the key."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """What a signature is worth, and why."""

    standing: Standing
    reason: str
    owner: str = ""
    key_id: str = ""


def sign(
    tree: Mapping[str, Any],
    key: Any,
    key_id: str,
    *,
    audience: str | None = None,
    at: datetime | None = None,
    nonce: bytes | None = None,
) -> dict[str, Any]:
    """A copy of a document with its attestation signed; what was signed before is signed anew.

    Args:
        audience: origin the attestation is meant for; it counts nowhere else.
        at: time of the attestation, with a zone; now where None.
        nonce: at least 16 bytes; drawn where None.

    Raises:
        AttestationError: the document attests nothing, the nonce is short, or the time has no zone.
        AlloyError: the document holds a value that RFC 8785 has no form for.
    """
    integrity = find(tree, INTEGRITY)
    if not isinstance(integrity, Mapping):
        raise AttestationError("the alloy attests nothing", where=f"#{INTEGRITY}", hint="sign what a forge has written")
    drawn = secrets.token_bytes(NONCE) if nonce is None else nonce
    if len(drawn) < NONCE:
        raise AttestationError(f"the nonce has {len(drawn)} bytes, and {NONCE} are the least")
    when = at or datetime.now(UTC)
    if when.tzinfo is None:
        raise AttestationError("the time of the attestation has no zone")
    made = copy.deepcopy(dict(tree))
    stated = made["results"]["integrity"]
    stated.pop("signature", None)
    stated["nonce"] = algorithms.encode(drawn)
    stated["attestedAt"] = when.astimezone(UTC).isoformat(timespec="seconds")
    if audience is not None:
        stated["audience"] = audience
    stated["alloyHash"] = document_hash(made)
    value = algorithms.sign(key, signed_bytes(made))
    stated["signature"] = {
        "algorithm": algorithms.algorithm_of(key),
        "publicKey": algorithms.public_text(key),
        "value": value,
        "keyId": key_id,
    }
    return made


def judge(  # noqa: PLR0911 - one per rule, in the order they are asked
    tree: Mapping[str, Any],
    registry: KeyRegistry,
    *,
    audience: str | None = None,
    now: datetime | None = None,
) -> Judgement:
    """What the signature on a document is worth.

    The key is taken from the registry. A revoked key counts for nothing it ever signed; one that gave way to another
    counts for what it signed before that.

    Args:
        audience: origin that asks; an attestation for another, or for none, does not count there.
    """
    signature = find(tree, f"{INTEGRITY}/signature")
    if not isinstance(signature, Mapping):
        return Judgement(standing="invalid", reason="nothing is signed")
    key_id = signature.get("keyId")
    entry = registry.entries.get(key_id) if isinstance(key_id, str) else None
    if entry is None:
        return Judgement(standing="unknown", reason=f"key {key_id!r} is in no registry here", key_id=str(key_id))

    def said(standing: Standing, reason: str) -> Judgement:
        return Judgement(standing=standing, reason=reason, owner=entry.owner, key_id=entry.key_id)

    if entry.revoked_at is not None:
        return said(
            "invalid", f"key {entry.key_id!r} was revoked at {entry.revoked_at.isoformat()}: it counts for nothing"
        )
    if signature.get("algorithm") != entry.algorithm:
        return said(
            "invalid", f"it says {signature.get('algorithm')}, and the registered key is one of {entry.algorithm}"
        )
    try:
        carried = algorithms.public_text(algorithms.public_key(str(signature.get("publicKey"))))
        if carried != entry.public_key:
            return said("invalid", f"the key in the document is not the one registered as {entry.key_id!r}")
        holds = algorithms.verifies(
            algorithms.public_key(entry.public_key), str(signature.get("value")), signed_bytes(tree)
        )
        hashed = document_hash(tree)
    except (AttestationError, AlloyError) as error:
        return said("invalid", error.what)
    stated = find(tree, f"{INTEGRITY}/alloyHash")
    if not holds or (stated is not None and stated != hashed):
        return said("invalid", "the document was changed after it was signed, or somebody else signed it")
    return _in_time(tree, registry, said, entry, audience, now or datetime.now(UTC))


def _in_time(  # noqa: PLR0917 - what each rule asks for
    tree: Mapping[str, Any], registry: KeyRegistry, said: Any, entry: Any, audience: str | None, now: datetime
) -> Judgement:
    """The rules of time, nonce and audience, for a signature that holds."""
    made: Judgement
    at = moment(find(tree, f"{INTEGRITY}/attestedAt"))
    try:
        nonce = algorithms.decode(str(find(tree, f"{INTEGRITY}/nonce") or ""))
    except AttestationError:
        nonce = b""
    meant = find(tree, f"{INTEGRITY}/audience")
    refusals = (
        "it does not say when it was signed" if at is None else "",
        f"its nonce has {len(nonce)} bytes, and {NONCE} are the least" if len(nonce) < NONCE else "",
        f"it is meant for {meant or 'nobody in particular'}, not {audience}" if audience not in (None, meant) else "",
        registry.objection(entry, at, now) if at is not None else "",
    )
    for reason in filter(None, refusals):
        made = said("invalid", reason)
        return made
    assert at is not None
    if now - at > VALID_FOR:
        made = said("stale", f"it was signed at {at.isoformat()}, more than {VALID_FOR.days} days ago")
        return made
    made = said("valid", f"{entry.owner} signed it with {entry.key_id!r} ({entry.algorithm}) at {at.isoformat()}")
    return made
