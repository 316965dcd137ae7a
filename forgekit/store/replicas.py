"""Replicas: another store that holds the same objects, and from which a loss is made good."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgekit.digest import Digest
from forgekit.errors import AbsentError, ForgeError, TamperedError
from forgekit.store import refs
from forgekit.store.chain import Link, load
from forgekit.store.objects import BLOB, Store, key_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What was brought back.

    Attributes:
        wanted: objects that the records here name.
        fetched: those that were missing or hurt, and are here again.
        failed: (hash, why) of those that are still missing.
    """

    wanted: int
    fetched: tuple[Digest, ...]
    failed: tuple[tuple[Digest, str], ...]

    def tree(self) -> dict[str, Any]:
        return {
            "wanted": self.wanted,
            "fetched": [str(digest) for digest in self.fetched],
            "failed": [{"object": str(digest), "reason": why} for digest, why in self.failed],
        }


def restore(
    store: Store,
    replica: Store,
    *,
    verify: bool = False,
    with_refs: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Restored:
    """Fetch from a replica what the records of a store name and it does not hold, each object hashed on the way.

    Args:
        verify: read what is here too, and fetch what is hurt; else only what is missing or has another size.
        with_refs: take over the replica's records first, as for a store that was lost whole.

    Raises:
        StoreError: a store cannot be used.
    """
    if with_refs:
        _copy_refs(store, replica)
    fetched: list[Digest] = []
    failed: list[tuple[Digest, str]] = []
    seen: set[Digest] = set()
    waiting = list(_roots(store))
    while waiting:
        digest, size, is_link = waiting.pop()
        if digest in seen:
            continue
        seen.add(digest)
        try:
            if _bring(store, replica, digest, size, verify=verify or is_link):
                fetched.append(digest)
        except ForgeError as error:
            failed.append((digest, error.what))
            continue
        if is_link:
            waiting += _named(load(store, digest))
        if progress is not None:
            progress(len(seen), len(seen) + len(waiting))
    return Restored(wanted=len(seen), fetched=tuple(fetched), failed=tuple(failed))


def _roots(store: Store) -> list[tuple[Digest, int | None, bool]]:
    found: list[tuple[Digest, int | None, bool]] = []
    for prefix, is_link in ((refs.LINKS, True), (refs.PUBLISHED, True), (refs.ATTESTED, False), (refs.PINS, False)):
        found += [(digest, None, is_link) for _, digest in refs.hashes(store, prefix)]
    for key in refs.keys(store, refs.RECIPES):
        found.append((Digest.parse(str(refs.read(store, key).get("recipe"))), None, False))
    return found


def _named(link: Link) -> list[tuple[Digest, int | None, bool]]:
    found = [(digest, size, False) for digest, size, _ in (*link.content, *link.records)]
    return found if link.parent is None else [*found, (link.parent, None, True)]


def _bring(store: Store, replica: Store, digest: Digest, size: int | None, *, verify: bool) -> bool:
    """Whether an object had to be fetched.

    Raises:
        ForgeError: the replica does not hold it whole either.
    """
    here = store.size(digest)
    if here is not None and size in (None, here) and not (verify and store.fault(digest, size)):
        return False
    with tempfile.TemporaryDirectory(prefix="forgekit-restore-") as folder:
        path = Path(folder, "object")
        try:
            replica.get(digest, path)
        except AbsentError as error:
            raise AbsentError("the replica does not hold it either", where=replica.where(digest)) from error
        except TamperedError as error:
            raise TamperedError("the replica's copy is hurt", where=replica.where(digest)) from error
        if here is not None:
            store.storage.delete(key_of(digest))  # it is not what its name says, and nothing can be made of it
        about = replica.about(digest)
        store.put_file(path, about.type if about else BLOB, expected=digest, origin=replica.where(digest))
    return True


def _copy_refs(store: Store, replica: Store) -> None:
    for key in refs.keys(replica, refs.REFS):
        if not refs.exists(store, key):
            refs.write(store, key, refs.read(replica, key))
