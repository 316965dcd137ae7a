"""Refs: the few names in a store that are not hashes. Each is a small JSON file, written whole or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from forgekit.digest import Digest, is_plain_relative
from forgekit.errors import DigestError, StoreError
from forgekit.store.objects import Store

REFS = "refs"
LINKS, PUBLISHED, ATTESTED, RECIPES, PINS = (
    f"{REFS}/{name}" for name in ("links", "published", "attested", "recipes", "pins")
)
NAME = re.compile(r"\w[\w.+-]{0,127}(/\w[\w.+-]{0,127}){0,3}", re.ASCII)


def checked_name(name: str) -> str:
    """A name that can stand in a store: at most four words of letters, digits, ``_ . + -`` between slashes.

    Raises:
        StoreError: it is something else.
    """
    if not NAME.fullmatch(name) or not is_plain_relative(name):
        raise StoreError(f"{name!r} is no name for a store", hint="letters, digits, . _ + - and at most three slashes")
    return name


def write(store: Store, key: str, tree: dict[str, Any]) -> None:
    store.storage.write(f"{key}.json", json.dumps(tree, indent=2, sort_keys=True).encode() + b"\n")


def read(store: Store, key: str) -> dict[str, Any]:
    """A ref by its key.

    Raises:
        AbsentError: there is none.
        StoreError: it is not JSON.
    """
    data = store.storage.read(f"{key}.json")
    try:
        tree = json.loads(data)
    except ValueError as error:
        raise StoreError(f"the ref cannot be read: {error}", where=f"{store.url}/{key}.json") from error
    if not isinstance(tree, dict):
        raise StoreError("the ref is not a JSON object", where=f"{store.url}/{key}.json")
    return tree


def exists(store: Store, key: str) -> bool:
    return store.storage.size(f"{key}.json") is not None


def keys(store: Store, prefix: str) -> Iterator[str]:
    """Keys below a prefix, without their ``.json``."""
    for key, _ in store.storage.listing(prefix):
        if key.endswith(".json"):
            yield key.removesuffix(".json")


def hashes(store: Store, prefix: str) -> Iterator[tuple[str, Digest]]:
    """(what stands between the prefix and the hash, the hash) of refs that are named by one.

    Raises:
        StoreError: a ref below this prefix is not named by a hash.
    """
    for key in keys(store, prefix):
        between, _, last = key.removeprefix(f"{prefix}/").rpartition("/")
        try:
            yield between, Digest(last)
        except DigestError as error:
            raise StoreError(
                "a ref is not named by a hash", where=f"{store.url}/{key}.json", hint="forgekit store fsck"
            ) from error


def pin(store: Store, digest: Digest) -> None:
    """Keep an object until it is unpinned.

    Raises:
        StoreError: the store does not hold it.
    """
    with store.leased({digest}):
        if store.size(digest) is None:
            raise StoreError("the store does not hold it", where=store.where(digest))
        write(store, f"{PINS}/{digest.hex}", {"pinnedAt": store.clock()})


def unpin(store: Store, digest: Digest) -> None:
    """Let a pinned object be collected, unless something else needs it."""
    store.storage.delete(f"{PINS}/{digest.hex}.json")
