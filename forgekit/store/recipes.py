"""Recipes as things of their own: a name, a semantic version, a parent. Artifacts are generated, never written.

The alloy that a run generates is kept as an object, and the chain names its
hash. So a number that was changed by hand afterwards is found: the record of
the run says what it was.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cmp_to_key
from typing import Any

from forgekit import alloy as alloys
from forgekit.alloy.pointer import Json, walk
from forgekit.alloy.schema import Recipe
from forgekit.digest import Digest, sha256
from forgekit.errors import AbsentError, ForgeError, StoreError
from forgekit.store import refs
from forgekit.store.chain import Link, load
from forgekit.store.objects import RECIPE, Store

SEMVER = re.compile(
    r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)"
    r"(-(?P<pre>(0|[1-9]\d*|\d*[A-Za-z-][\dA-Za-z-]*)(\.(0|[1-9]\d*|\d*[A-Za-z-][\dA-Za-z-]*))*))?"
    r"(\+(?P<build>[\dA-Za-z-]+(\.[\dA-Za-z-]+)*))?",
    re.ASCII,
)
LATER = (
    "/receipt",
    "/forgedModelIds",
    "/results/integrity/signature",
    "/results/integrity/anchor",
    "/results/integrity/certifications",
    "/results/integrity/attestedAt",
    "/results/integrity/nonce",
    "/results/integrity/audience",
    "/results/integrity/trustLevel",
)
"""What is written after the run, by whoever signs and publishes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRecipe:
    """A recipe at one version.

    Attributes:
        digest: of its bytes.
        parent: ``name@version`` it was made from; None for the first of its line.
    """

    name: str
    version: str
    digest: Digest
    parent: str | None

    @property
    def id(self) -> str:
        return f"{self.name}@{self.version}"


def add(store: Store, data: bytes, *, where: str = "<bytes>") -> StoredRecipe:
    """Store a recipe under the name, version and ``parentRecipeId`` it states. The same bytes again are fine.

    Raises:
        AlloyError: it is no recipe, or holds what only a run can write.
        StoreError: its version is not semantic or was used for other bytes, or its parent is not stored.
    """
    tree = alloys.read(data, where=where).tree
    recipe = Recipe.of(tree, where=where)
    name = refs.checked_name(_slug(recipe.name))
    if not SEMVER.fullmatch(recipe.version):
        raise StoreError(
            f"{recipe.version!r} is not a semantic version", where=f"{where}#/version", hint="MAJOR.MINOR.PATCH, 1.0.0"
        )
    parent = recipe.parent_recipe_id
    if parent is not None:
        _check_parent(store, parent, name, recipe.version, where)
    key = f"{refs.RECIPES}/{name}/{recipe.version}"
    made = StoredRecipe(name=name, version=recipe.version, digest=sha256(data), parent=parent)
    with store.leased({made.digest}):
        if refs.exists(store, key):
            known = find(store, made.id)
            if known.digest != made.digest:
                raise StoreError(
                    f"recipe {made.id} is stored already, with other bytes", where=where, hint="raise its version"
                )
        store.place(made.digest, data, RECIPE, origin=where)
        refs.write(store, key, {"recipe": str(made.digest), "parent": parent})
    return made


def find(store: Store, recipe_id: str) -> StoredRecipe:
    """A recipe by ``name@version``, or the newest of a name.

    Raises:
        AbsentError: none is stored under it.
    """
    name, at, version = recipe_id.partition("@")
    refs.checked_name(name)
    if not at:
        known = versions(store, name)
        if not known:
            raise AbsentError(f"no recipe is stored as {name!r}", where=store.url)
        version = known[-1]
    if not SEMVER.fullmatch(version):
        raise AbsentError(f"no recipe is stored as {recipe_id!r}", where=store.url)
    tree = refs.read(store, f"{refs.RECIPES}/{name}/{version}")
    parent = tree.get("parent")
    return StoredRecipe(
        name=name,
        version=version,
        digest=Digest.parse(str(tree.get("recipe"))),
        parent=parent if isinstance(parent, str) else None,
    )


def versions(store: Store, name: str) -> list[str]:
    """Stored versions of a recipe, oldest first, by the precedence of semver.org 2.0.0."""
    prefix = f"{refs.RECIPES}/{refs.checked_name(name)}"
    found = (key.removeprefix(f"{prefix}/") for key in refs.keys(store, prefix))
    return sorted((version for version in found if SEMVER.fullmatch(version)), key=cmp_to_key(compare))


