"""The form of an OpenSSF Model Signing bundle, read so that nothing its signature does not cover can hide in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Literal

from forgekit.alloy.reading import parse
from forgekit.attest import base64s
from forgekit.digest import fault, is_plain_relative
from forgekit.errors import AttestationError

PREDICATE = "https://model_signing/signature/v1.0"
Mode = Literal["key", "certificate", "keyless"]
MATERIALS: Mapping[str, Mode] = {"publicKey": "key", "x509CertificateChain": "certificate", "certificate": "keyless"}
LOGGED = {"tlogEntries", "timestampVerificationData"}
# what is bytes in them: Sigstore's protobuf-specs, sigstore_rekor.proto and sigstore_bundle.proto
LOGGED_BYTES = {"keyId", "signedEntryTimestamp", "rootHash", "hashes", "canonicalizedBody", "signedTimestamp"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Bundle:
    """What a bundle holds; nothing in it is believed yet.

    Attributes:
        statement: the in-toto statement that is signed.
        chain: certificates in DER, the signer's first.
        name: of the model, as the signer called it.
        files: SHA-256 in hex by POSIX path; empty where it signs something else than whole files by SHA-256.
        ignored: paths the signer left out, folders with all that is in them.
        unit: what is hashed instead, in words, where ``files`` is empty.
    """

    mode: Mode
    statement: Mapping[str, Any]
    chain: tuple[bytes, ...]
    name: str
    files: Mapping[str, str]
    ignored: tuple[str, ...]
    unit: str


def read(data: bytes) -> Bundle:
    """A bundle from its bytes.

    Raises:
        AttestationError: it is not one, or has something in it that no signature covers.
        AlloyError: it is not JSON.
    """
    tree = parse(data, where="the bundle")
    material, envelope = tree.get("verificationMaterial"), tree.get("dsseEnvelope")
    if not isinstance(material, dict) or not isinstance(envelope, dict):
        raise AttestationError("it has no verificationMaterial and dsseEnvelope")
    _only(tree, {"mediaType", "verificationMaterial", "dsseEnvelope"}, "it")
    _only(material, {*MATERIALS, *LOGGED}, "verificationMaterial")
    modes = [mode for field, mode in MATERIALS.items() if field in material]
    if len(modes) != 1:
        raise AttestationError("it has not one verification material")
    if modes[0] == "keyless" and not material.get("tlogEntries"):
        raise AttestationError("it has no entry of a transparency log")
    for field in LOGGED & material.keys():
        _spelled(material[field], field)
    statement = parse(_payload(envelope), where="the payload")
    return Bundle(mode=modes[0], statement=statement, chain=_chain(material, modes[0]), **_stated(statement))


def _payload(envelope: Mapping[str, Any]) -> bytes:
    _only(envelope, {"payload", "payloadType", "signatures"}, "dsseEnvelope")
    signatures = envelope.get("signatures")
    if not isinstance(signatures, list) or len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise AttestationError("it has not one signature")
    _only(signatures[0], {"sig", "keyid"}, "the signature")
    base64s.decode(signatures[0].get("sig"), "the signature")
    return base64s.decode(envelope.get("payload"), "the payload")


def _chain(material: Mapping[str, Any], mode: Mode) -> tuple[bytes, ...]:
    if mode == "key":
        held = material["publicKey"]
        if not isinstance(held, dict):
            raise AttestationError("publicKey is not an object")
        _only(held, {"hint", "rawBytes", "keyDetails"}, "publicKey")
        return ()
    rows: Any
    if mode == "keyless":
        rows = [material["certificate"]]
    else:
        holder = material["x509CertificateChain"]
        rows = holder.get("certificates") if isinstance(holder, dict) else None
        if not isinstance(rows, list) or not rows:
            raise AttestationError("it has no certificates")
        _only(holder, {"certificates"}, "x509CertificateChain")
    found = []
    for row in rows:
        if not isinstance(row, dict):
            raise AttestationError("a certificate is not an object")
        _only(row, {"rawBytes"}, "a certificate")
        found.append(base64s.decode(row.get("rawBytes"), "a certificate"))
    return tuple(found)


def _spelled(tree: Any, name: str) -> None:
    """Hold all bytes in a log's entries to the one spelling of them; the library takes any."""
    if isinstance(tree, dict):
        for field, value in tree.items():
            _spelled(value, field)
    elif isinstance(tree, list):
        for value in tree:
            _spelled(value, name)
    elif name in LOGGED_BYTES:
        base64s.decode(tree, name)
    elif name == "envelope":  # a checkpoint: a signed note, "\u2014 name signature" for each who signs
        for line in str(tree).split("\n"):
            if line.startswith("\u2014 "):
                base64s.decode(line.rpartition(" ")[2], "a checkpoint's signature")


def _only(tree: Mapping[str, Any], known: set[str], what: str) -> None:
    if unknown := sorted(tree.keys() - known):
        raise AttestationError(f"{what} has a field {unknown[0]!r}, which no signature covers")


def _stated(statement: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a bundle that its statement gives."""
    if statement.get("predicateType") != PREDICATE:
        raise AttestationError(f"its predicate is {statement.get('predicateType')!r}, not {PREDICATE}")
    subject, predicate = statement.get("subject"), statement.get("predicate")
    if not isinstance(subject, list) or len(subject) != 1 or not isinstance(subject[0], dict):
        raise AttestationError("it has not one subject")
    rows = predicate.get("resources") if isinstance(predicate, dict) else None
    how = predicate.get("serialization") if isinstance(predicate, dict) else None
    if not isinstance(rows, list) or not isinstance(how, dict) or not rows:
        raise AttestationError("it signs no files")
    ignored = how.get("ignore_paths", [])
    if not isinstance(ignored, list) or not all(isinstance(path, str) for path in ignored):
        raise AttestationError("ignore_paths is not a list of paths")
    method, hashed = str(how.get("method")), str(how.get("hash_type"))
    files = _files(rows)
    whole = (method, hashed) == ("files", "sha256")
    return {
        "name": str(subject[0].get("name")),
        "files": files if whole else {},
        "ignored": tuple(ignored),
        "unit": "" if whole else f"{method} by {hashed}",
    }


def _files(rows: Sequence[Any]) -> dict[str, str]:
    found: dict[str, str] = {}
    for row in rows:
        name, value = (row.get("name"), row.get("digest")) if isinstance(row, dict) else (None, None)
        if not isinstance(name, str) or not is_plain_relative(name) or str(PurePosixPath(name)) != name:
            raise AttestationError(f"{name!r} is no path inside the model")
        if name in found:
            raise AttestationError(f"{name} is signed twice")
        if not isinstance(value, str) or (row.get("algorithm") == "sha256" and fault(value)):
            raise AttestationError(f"{value!r} is no hash of {name}")
        found[name] = value
    return found
