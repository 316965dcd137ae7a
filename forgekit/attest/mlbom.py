"""A CycloneDX 1.6 bill of materials of a model: files by hash, model card, licence, and what it was made from.

``cyclonedx-python-lib`` has no class for model cards, so the document is written here and held to the library's strict
schema before anybody sees it.

Source: https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import forgekit
from forgekit.alloy import Alloy
from forgekit.alloy.pointer import is_number, objects
from forgekit.attest.libraries import library
from forgekit.attest.materials import Material, alloy_name, files, finished, materials, stamp
from forgekit.errors import AttestationError, ProofError

VERSION = "1.6"
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:forgekit:mlbom:1")
MODEL = "model"
DOMAIN = "llm-forge"
URL = re.compile(r"https?://[^\s<>\"{}|\\^`]+")


def bom(alloy: Alloy, *, epoch: int | None = None) -> bytes:
    """The bill of materials of an artifact, in UTF-8 JSON: the same alloy gives the same bytes.

    Args:
        epoch: seconds since 1970 that the document is dated with; the end of the run where None, if the alloy says.

    Raises:
        AttestationError: the alloy is not of a model, or records no hash of any file.
        MachineError: cyclonedx-python-lib is not installed here, with what it validates by.
        ProofError: the document is not one by the strict schema.
    """
    if DOMAIN not in alloy.domains:
        raise AttestationError(
            f"it is of {' and '.join(alloy.domains) or 'no domain'}, and only a model has a model card",
            where=alloy.where,
        )
    dated = finished(alloy, None) if epoch is None else stamp(datetime.fromtimestamp(epoch, UTC))
    tree = {
        "$schema": f"http://cyclonedx.org/schema/bom-{VERSION}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": VERSION,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, str(alloy.hash))}",
        "version": 1,
        "metadata": {
            **({"timestamp": dated} if dated else {}),
            "tools": {"components": [{"type": "application", "name": "forgekit", "version": forgekit.__version__}]},
            "component": _model(alloy),
        },
        "components": [*_files(alloy), *_data(alloy)],
        "dependencies": [{"ref": MODEL, "dependsOn": [f"data:{m.role}:{m.name}" for m in _sets(alloy)]}],
    }
    made = (json.dumps(tree, indent=2, ensure_ascii=False, sort_keys=True) + "\n").encode()
    validate(made)
    return made


def validate(data: bytes) -> None:
    """Hold a document to CycloneDX's strict schema.

    Raises:
        MachineError: cyclonedx-python-lib is not installed here, with what it validates by.
        ProofError: it breaks the schema.
    """
    library("jsonschema")
    library("referencing")
    validation, schema = library("cyclonedx.validation.json"), library("cyclonedx.schema")
    error = validation.JsonStrictValidator(schema.SchemaVersion.V1_6).validate_str(data.decode())
    if error is not None:
        raise ProofError(f"CycloneDX's schema does not take the bill of materials: {str(error.data)[:300]}")


def _model(alloy: Alloy) -> dict[str, Any]:
    tree = alloy.tree
    ancestors = [_ancestor(material) for material in materials(alloy) if material.role in ("base-model", "parent")]
    made: dict[str, Any] = {
        "bom-ref": MODEL,
        "type": "machine-learning-model",
        "name": str(tree.get("name") or alloy_name(alloy)),
        "version": str(tree.get("version") or ""),
        "description": str(tree.get("description") or ""),
        "licenses": _licences(tree.get("license")),
        "authors": [{"name": tree["author"]}] if _said(tree, "author") else [],
        "tags": [tag for tag in tree.get("tags") or () if isinstance(tag, str)] if _is_list(tree, "tags") else [],
        "hashes": [],
        "externalReferences": _references(alloy),
        "pedigree": {"ancestors": ancestors} if ancestors else {},
        "modelCard": _card(alloy),
        "properties": _properties(alloy),
    }
    return {key: value for key, value in made.items() if value}


def _card(alloy: Alloy) -> dict[str, Any]:
    source = alloy.at("/source", {})
    architecture = source.get("architecture") if isinstance(source, Mapping) else None
    parameters: dict[str, Any] = {
        "approach": {"type": "self-supervised"},  # next tokens of text: the one kind of training that stages know
        "task": "text-generation",
        "architectureFamily": "transformer",
        **({"modelArchitecture": architecture} if isinstance(architecture, str) else {}),
        "datasets": [{"ref": f"data:{material.role}:{material.name}"} for material in _sets(alloy)],
    }
    formats = alloy.at("/target/modalities")
    if isinstance(formats, list) and formats:
        parameters["inputs"] = [{"format": str(name)} for name in formats]
    card: dict[str, Any] = {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": list(_metrics(alloy))},
    }
    limits = alloy.at("/limitations")
    if isinstance(limits, list) and limits:
        card["considerations"] = {"technicalLimitations": [str(limit) for limit in limits]}
    return card


def _metrics(alloy: Alloy) -> Iterator[dict[str, str]]:
    """Scores and perplexities as they were published, in the publisher's digits."""
    for _, row in objects(alloy.tree, "/results/benchmarks"):
        kind = str(row.get("metric") or "score")
        name = str(row.get("name"))
        for field, whose in (("score", ""), ("baseScore", " (base model)")):
            if is_number(row.get(field)):
                yield {"type": kind, "slice": f"{name}{whose}", "value": json.dumps(row[field])}
    for field, whose in (("finalPerplexity", ""), ("baselinePerplexity", "base model")):
        value = alloy.at(f"/results/{field}")
        if is_number(value):
            yield {"type": "perplexity", **({"slice": whose} if whose else {}), "value": json.dumps(value)}