def lineage(store: Store, recipe_id: str) -> Iterator[StoredRecipe]:
    """A recipe, its parent, and so on to the first.

    Raises:
        AbsentError: one of them is not stored.
        StoreError: they name each other in a circle.
    """
    seen: set[str] = set()
    at: str | None = recipe_id
    while at is not None:
        recipe = find(store, at)
        if recipe.id in seen:
            raise StoreError(f"recipe {recipe.id} descends from itself", where=store.url)
        seen.add(recipe.id)
        yield recipe
        at = recipe.parent


def compare(one: str, other: str) -> int:
    """-1, 0 or 1 as a semantic version comes before another; what stands after ``+`` does not count."""
    a, b = _precedence(one), _precedence(other)
    return (a > b) - (a < b)


def edits(store: Store, head: Digest, data: bytes) -> list[str]:
    """What in an alloy differs from the record of the run that a chain names; a sentence each.

    Signatures, receipts and what else is written at publication are no edits.

    Args:
        head: the last link of the artifact's chain.
        data: the alloy as it is now.

    Raises:
        StoreError: the chain names no record of a run.
        AbsentError, TamperedError: the record cannot be had.
    """
    link = load(store, head)
    if link.run is None:
        raise StoreError(
            "the chain names no record of its run, so nothing says what the run wrote", where=store.where(head)
        )
    before = alloys.read(store.read(link.run), where=store.where(link.run)).tree
    now = alloys.read(data).tree
    return [*_differences(before, now), *_against_chain(link, now)]


def _against_chain(link: Link, tree: dict[str, Any]) -> Iterator[str]:
    """Hashes the alloy states and the chain does not know."""
    chained = {held.name: held.digest.hex for held in (*link.files, *link.evidence)}
    integrity = (tree.get("results") or {}).get("integrity") or {}
    stated = integrity.get("modelHash")
    if stated is not None and stated != str(link.artifact):
        yield f"/results/integrity/modelHash is {stated}; the chain's artifact is {link.artifact}"
    for row in integrity.get("fileHashes") or ():
        name, value = str(row.get("filename")), str(row.get("sha256"))
        if chained.get(name) != value:
            yield f"/results/integrity/fileHashes: {name} is said to hash to {value}; the chain has {chained.get(name)}"


def _differences(before: Json, now: Json) -> Iterator[str]:
    old, new = dict(_leaves(before)), dict(_leaves(now))
    for pointer in sorted(old.keys() | new.keys()):
        if any(pointer == later or pointer.startswith(f"{later}/") for later in LATER):
            continue
        if pointer not in new:
            yield f"{pointer} was {json.dumps(old[pointer])} in the record of the run, and is gone"
        elif pointer not in old:
            yield f"{pointer} is {json.dumps(new[pointer])}, and is not in the record of the run"
        elif old[pointer] != new[pointer] or type(old[pointer]) is not type(new[pointer]):
            yield f"{pointer} is {json.dumps(new[pointer])}; the run wrote {json.dumps(old[pointer])}"


def _leaves(tree: Json) -> Iterator[tuple[str, Any]]:
    return ((pointer, value) for pointer, value in walk(tree) if not isinstance(value, dict | list) or not value)


def _check_parent(store: Store, parent: str, name: str, version: str, where: str) -> None:
    try:
        found = find(store, parent)
    except ForgeError as error:
        raise StoreError(
            f"its parent recipe {parent!r} is not stored", where=f"{where}#/parentRecipeId", hint="store that one first"
        ) from error
    if "@" not in parent:
        raise StoreError(
            f"its parent {parent!r} has no version", where=f"{where}#/parentRecipeId", hint=f"{found.id}, for example"
        )
    if found.name == name and compare(found.version, version) >= 0:
        raise StoreError(f"its parent {parent} is not older than itself, {version}", where=f"{where}#/version")


def _precedence(version: str) -> tuple[Any, ...]:
    found = SEMVER.fullmatch(version)
    if found is None:
        raise StoreError(f"{version!r} is not a semantic version")
    pre = found["pre"]
    words = tuple((0, int(word), "") if word.isdecimal() else (1, 0, word) for word in (pre or "").split(".") if word)
    return (int(found[1]), int(found[2]), int(found[3]), pre is None, words)


def _slug(name: str) -> str:
    return re.sub(r"[^\w.+/-]+", "-", name, flags=re.ASCII).strip("-")
