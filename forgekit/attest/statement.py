"""in-toto statements: subjects by hash, and a predicate that says something of them.

Source: https://github.com/in-toto/attestation/blob/main/spec/v1/statement.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.canonical import canonical
from forgekit.alloy.reading import parse
from forgekit.attest.libraries import library
from forgekit.attest.materials import alloy_name, files
from forgekit.errors import AlloyError, AttestationError, ProofError

TYPE = "https://in-toto.io/Statement/v1"


def about(alloy: Alloy, predicate_type: str, predicate: Mapping[str, Any]) -> bytes:
    """A statement about an artifact: every file it records a hash of, and the alloy itself. RFC 8785 bytes.

    Raises:
        AttestationError: the alloy records no files.
        AlloyError: it holds a value that RFC 8785 has no form for.
        MachineError: in-toto's library is not installed here.
        ProofError: in-toto's library does not take the statement.
    """
    subjects = files(alloy) | {alloy_name(alloy): alloy.hash.hex}
    tree = {
        "_type": TYPE,
        "subject": [{"name": path, "digest": {"sha256": value}} for path, value in sorted(subjects.items())],
        "predicateType": predicate_type,
        "predicate": dict(predicate),
    }
    made = canonical(tree)
    validate(made)
    return made


def validate(data: bytes) -> None:
    """Hold a statement to in-toto's own reading of it.

    Raises:
        MachineError: in-toto's library is not installed here.
        ProofError: it is not a statement by that.
    """
    form = library("google.protobuf.json_format")
    proto = library("in_toto_attestation.v1.statement_pb2")
    statement = library("in_toto_attestation.v1.statement")
    try:
        statement.Statement.copy_from_pb(form.Parse(data, proto.Statement())).validate()
    except (form.ParseError, ValueError) as error:
        raise ProofError(f"in-toto's library does not take the statement: {error}") from error


def read(data: bytes, where: str) -> dict[str, Any]:
    """A statement from its bytes.

    Raises:
        AttestationError: it is not one.
    """
    try:
        tree = parse(data, where=where)
    except AlloyError as error:
        raise AttestationError(f"this is no in-toto statement: {error.what}", where=error.where) from error
    if tree.get("_type") != TYPE:
        raise AttestationError(f"its type is {tree.get('_type')!r}, not {TYPE}", where=where)
    if not isinstance(tree.get("subject"), list) or not isinstance(tree.get("predicate"), dict):
        raise AttestationError("a statement has subjects and a predicate", where=where)
    return tree


def subjects(tree: Mapping[str, Any], where: str) -> dict[str, str]:
    """SHA-256 in hex of every subject, by name.

    Raises:
        AttestationError: a subject has no name or no SHA-256, or a name stands twice.
    """
    found: dict[str, str] = {}
    for row in tree["subject"]:
        name = row.get("name") if isinstance(row, dict) else None
        digest = row.get("digest") if isinstance(row, dict) else None
        value = digest.get("sha256") if isinstance(digest, dict) else None
        if not isinstance(name, str) or not isinstance(value, str) or name in found:
            raise AttestationError(f"the subject {name!r} has no SHA-256, or stands twice", where=where)
        found[name] = value
    return found