def _files(alloy: Alloy) -> Iterator[dict[str, Any]]:
    rows = files(alloy) | {alloy_name(alloy): alloy.hash.hex}
    for path, value in sorted(rows.items()):
        hashes = [{"alg": "SHA-256", "content": value}]
        yield {"type": "file", "bom-ref": f"file:{path}", "name": path, "hashes": hashes}


def _sets(alloy: Alloy) -> list[Material]:
    """Corpora and samples, each once."""
    found = {(m.role, m.name): m for m in materials(alloy) if m.role in ("corpus", "samples")}
    return list(found.values())


def _data(alloy: Alloy) -> Iterator[dict[str, Any]]:
    for material in _sets(alloy):
        row: dict[str, Any] = {"type": "data", "bom-ref": f"data:{material.role}:{material.name}"}
        row["name"] = material.name
        if "sha256" in material.digest:
            row["hashes"] = [{"alg": "SHA-256", "content": material.digest["sha256"]}]
        notes = {"role": material.role, **({"path": material.path} if material.path else {}), **material.notes}
        row["properties"] = [{"name": f"forgekit:{key}", "value": value} for key, value in sorted(notes.items())]
        row["data"] = [{"type": "dataset", "name": material.name}]
        yield row


def _ancestor(material: Material) -> dict[str, Any]:
    commit = material.digest.get("gitCommit") or material.notes.get("revision")
    row: dict[str, Any] = {"type": "machine-learning-model", "name": material.name}
    if commit:
        row["version"] = commit
    if material.purl:
        row["purl"] = material.purl
    notes = {"role": material.role, **material.notes}
    return row | {"properties": [{"name": f"forgekit:{key}", "value": value} for key, value in sorted(notes.items())]}


def _licences(stated: Any) -> list[dict[str, Any]]:
    """The licence by its SPDX id where it has one, else by the name the alloy gives it; none where it gives none."""
    if not isinstance(stated, str) or not stated.strip():
        return []
    known = library("cyclonedx.spdx").fixup_id(stated)
    return [{"license": {"id": known} if known else {"name": stated}}]


def _references(alloy: Alloy) -> list[dict[str, str]]:
    rows = [("website", row.get("url")) for _, row in objects(alloy.tree, "/receipt/publications")]
    rows.append(("documentation", alloy.tree.get("methodologyPaperUrl")))
    return [{"type": kind, "url": url} for kind, url in rows if isinstance(url, str) and URL.fullmatch(url)]


def _properties(alloy: Alloy) -> list[dict[str, str]]:
    """What the document is worth: figures are the publisher's claims, under the alloy of this hash."""
    found = {"forgekit:alloyHash": str(alloy.hash), "forgekit:figures": "as the alloy claims them, not re-measured"}
    hashed = alloy.at("/results/integrity/modelHash")
    if isinstance(hashed, str):
        found["forgekit:modelHash"] = hashed
    return [{"name": name, "value": value} for name, value in sorted(found.items())]


def _said(tree: Mapping[str, Any], name: str) -> bool:
    return isinstance(tree.get(name), str) and bool(tree[name])


def _is_list(tree: Mapping[str, Any], name: str) -> bool:
    return isinstance(tree.get(name), list)
