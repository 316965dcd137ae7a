"""fsck: every byte hashed, every name and record looked at. Repairs nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from forgekit.digest import Digest, available_processors
from forgekit.errors import ForgeError
from forgekit.store import refs
from forgekit.store.chain import load
from forgekit.store.objects import ABOUT, OBJECTS, Store, digest_of

AT_ONCE = 64  # objects given to the hashing threads before the first is asked for


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """One thing that is not as it should be.

    Attributes:
        kind: ``corrupt``, ``missing``, ``misnamed``, ``ref`` or ``note``.
        where: its key in the store.
    """

    kind: str
    where: str
    reason: str

    def tree(self) -> dict[str, Any]:
        return {"kind": self.kind, "where": self.where, "reason": self.reason}


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """What fsck saw."""

    objects: int
    bytes: int
    faults: tuple[Fault, ...]


def fsck(store: Store, *, progress: Callable[[int, int], None] | None = None) -> Checked:
    """Hash every object, and read every ref.

    Raises:
        StoreError: the store cannot be listed.
    """
    faults: list[Fault] = []
    rows: list[tuple[str, Digest, int]] = []
    for key, size in store.storage.listing(OBJECTS):
        digest = digest_of(key, OBJECTS)
        if digest is None:
            faults.append(Fault(kind="misnamed", where=key, reason="it is not named by a hash in its place"))
        elif size < 0:
            faults.append(Fault(kind="misnamed", where=key, reason="it is not a plain file"))
        else:
            rows.append((key, digest, size))
    for done, (key, reason) in enumerate(_hashed(store, rows), 1):
        if reason:
            faults.append(Fault(kind="corrupt", where=key, reason=reason))
        if progress is not None:
            progress(done, len(rows))
    faults += _notes(store)
    faults += _refs(store)
    return Checked(objects=len(rows), bytes=sum(size for _, _, size in rows), faults=tuple(faults))


def _hashed(store: Store, rows: list[tuple[str, Digest, int]]) -> Iterator[tuple[str, str]]:
    """(key, what is wrong) of each object, some hashed side by side."""

    def look(row: tuple[str, Digest, int]) -> tuple[str, str]:
        key, digest, _ = row
        about = store.about(digest)
        return key, store.fault(digest, about.size if about else None)

    waiting = iter(rows)
    with ThreadPoolExecutor(available_processors()) as pool:
        while batch := list(islice(waiting, AT_ONCE)):
            yield from pool.map(look, batch)


def _notes(store: Store) -> Iterator[Fault]:
    for key, _ in store.storage.listing(ABOUT):
        digest = digest_of(key, ABOUT)
        if digest is None:
            yield Fault(kind="note", where=key, reason="it is not named by a hash in its place")
        elif store.about(digest) is None:
            yield Fault(kind="note", where=key, reason="it cannot be read")


def _refs(store: Store) -> Iterator[Fault]:
    for prefix, read in ((refs.LINKS, True), (refs.PUBLISHED, True), (refs.ATTESTED, False), (refs.PINS, False)):
        for key in refs.keys(store, prefix):
            reason = _ref_fault(store, key, is_link=read)
            if reason:
                yield Fault(kind="ref", where=f"{key}.json", reason=reason)
    for key in refs.keys(store, refs.RECIPES):
        try:
            digest = Digest.parse(str(refs.read(store, key).get("recipe")))
        except ForgeError as error:
            yield Fault(kind="ref", where=f"{key}.json", reason=error.what)
            continue
        if store.size(digest) is None:
            yield Fault(kind="missing", where=f"{key}.json", reason=f"the recipe {digest} is missing")


def _ref_fault(store: Store, key: str, *, is_link: bool) -> str:
    try:
        refs.read(store, key)
        digest = Digest(key.rsplit("/", 1)[1])
        if not is_link:
            return "" if store.size(digest) is not None else f"what it names, {digest}, is missing"
        named = [(digest, size, what) for digest, size, what in load(store, digest).records]
    except ForgeError as error:
        return error.what
    gone = [f"{what}, {one}, is missing" for one, _, what in named if store.size(one) is None]
    return "; ".join(gone)
