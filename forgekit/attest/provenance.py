"""SLSA v1 provenance of a stage chain: which recipe, run by what, on which inputs, made these files.

It says what the alloy says; nothing in it is checked by being written here.

Source: https://slsa.dev/spec/v1.0/provenance
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import objects
from forgekit.alloy.reading import parse
from forgekit.alloy.schema import OUTCOMES
from forgekit.attest import statement
from forgekit.attest.libraries import library
from forgekit.attest.materials import Material, finished, materials
from forgekit.digest import fault
from forgekit.errors import ProofError

PREDICATE = "https://slsa.dev/provenance/v1"
BUILD_TYPE = "urn:forgekit:stage-chain:1"
UNRECORDED = "urn:forgekit:builder:unrecorded"  # SLSA asks for an id, and the alloy names no runner
CODE = "/results/integrity/code"
CHAIN = ("stage", "cycle", "type", "inputHash", "outputHash", "reproducibility")


def provenance(alloy: Alloy, *, epoch: int | None = None) -> bytes:
    """The provenance statement of an artifact, in RFC 8785 bytes: the same alloy gives the same bytes.

    Args:
        epoch: seconds since 1970 at which the run ended, where the alloy does not say.

    Raises:
        AttestationError: the alloy records no hash of any file.
        MachineError: in-toto's library is not installed here.
        ProofError: in-toto's library does not take it.
    """
    made = statement.about(alloy, PREDICATE, predicate(alloy, epoch=epoch))
    validate(made)
    return made


def predicate(alloy: Alloy, *, epoch: int | None = None) -> dict[str, Any]:
    """The buildDefinition and runDetails of an alloy."""
    recipe = {key: value for key, value in alloy.tree.items() if key not in OUTCOMES}
    stages = [row for _, row in objects(alloy.tree, "/results/stages")]
    details: dict[str, Any] = {"builder": _builder(alloy)}
    ended = finished(alloy, epoch)
    if ended is not None:
        details["metadata"] = {"finishedOn": ended}
    if stages:
        details["byproducts"] = [_link(row) for row in stages]
    return {
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": {"recipe": recipe},
            "resolvedDependencies": [_descriptor(material) for material in materials(alloy)],
        },
        "runDetails": details,
    }


def validate(data: bytes) -> None:
    """Hold a statement's predicate to in-toto's own SLSA provenance message.

    Raises:
        MachineError: in-toto's library is not installed here.
        ProofError: it is not one by that.
    """
    import json

    form = library("google.protobuf.json_format")
    proto = library("in_toto_attestation.predicates.provenance.v1.provenance_pb2")
    held = parse(data, where="the statement").get("predicate")
    try:
        form.Parse(json.dumps(held), proto.Provenance())
    except form.ParseError as error:
        raise ProofError(f"in-toto's library does not take the provenance: {error}") from error


def _descriptor(material: Material) -> dict[str, Any]:
    """A ResourceDescriptor."""
    made: dict[str, Any] = {"name": material.path or material.name}
    if material.purl:
        made["uri"] = material.purl
    if material.digest:
        made["digest"] = dict(material.digest)
    return made | {"annotations": {"role": material.role, **material.notes}}


def _builder(alloy: Alloy) -> dict[str, Any]:
    found = alloy.at(CODE)
    code: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    runner, version = code.get("runner"), code.get("version")
    if not isinstance(runner, str) or not isinstance(version, str):
        return {"id": UNRECORDED}
    kind = "pypi" if runner == "forgekit" else "generic"
    made: dict[str, Any] = {
        "id": f"pkg:{kind}/{quote(runner, safe='')}@{quote(version, safe='')}",
        "version": {runner: version},
    }
    locks = [
        ("code", f"{runner} {version}", code.get("binaryHash")),
        ("environment", code.get("environment") or "environment", code.get("environmentHash")),
        ("source", f"{runner} source", code.get("sourceHash")),
    ]
    made["builderDependencies"] = [
        {"name": str(name), "digest": {"sha256": value.removeprefix("sha256:")}, "annotations": {"role": role}}
        for role, name, value in locks
        if isinstance(value, str) and not fault(value)
    ]
    return made


def _link(row: Mapping[str, Any]) -> dict[str, Any]:
    """One stage as it ran: what it took and what it gave, by modelHash."""
    kept = {key: row[key] for key in CHAIN if isinstance(row.get(key), str | int)}
    return {"name": f"stage {row.get('stage')}, cycle {row.get('cycle')}: {row.get('type')}", "annotations": kept}
