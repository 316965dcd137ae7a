"""``forgekit sign`` and ``forgekit keys``: who says so."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forgekit.cli.shared import Json, print_json
from forgekit.errors import AttestationError

if TYPE_CHECKING:
    from forgekit.attest.registry import KeyRegistry

PASSWORD = "FORGEKIT_KEY_PASSWORD"  # noqa: S105 - the name of a variable
Registry = Annotated[Path, typer.Argument(help="The registry's file; made where there is none.")]


def sign(
    alloy: Annotated[Path, typer.Argument(help="An alloy; it is replaced by the signed one.")],
    key: Annotated[Path, typer.Option("--key", help="Private key in PEM, as `forgekit keys new` writes it.")],
    key_id: Annotated[str, typer.Option("--key-id", help="The id that registries list it under.")],
    audience: Annotated[str | None, typer.Option(help="Origin it is meant for; it counts nowhere else.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write here, and leave the alloy as it is.")] = None,
    as_json: Json = False,
) -> None:
    """Sign everything an alloy says, by the RFC 8785 form of its attestation."""
    from forgekit import alloy as alloys
    from forgekit.alloy.files import write_atomically
    from forgekit.attest import algorithms
    from forgekit.attest.signing import sign as signed
    from forgekit.checks.runtime_link import without_pass
    from forgekit.digest import sha256

    document = alloys.read_file(alloy)
    missing = without_pass(document)
    if missing:
        raise AttestationError(
            f"it declares {' and '.join(missing)}, and records no pass on these bytes: a signature would end the chain",
            where=f"{alloy}#/target/runtimes",
            hint="forge it with a validate-runtime stage for each",
        )
    private = algorithms.private_key(_read(key), _password())
    data = alloys.write(signed(document.tree, private, key_id, audience=audience))
    target = out or alloy
    write_atomically(target, data)
    if as_json:
        row = {"alloy": str(target), "alloyHash": sha256(data).hex[:16], "keyId": key_id}
        print_json({"schema": "forgekit.signed/1", **row, "algorithm": algorithms.algorithm_of(private)})
        return
    how = algorithms.algorithm_of(private)
    typer.echo(f"{target} is signed with {key_id} ({how}); its hash is now {sha256(data).hex[:16]}")


def new(
    out: Annotated[Path, typer.Option("--out", "-o", help="Where the private key goes; never over a file.")],
    algorithm: Annotated[str, typer.Option(help="ES256, ES384, EdDSA, ML-DSA-65 or ML-DSA-87.")] = "EdDSA",
) -> None:
    """Make a key pair: the private key in a file of its own, the public one on standard output.

    The private key is encrypted where FORGEKIT_KEY_PASSWORD is set.
    """
    from forgekit.attest import algorithms

    key = algorithms.generate(algorithm)
    data = algorithms.private_pem(key, _password())
    try:
        handle = os.open(out, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError as error:
        raise AttestationError("there is a file already", where=str(out), hint="name another") from error
    except OSError as error:
        raise AttestationError(f"the key cannot be written: {error.strerror}", where=str(out)) from error
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    typer.echo(algorithms.public_text(key))


def add(
    registry: Registry,
    key_id: Annotated[str, typer.Argument(help="Id of the key.")],
    public_key: Annotated[str, typer.Argument(help="The public key: base64url of its DER, or a PEM file.")],
    owner: Annotated[str, typer.Option(help="Whose it is.")],
    expires: Annotated[str | None, typer.Option(help="When it ends, as 2027-01-31T00:00:00Z.")] = None,
    authority: Annotated[str | None, typer.Option(help="Who says that it is theirs.")] = None,
) -> None:
    """List a key as somebody's, from now on."""
    from forgekit.attest import algorithms
    from forgekit.attest.registry import Entry

    known = _known(registry)
    if key_id in known.entries:
        raise AttestationError(
            f"key {key_id!r} is listed already", where=str(registry), hint="a key's id is never used twice"
        )
    text = Path(public_key).read_text("utf-8", "replace") if Path(public_key).is_file() else public_key
    key = algorithms.public_key(text)
    entry = Entry(
        key_id=key_id,
        algorithm=algorithms.algorithm_of(key),
        public_key=algorithms.public_text(key),
        owner=owner,
        registered_at=_now(),
        expires_at=_time(expires),
        registration_authority=authority,
    )
    _write(registry, {**known.entries, key_id: entry})


def revoke(registry: Registry, key_id: Annotated[str, typer.Argument(help="Id of the key.")]) -> None:
    """Take back everything a key ever signed. There is no way back."""
    known = _known(registry)
    entry = _entry(known, key_id)
    _write(registry, {**known.entries, key_id: replace(entry, revoked_at=entry.revoked_at or _now())})


def supersede(
    registry: Registry,
    old: Annotated[str, typer.Argument(help="Id of the key that signs no more.")],
    new_: Annotated[str, typer.Argument(metavar="NEW", help="Id of the one that takes its place.")],
) -> None:
    """Let one key give way to another: what it signed before that one was registered still counts."""
    known = _known(registry)
    _entry(known, new_)
    _write(registry, {**known.entries, old: replace(_entry(known, old), superseded_by=new_)})


def list_(registry: Registry, as_json: Json = False) -> None:
    """Say whose keys there are, and what they are worth."""
    from forgekit.attest.registry import SCHEMA, read

    known = read(registry)
    if as_json:
        print_json({"schema": SCHEMA, "keys": [known.entries[name].tree() for name in sorted(known.entries)]})
        return
    for name in sorted(known.entries):
        entry = known.entries[name]
        state = "in force"
        if entry.revoked_at is not None:
            state = f"revoked {entry.revoked_at.date()}"
        elif entry.superseded_by is not None:
            state = f"gave way to {entry.superseded_by}"
        elif entry.expires_at is not None:
            state = f"until {entry.expires_at.date()}"
        typer.echo(f"{name:<24} {entry.algorithm:<10} {entry.owner:<24} since {entry.registered_at.date()}  {state}")


def keys_asked(path: Path | None) -> KeyRegistry | None:
    """The registry asked for, else the one the environment names.

    Raises:
        AttestationError: it cannot be read.
    """
    from forgekit.attest.registry import read

    named = os.environ.get("FORGEKIT_KEYS")
    found = path or (Path(named) if named else None)
    return None if found is None else read(found)


def _known(path: Path) -> KeyRegistry:
    from forgekit.attest.registry import KeyRegistry, read

    return read(path) if path.exists() else KeyRegistry({}, str(path))


def _entry(known: KeyRegistry, key_id: str) -> Any:
    entry = known.entries.get(key_id)
    if entry is None:
        raise AttestationError(
            f"no key is listed as {key_id!r}", where=known.where, hint=", ".join(sorted(known.entries))
        )
    return entry


def _write(path: Path, entries: dict[str, Any]) -> None:
    from forgekit.alloy.files import write_atomically
    from forgekit.attest.registry import KeyRegistry

    write_atomically(path, KeyRegistry(entries).render())


def _time(text: str | None) -> datetime | None:
    from forgekit.attest.registry import moment

    if text is None:
        return None
    found = moment(text)
    if found is None:
        raise AttestationError(f"{text!r} is no time with a zone", hint="2027-01-31T00:00:00Z")
    return found


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


def _password() -> bytes | None:
    found = os.environ.get(PASSWORD)
    return found.encode() if found else None


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise AttestationError(f"the key cannot be read: {error.strerror}", where=str(path)) from error
