"""How a collector never takes what a writer is about to rest something on.

A writer leases the hashes it means to use, then looks at the journals; a
collector writes down what it condemns, then looks at the leases. Whichever
came second sees the other: the collector spares what is leased, the writer
waits until a journal that names its hashes is gone. Neither needs a lock, so
a bucket is as safe as a disk; on a disk the collectors' lock says at once
whether a journal's writer is still alive.
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from forgekit.errors import AbsentError, StoreError
from forgekit.store.storage import Storage

LEASES, JOURNAL = "leases", "journal"
LEASE_LIFE = 24 * 3600.0  # seconds; the longest a single put may take
JOURNAL_LIFE = 900.0  # seconds; a collector stops at half of it, so what is older has no writer
PATIENCE = 60.0  # seconds a writer waits for a collector it cannot see
Clock = Callable[[], float]


@contextlib.contextmanager
def leased(storage: Storage, hashes: frozenset[str], clock: Clock) -> Iterator[None]:
    """Keep collectors from these hashes until the block ends.

    Args:
        hashes: bare hex.

    Raises:
        StoreError: a collector that condemned one of them does not end.
    """
    key = f"{LEASES}/{uuid.uuid4().hex}.json"
    storage.write(key, _render(hashes, clock()), durable=False)
    try:
        _wait_for_collectors(storage, hashes, clock)
        yield
    finally:
        with contextlib.suppress(StoreError):  # it ends by itself
            storage.delete(key)


def _wait_for_collectors(storage: Storage, hashes: frozenset[str], clock: Clock) -> None:
    waited = time.monotonic()
    while named := [key for key, found, _ in entries(storage, JOURNAL) if not hashes.isdisjoint(found)]:
        with storage.lock() as alone:
            if alone:  # nobody collects now, so whoever wrote them is dead
                for key in named:
                    storage.delete(key)
                return
        for key, _, at in entries(storage, JOURNAL):
            if key in named and clock() - at > JOURNAL_LIFE:
                storage.delete(key)
        if time.monotonic() - waited > PATIENCE:
            raise StoreError(
                "a collection that condemned what is being stored does not end",
                where=f"{storage.url}: {named[0]}",
                hint=f"try again in {JOURNAL_LIFE / 60:.0f} minutes; a dead collection is then set aside",
            )
        time.sleep(0.5)


def condemn(storage: Storage, hashes: frozenset[str], clock: Clock) -> str:
    """Write down what a collector is about to delete; gives the journal's key."""
    key = f"{JOURNAL}/{uuid.uuid4().hex}.json"
    storage.write(key, _render(hashes, clock()))
    return key


def live_leases(storage: Storage, clock: Clock) -> frozenset[str]:
    """Every hash that a writer has leased and may still be using."""
    now = clock()
    return frozenset().union(*(found for _, found, at in entries(storage, LEASES) if now - at < LEASE_LIFE))


def clear(storage: Storage, clock: Clock, *, alone: bool) -> None:
    """Remove the leases and journals of the dead.

    Args:
        alone: whether no other collector can be running; else only journals past their life are removed.
    """
    now = clock()
    for key, _, at in entries(storage, LEASES):
        if now - at >= LEASE_LIFE:
            storage.delete(key)
    for key, _, at in entries(storage, JOURNAL):
        if alone or now - at >= JOURNAL_LIFE:
            storage.delete(key)


def entries(storage: Storage, prefix: str) -> list[tuple[str, frozenset[str], float]]:
    """(key, hashes, when) of every lease or journal; one that cannot be read names nothing and is of no time."""
    found = []
    for key, _ in list(storage.listing(prefix)):
        with contextlib.suppress(AbsentError):
            found.append((key, *_parse(storage.read(key))))
    return found


def _render(hashes: frozenset[str], at: float) -> bytes:
    return json.dumps({"at": at, "hashes": sorted(hashes)}).encode()


def _parse(data: bytes) -> tuple[frozenset[str], float]:
    try:
        tree: Any = json.loads(data)
        return frozenset(map(str, tree["hashes"])), float(tree["at"])
    except (ValueError, KeyError, TypeError):
        return frozenset(), 0.0
