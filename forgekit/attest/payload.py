"""The bytes that a signature is made over."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping
from typing import Any

from forgekit.alloy.canonical import canonical
from forgekit.alloy.pointer import find

INTEGRITY = "/results/integrity"
FIELDS = ("alloyHash", "attestedAt", "audience", "benchmarkResults", "codeHash", "datasetHashes", "modelHash", "nonce")


def document_hash(tree: Mapping[str, Any]) -> str:
    """``sha256:`` of the RFC 8785 form of a document without what is written after it is signed.

    Left out are the receipt, ``integrity.alloyHash`` (this value) and ``integrity.signature``; everything else counts,
    so that no field can be changed under a signature.

    Raises:
        AlloyError: it holds a value that RFC 8785 has no form for.
    """
    kept = {key: value for key, value in tree.items() if key != "receipt"}
    integrity = find(tree, INTEGRITY)
    if isinstance(integrity, Mapping):
        kept["results"] = copy.copy(kept["results"])
        kept["results"]["integrity"] = {k: v for k, v in integrity.items() if k not in ("alloyHash", "signature")}
    return f"sha256:{hashlib.sha256(canonical(kept)).hexdigest()}"


def payload(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The signed object of a document: eight fields, taken from where the document states them.

    Raises:
        AlloyError: the document holds a value that RFC 8785 has no form for.
    """
    integrity = find(tree, INTEGRITY)
    stated = integrity if isinstance(integrity, Mapping) else {}
    rows = stated.get("datasets")
    return {
        "alloyHash": document_hash(tree),
        "attestedAt": stated.get("attestedAt"),
        "audience": stated.get("audience"),
        "benchmarkResults": find(tree, "/results/benchmarks", []),
        "codeHash": find(tree, f"{INTEGRITY}/code/binaryHash"),
        "datasetHashes": [row.get("hash") for row in rows if isinstance(row, Mapping)]
        if isinstance(rows, list)
        else [],
        "modelHash": stated.get("modelHash"),
        "nonce": stated.get("nonce"),
    }


def signed_bytes(tree: Mapping[str, Any]) -> bytes:
    """SHA-256 of the payload's RFC 8785 form: the 32 bytes that a key signs.

    Raises:
        AlloyError: the document holds a value that RFC 8785 has no form for.
    """
    return hashlib.sha256(canonical(payload(tree))).digest()
