"""Collecting what nothing needs: by default only said, and each object with its reason.

What is about to go is written down first. A collector that is killed leaves
either its journal and every object, or its journal and some objects that
nothing needed; the next one, or the next writer, sets the journal aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forgekit.digest import Digest
from forgekit.store.leasing import JOURNAL_LIFE, LEASE_LIFE, clear, condemn, live_leases
from forgekit.store.objects import ABOUT, Store, digest_of, key_of, note_of
from forgekit.store.retention import needed

GRACE = 24 * 3600.0  # seconds an object nothing names is kept: its record may be on its way


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What becomes of one object.

    Attributes:
        references: how many things keep it.
        size: bytes; 0 where only a note is left.
    """

    digest: Digest
    size: int
    keep: bool
    reason: str
    references: int = 0

    def tree(self) -> dict[str, Any]:
        return {
            "object": str(self.digest),
            "size": self.size,
            "keep": self.keep,
            "references": self.references,
            "reason": self.reason,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class Collected:
    """What a collection found and did.

    Attributes:
        decisions: one per object.
        deleted: hashes that are gone; none in a dry run.
        swept: names of unfinished writes that were removed.
        stopped: why it ended early; empty where it did not.
    """

    decisions: tuple[Decision, ...]
    deleted: tuple[Digest, ...] = ()
    swept: int = 0
    stopped: str = ""

    @property
    def freed(self) -> int:
        """Bytes that went."""
        gone = set(self.deleted)
        return sum(one.size for one in self.decisions if one.digest in gone)


def plan(store: Store, *, grace: float = GRACE, started: float | None = None) -> tuple[Decision, ...]:
    """What a collection would do with every object; nothing is changed.

    Args:
        grace: seconds an object is kept after it was put, though nothing names it.
        started: when the collection began; nothing put since is touched.

    Raises:
        StoreError: a record cannot be read, so what it needs is unknown.
    """
    began = store.clock() if started is None else started
    leases = live_leases(store.storage, store.clock)  # before the refs: who wrote one let go of its lease after that
    known = needed(store).by_hash
    sizes = dict(store.objects())
    for key, _ in store.storage.listing(ABOUT):
        noted = digest_of(key, ABOUT)
        if noted is not None:
            sizes.setdefault(noted, 0)
    found = []
    for digest, size in sorted(sizes.items()):
        reasons = known.get(digest)
        if reasons is not None and reasons.keep:
            found.append(Decision(digest=digest, size=size, keep=True, reason=reasons.first, references=reasons.keep))
            continue
        spared = "a write under way names it" if digest.hex in leases else _young(store, digest, began, grace)
        reason = spared or (reasons.drop if reasons is not None else "nothing names it")
        found.append(Decision(digest=digest, size=size, keep=bool(spared), reason=reason))
    return tuple(found)


def collect(store: Store, *, grace: float = GRACE) -> Collected:
    """Delete what nothing needs.

    Safe beside writers and other collectors, and to be killed at any moment.

    Raises:
        StoreError: a record cannot be read, or the store cannot be written; what is deleted by then was not needed.
    """
    began = store.clock()
    with store.storage.lock() as alone:
        clear(store.storage, store.clock, alone=alone)
        first = plan(store, grace=grace, started=began)
        condemned = frozenset(one.digest.hex for one in first if not one.keep)
        deleted: list[Digest] = []
        stopped, decisions = "", first
        if condemned:
            journal = condemn(store.storage, condemned, store.clock)
            written = store.clock()
            decisions = plan(store, grace=grace, started=began)  # what was leased or named meanwhile stays
            for one in decisions:
                if one.keep or one.digest.hex not in condemned:
                    continue
                if store.clock() - written > JOURNAL_LIFE / 2:
                    stopped = "it took too long to be sure that writers still wait for it; run it again"
                    break
                store.storage.delete(key_of(one.digest))
                store.storage.delete(note_of(one.digest))
                deleted.append(one.digest)
            store.storage.delete(journal)
        swept = store.storage.sweep(max(grace, LEASE_LIFE))
    return Collected(decisions=decisions, deleted=tuple(deleted), swept=swept, stopped=stopped)


def _young(store: Store, digest: Digest, began: float, grace: float) -> str:
    about = store.about(digest)
    if about is None:
        return ""  # a note is written before the bytes; without one it was not put by a store
    if about.put_at >= began:
        return "it was put while this collection ran"
    if began - about.put_at < grace:
        return f"nothing names it, and it was put less than {grace / 3600:g} hours ago"
    return ""
