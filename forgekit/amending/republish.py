"""A correction of what is said about an artifact, without touching what it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from forgekit import alloy
from forgekit.alloy import Alloy
from forgekit.alloy.pointer import objects
from forgekit.amending import Amendment
from forgekit.amending.weights import model_hash
from forgekit.errors import AlloyError

MODEL_HASH = "/results/integrity/modelHash"
MARK = "scoreCorrection"
SCORES = {"score": "previousValue", "baseScore": "previousBaseScore", "metrics": "previousMetrics"}
LOSABLE = ("/results/integrity", "/results/benchmarks", "/results/integrity/fileHashes")


def republish(now: Alloy, then: Alloy, path: str, *, migration: bool = False, reason: str = "") -> Amendment:
    """The published alloy replaced by a corrected one.

    A score that changes is marked in its row: ``scoreCorrection`` holds what stood there before, and why it changed.

    Args:
        migration: whether modelHash may change, because only its convention did.
        reason: why scores change.

    Raises:
        AlloyError: nothing changes; modelHash changes; results vanish; a score changes for no reason given; or it is
            another artifact's alloy.
    """
    if now.at("/name") != then.at("/name"):
        raise AlloyError(
            f"it is the alloy of {then.at('/name')!r}, and {now.at('/name')!r} is published",
            where=f"{then.where}#/name",
        )
    _same_weights(now, then, migration=migration)
    for pointer in LOSABLE:
        if now.at(pointer) and not then.at(pointer):
            raise AlloyError("a correction may not drop what was claimed", where=f"{then.where}#{pointer}")
    tree = copy.deepcopy(then.tree)
    told = tuple(_corrections(now, tree, reason, then.where))
    if now.tree == tree:
        raise AlloyError("nothing changes: the alloy says what the published one says", where=then.where)
    data = then.data if tree == then.tree else alloy.write(tree)
    return Amendment(alloy=path, before={path: now.data}, after={path: data}, title="Correct the alloy", told=told)


def _same_weights(now: Alloy, then: Alloy, *, migration: bool) -> None:
    if now.at(MODEL_HASH) != then.at(MODEL_HASH) and not migration:
        raise AlloyError(
            "modelHash changes, so it would describe other weights",
            where=f"{then.where}#{MODEL_HASH}",
            hint="publish other weights as a version of their own; say --convention-migration if only the way "
            "it is computed changed",
        )
    if now.at(MODEL_HASH) != then.at(MODEL_HASH):
        listed = [row for _, row in objects(then.tree, "/results/integrity/fileHashes")]
        if not listed or then.at(MODEL_HASH) != model_hash(listed):
            raise AlloyError(
                "the new modelHash is not what its files give by today's convention",
                where=f"{then.where}#{MODEL_HASH}",
                hint="forgekit migrate computes it",
            )
    files = [
        {row.get("filename"): row.get("sha256") for _, row in objects(one.tree, "/results/integrity/fileHashes")}
        for one in (now, then)
    ]
    if files[0] and files[0] != files[1]:
        changed = sorted(
            {str(name) for name in files[0].keys() | files[1].keys() if files[0].get(name) != files[1].get(name)}
        )
        raise AlloyError(
            f"the hash of {changed[0]} changes, so it would describe other weights",
            where=f"{then.where}#/results/integrity/fileHashes",
        )


def _corrections(now: Alloy, tree: dict[str, Any], reason: str, where: str) -> Iterator[str]:
    """Marks scores that change; keeps the marks of those that changed before."""
    before = {str(row.get("name")): row for _, row in objects(now.tree, "/results/benchmarks")}
    for pointer, row in objects(tree, "/results/benchmarks"):
        old = before.get(str(row.get("name")))
        if old is None:
            continue
        if all(old.get(key) == row.get(key) for key in SCORES):
            if MARK in old:
                row.setdefault(MARK, old[MARK])
            continue
        if MARK in row and row[MARK] != old.get(MARK):
            continue  # its author has said it already
        if not reason:
            raise AlloyError(
                "the score changes, and nothing says why", where=f"{where}#{pointer}", hint="give --reason"
            )
        row[MARK] = {new: old[key] for key, new in SCORES.items() if key in old} | {"reason": reason}
        yield f"{pointer}: the score changes, and {MARK} says from what."
