"""The alloy of an artifact that was made from a published one: its stages, one more, and the parent by hash."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from forgekit import alloy
from forgekit.alloy import Alloy
from forgekit.amending import Amendment, alloy_of
from forgekit.amending.weights import model_hash, rows
from forgekit.errors import AbsentError, AlloyError, UnknownNameError
from forgekit.sources import Source


@dataclass(frozen=True, slots=True)
class Kind:
    """One way to derive an artifact.

    Attributes:
        ending: of its weight files.
        stage: what the child's stages end with; quantTypes are read from the files.
    """

    ending: str
    stage: dict[str, Any]


KINDS = {
    "defragged": Kind(".safetensors", {"type": "package", "format": "safetensors-defragged"}),
    "gguf": Kind(".gguf", {"type": "quant", "format": "gguf"}),
    "mlx-4bit": Kind(".safetensors", {"type": "quant", "format": "mlx", "quantTypes": ["4bit"]}),
    "mlx-8bit": Kind(".safetensors", {"type": "quant", "format": "mlx", "quantTypes": ["8bit"]}),
}
KEPT = ("description", "userSummary", "license", "source", "cycles", "limitations", "methodologyPaperUrl", "domains")
INHERITED = ("baselinePerplexity", "finalPerplexity", "improvementPct", "benchmarks")
OWN = ("resultHash", "baseResultHash", "samplesPath", "baseSamplesPath", "samplesHash")


def derive(child: Source, parent: Source, kind: str) -> Amendment:
    """A child's alloy from its parent's.

    Scores are the parent's and are said to be: the child's own samples are not published, so no hash of samples is
    taken over.

    Raises:
        UnknownNameError: no such kind.
        AlloyError: the child has an alloy already.
        AbsentError: the parent has none, or the child no weights of the kind.
    """
    if kind not in KINDS:
        raise UnknownNameError(f"there is no kind {kind!r}", hint=f"known: {', '.join(KINDS)}")
    there = alloy_of(child)
    if there is not None and not _is_derived(there):
        raise AlloyError("the child has an alloy already", where=there.where, hint="correct it with republish")
    origin = alloy_of(parent)
    if origin is None:
        raise AbsentError("the parent has no alloy to inherit from", where=parent.where(""))
    files = rows(child, [KINDS[kind].ending])
    name = child.name.rpartition("/")[2]
    tree = _tree(origin, repo=parent.name, child=child.name, kind=kind, files=files, types=_types(child, files))
    path = f"{name}.alloy.json" if there is None else there.where.rpartition("/")[2]
    return Amendment(
        alloy=path,
        before={} if there is None else {path: there.data},
        after={path: alloy.write(tree)},
        title=f"Add an alloy, derived from {parent.name}@{origin.hash.short}",
        told=(f"Scores are those of {parent.name}: this artifact's own were not measured.",),
    )


def _tree(
    origin: Alloy, *, repo: str, child: str, kind: str, files: list[dict[str, Any]], types: list[str]
) -> dict[str, Any]:
    parent = origin.tree
    stage = copy.deepcopy(KINDS[kind].stage)
    if stage["type"] == "quant" and "quantTypes" not in stage:
        stage["quantTypes"] = types
    tags = parent.get("tags")
    kept = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    results = parent.get("results")
    inherited = {key: copy.deepcopy(results[key]) for key in INHERITED if isinstance(results, dict) and key in results}
    for row in inherited.get("benchmarks", []) if isinstance(inherited.get("benchmarks"), list) else []:
        if isinstance(row, dict):
            row["inheritedFrom"] = repo
            for key in OWN:
                row.pop(key, None)
    return {
        "name": child.rpartition("/")[2],
        "version": parent.get("version", "1.0.0"),
        "author": child.rpartition("/")[0] or str(parent.get("author") or ""),
        "tags": sorted({*kept, "derivative", kind}),
        **{key: copy.deepcopy(parent[key]) for key in KEPT if key in parent},
        "stages": [*copy.deepcopy(parent.get("stages") or []), stage],
        "results": {
            **inherited,
            "integrity": {
                "trustLevel": "self-attested",
                "modelHash": model_hash(files),
                "fileHashes": files,
                "parentAlloyHash": str(origin.hash),
            },
        },
        "derivedFrom": {"repo": repo, "alloyHash": str(origin.hash), "kind": kind},
    }


def _types(child: Source, files: list[dict[str, Any]]) -> list[str]:
    """Quant types as the headers of GGUF files state them."""
    from forgekit.forms import source_forms

    listed = {row["filename"] for row in files if row["filename"].endswith(".gguf")}
    return sorted({form.precision for form in (source_forms(child) if listed else ()) if form.name in listed})


def _is_derived(there: Alloy) -> bool:
    tags = there.at("/tags")
    return isinstance(there.at("/derivedFrom"), dict) and isinstance(tags, list) and "derivative" in tags
