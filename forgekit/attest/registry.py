"""A file that says whose key is whose, since when and until when. Whoever verifies keeps it; nobody's document does."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from forgekit.attest import algorithms
from forgekit.errors import AttestationError

SCHEMA = "forgekit.keys/1"
SKEW = timedelta(minutes=5)  # by which a signer's clock may be ahead


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One key.

    Attributes:
        algorithm: as in ``attest.algorithms``.
        public_key: base64url of its SubjectPublicKeyInfo.
        registered_at, expires_at: between which it may sign; it signs for ever where it has no end.
        revoked_at: from when nothing it ever signed counts.
        superseded_by: id of the key that took its place; what it signed before that one was registered counts.
    """

    key_id: str
    algorithm: str
    public_key: str
    owner: str
    registered_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    superseded_by: str | None = None
    registration_authority: str | None = None

    def tree(self) -> dict[str, Any]:
        times = {"registeredAt": self.registered_at, "expiresAt": self.expires_at, "revokedAt": self.revoked_at}
        made: dict[str, Any] = {
            "keyId": self.key_id,
            "algorithm": self.algorithm,
            "publicKey": self.public_key,
            "owner": self.owner,
            **{name: moment.isoformat() for name, moment in times.items() if moment is not None},
            "supersededBy": self.superseded_by,
            "registrationAuthority": self.registration_authority,
        }
        return {name: value for name, value in made.items() if value is not None}


@dataclass(frozen=True, slots=True)
class KeyRegistry:
    """Keys by id."""

    entries: Mapping[str, Entry]
    where: str = ""

    def objection(self, entry: Entry, at: datetime, now: datetime) -> str:
        """Why a key cannot have signed at a time; empty where it can. A revoked key is not asked for its times."""
        heir = self.entries.get(entry.superseded_by) if entry.superseded_by else None
        if at > now + SKEW:
            return f"it was signed at {at}, which is yet to come"
        if at < entry.registered_at - SKEW:
            return "it was signed before its key was registered"
        if entry.expires_at is not None and at >= entry.expires_at:
            return "it was signed after its key had expired"
        if heir is not None and at >= heir.registered_at:
            return f"it was signed after its key gave way to {entry.superseded_by!r}"
        return ""

    def render(self) -> bytes:
        rows = [self.entries[name].tree() for name in sorted(self.entries)]
        return json.dumps({"schema": SCHEMA, "keys": rows}, indent=2).encode() + b"\n"


def read(path: Path) -> KeyRegistry:
    """Read a registry.

    Raises:
        AttestationError: it is missing, is not one, lists a key twice, or a key in it cannot be read.
    """
    try:
        tree = json.loads(path.read_bytes())
    except OSError as error:
        raise AttestationError(f"the key registry cannot be read: {error.strerror}", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise AttestationError("the key registry is not JSON", where=str(path)) from error
    rows = tree.get("keys") if isinstance(tree, dict) else None
    if not isinstance(rows, list):
        raise AttestationError("the key registry has no list of keys", where=f"{path}#/keys")
    entries: dict[str, Entry] = {}
    for index, row in enumerate(rows):
        entry = _entry(row, f"{path}#/keys/{index}")
        if entry.key_id in entries:
            raise AttestationError(f"key {entry.key_id!r} stands twice", where=f"{path}#/keys/{index}")
        entries[entry.key_id] = entry
    for entry in entries.values():
        if entry.superseded_by is not None and entry.superseded_by not in entries:
            raise AttestationError(
                f"key {entry.key_id!r} gave way to {entry.superseded_by!r}, which is not listed", where=str(path)
            )
    return KeyRegistry(entries, str(path))


def _entry(row: Any, where: str) -> Entry:
    if not isinstance(row, Mapping):
        raise AttestationError("an entry is not an object", where=where)
    texts = {name: row.get(name) for name in ("keyId", "algorithm", "publicKey", "owner")}
    missing = [name for name, value in texts.items() if not isinstance(value, str) or not value]
    if missing:
        raise AttestationError(f"an entry has no {missing[0]}", where=where)
    try:
        key = algorithms.public_key(str(texts["publicKey"]))
        found = algorithms.algorithm_of(key)
    except AttestationError as error:
        raise AttestationError(error.what, where=where, hint=error.hint) from error
    if found != texts["algorithm"]:
        raise AttestationError(f"the key is one of {found}, and the entry says {texts['algorithm']}", where=where)
    return Entry(
        key_id=str(texts["keyId"]),
        algorithm=found,
        public_key=algorithms.public_text(key),
        owner=str(texts["owner"]),
        registered_at=_required(row, "registeredAt", where),
        expires_at=_moment(row, "expiresAt", where),
        revoked_at=_moment(row, "revokedAt", where),
        superseded_by=row.get("supersededBy") if isinstance(row.get("supersededBy"), str) else None,
        registration_authority=row.get("registrationAuthority"),
    )


def _required(row: Mapping[str, Any], name: str, where: str) -> datetime:
    found = _moment(row, name, where)
    if found is None:
        raise AttestationError(f"an entry has no {name}", where=where)
    return found


def _moment(row: Mapping[str, Any], name: str, where: str) -> datetime | None:
    value = row.get(name)
    if value is None:
        return None
    found = moment(value)
    if found is None:
        raise AttestationError(f"{name} is {value!r}, which is no time with a zone", where=f"{where}/{name}")
    return found


def moment(value: Any) -> datetime | None:
    """A time with a zone, from RFC 3339 text; None where it is none."""
    if not isinstance(value, str):
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo is not None else None
