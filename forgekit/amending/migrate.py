"""Hashes that an older convention left out or took otherwise, taken as they are today."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from forgekit import alloy, digest
from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, objects
from forgekit.amending import Amendment
from forgekit.amending.weights import model_hash, rows
from forgekit.digest import HEX
from forgekit.errors import AlloyError, SourceError
from forgekit.sources import Source

INTEGRITY = "/results/integrity"
SAMPLES = (("samplesPath", "samplesHash"), ("baseSamplesPath", "baseSamplesHash"))
RESULTS = (("samplesPath", "resultHash"), ("baseSamplesPath", "baseResultHash"))


def migrate(source: Source, now: Alloy, path: str) -> Amendment:
    """ModelHash by the manifest convention, fileHashes where there are none, and hashes of samples that lack one.

    A hash that is there and is not what a convention gives is left as it stands: it may be a lie, and a migration
    would make it true.

    Raises:
        AlloyError: it has no results, or a recorded hash is explained by no convention.
        SourceError: a file that must be hashed cannot be had.
    """
    if not isinstance(now.at("/results"), dict):
        raise AlloyError("a recipe without results has no hashes to migrate", where=now.where)
    tree = copy.deepcopy(now.tree)
    told = [*_weights(source, tree, now.where), *_samples(source, tree)]
    data = alloy.write(tree) if tree != now.tree else now.data
    return Amendment(alloy=path, before={path: now.data}, after={path: data}, title="Migrate hashes", told=tuple(told))


def _weights(source: Source, tree: dict[str, Any], where: str) -> Iterator[str]:
    integrity = tree["results"].setdefault("integrity", {"trustLevel": "self-attested"})
    stated = integrity.get("modelHash")
    listed = [row for _, row in objects(tree, f"{INTEGRITY}/fileHashes")]
    files = listed or rows(source)
    wanted = model_hash(files)
    if stated != wanted and stated is not None and not _is_superseded(str(stated), files):
        raise AlloyError(
            "modelHash is neither what these files give now nor what they gave by the older convention",
            where=f"{where}#{INTEGRITY}/modelHash",
            hint="find out which weights it was taken of; a migration would hide it",
        )
    if not listed:
        integrity["fileHashes"] = files
        yield "fileHashes are taken from the listing."
    if stated != wanted:
        integrity["modelHash"] = wanted
        yield "modelHash follows the manifest convention."


def _is_superseded(stated: str, files: list[dict[str, Any]]) -> bool:
    """Whether a hash is of the one file's bytes, which is what the older convention gave for a single file.

    For several files it was of all bytes in a row, which no listing shows: the weights would have to be read.
    """
    body = stated.removeprefix("sha256:")
    if not HEX.issuperset(body.lower()):
        return True  # words that stood in for a hash that nobody took, such as ``sha256:not-computed``
    return len(files) == 1 and body == files[0]["sha256"].removeprefix("sha256:")


def _samples(source: Source, tree: dict[str, Any]) -> Iterator[str]:
    for pointer, row in objects(tree, "/results/benchmarks"):
        yield from _fill(source, row, RESULTS, pointer)
    for pointer, row in objects(tree, "/priorMetricBaselines"):
        inner = find(row, "/evaluation")
        yield from _fill(source, inner if isinstance(inner, dict) else row, SAMPLES, pointer)


def _fill(source: Source, row: dict[str, Any], pairs: tuple[tuple[str, str], ...], pointer: str) -> Iterator[str]:
    for path_key, hash_key in pairs:
        path = row.get(path_key)
        if isinstance(path, str) and row.get(hash_key) is None and path in source.listing():
            try:
                found = source.listing()[path].sha256 or digest.sha256_file(source.fetch(path)).hex
            except SourceError as error:
                yield f"{pointer}: {path} cannot be hashed: {error.what}"
                continue
            row[hash_key] = f"sha256:{found}"
            yield f"{pointer}: {hash_key} is that of {path}."
