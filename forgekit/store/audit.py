"""Whether everything a chain rests on can still be had, by content.

The rule: the artifact of every stage but the last is retrievable, or the
stage is ephemeral and on no chain that ends in a published artifact. The last
artifact is asked for as well; a chain that ends in nothing proves nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from forgekit.digest import Digest
from forgekit.errors import BrokenChainError, ForgeError
from forgekit.store import refs
from forgekit.store.chain import LONGEST, Link, is_attested, last_of, load, published, recorded
from forgekit.store.objects import Store

RESTORE = "forgekit store restore --from URL"
Loader = Callable[[Digest], Link]


@dataclass(frozen=True, kw_only=True, slots=True)
class Break:
    """One thing a chain rests on and that cannot be had.

    Attributes:
        chain: its name.
        stage: which one, as ``2 (prune)``.
        missing: hash of what cannot be had; None where a record contradicts another.
        reason: a sentence.
        last_seen: where it was, as far as this store or the document knows.
    """

    chain: str
    stage: str
    missing: str | None
    reason: str
    last_seen: str = ""

    def tree(self) -> dict[str, Any]:
        return {
            "chain": self.chain,
            "stage": self.stage,
            "missing": self.missing,
            "reason": self.reason,
            "lastSeen": self.last_seen or None,
        }

    def __str__(self) -> str:
        seen = f"; last seen: {self.last_seen}" if self.last_seen else ""
        return f"{self.chain}: stage {self.stage}: {self.reason}{seen}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Audited:
    """One chain, walked.

    Attributes:
        unproven: what nobody recorded, a sentence each: no break, and no proof.
        published: whether it ends in a published artifact.
    """

    chain: str
    stages: int
    breaks: tuple[Break, ...]
    unproven: tuple[str, ...] = ()
    published: bool = True

    @property
    def sound(self) -> bool:
        return not self.breaks and not self.unproven


def breaks(
    store: Store,
    head: Digest,
    *,
    published: bool = True,
    verify: bool = False,
    held: Mapping[bytes, int] | None = None,
    loader: Loader | None = None,
) -> list[Break]:
    """What keeps a chain from being whole. The publish path asks this; none means it may go on.

    Args:
        head: the last link.
        published: whether it is, or is about to be; an ephemeral stage may be gone only where it is not.
        verify: read every byte, instead of asking for sizes.
        held: sizes by raw hash, as ``Store.held`` gives; asked one by one where None.
        loader: reads a link; one that remembers saves time over many chains.
    """
    return walk(store, head, is_published=published, verify=verify, held=held, loader=loader)[0]


def walk(
    store: Store,
    head: Digest,
    *,
    is_published: bool,
    verify: bool = False,
    held: Mapping[bytes, int] | None = None,
    loader: Loader | None = None,
    seen: set[bytes] | None = None,
) -> tuple[list[Break], int]:
    """``breaks``, and how many links were walked; their raw hashes are added to ``seen``."""
    found: list[Break] = []
    at: Digest | None = head
    child: Link | None = None
    count, attested_later = 0, False
    while at is not None and count < LONGEST:
        if seen is not None:
            seen.add(bytes.fromhex(at.hex))
        try:
            link = loader(at) if loader else load(store, at)
        except ForgeError as error:
            found.append(_unreadable(store, at, child, error))
            break
        if child is not None and (child.parent_artifact, child.index) != (link.artifact, link.index + 1):
            reason = f"it says it was made from {child.parent_artifact}; the stage before left {link.artifact}"
            found.append(Break(chain=child.chain, stage=_stage(child), missing=None, reason=reason))
        if child is None and is_published and link.retention == "ephemeral":
            reason = "a published chain cannot end in an ephemeral stage"
            found.append(Break(chain=link.chain, stage=_stage(link), missing=None, reason=reason))
        may_be_gone = not is_published and _may_be_gone(link, attested_later=attested_later)
        found += _content(store, link, held, may_be_gone=may_be_gone, verify=verify)
        if not is_published and not attested_later:
            attested_later = link.retention != "ephemeral" and is_attested(store, at)
        at, child, count = link.parent, link, count + 1
    return found[::-1], count


def publish(store: Store, name: str, head: Digest) -> None:
    """Name a chain as published. From then on nothing it needs is ever collected.

    Raises:
        BrokenChainError: something it rests on cannot be had; it is not published.
        StoreError: the name is none.
    """
    refs.checked_name(name)
    with store.leased(_needed(store, head)):
        found = breaks(store, head, published=True)
        if found:
            raise BrokenChainError(
                "the chain is broken and is not published:\n" + "\n".join(f"  {one}" for one in found),
                where=f"{store.url}: {name}",
                hint=RESTORE,
            )
        refs.write(store, f"{refs.PUBLISHED}/{name}/{head.hex}", {"publishedAt": store.clock()})


def of_store(store: Store, *, verify: bool = False, held: Mapping[bytes, int] | None = None) -> Iterator[Audited]:
    """Every published chain, then every other chain by its last link.

    Args:
        held: as ``breaks`` takes it; listed here where None.

    Raises:
        StoreError: the refs cannot be listed.
    """
    held = store.held() if held is None else held
    loader = lru_cache(maxsize=64)(lambda digest: load(store, digest))  # chains of one forge share their beginnings
    seen: set[bytes] = set()
    for name, head in published(store):
        found, count = walk(store, head, is_published=True, verify=verify, held=held, loader=loader, seen=seen)
        yield Audited(chain=name, stages=count, breaks=tuple(found))
    for head in _loose_ends(store, seen, loader):
        found, count = walk(store, head, is_published=False, verify=verify, held=held, loader=loader)
        try:
            name = loader(head).chain
        except ForgeError:
            name = head.short
        yield Audited(chain=name, stages=count, breaks=tuple(found), published=False)


def _loose_ends(store: Store, seen: set[bytes], loader: Loader) -> list[Digest]:
    """Links that were not walked, and that no other such link follows."""
    links = sorted(digest for digest in recorded(store) if bytes.fromhex(digest.hex) not in seen)
    parents: set[Digest] = set()
    for digest in links:
        try:
            parent = loader(digest).parent
        except ForgeError:
            continue  # told when its chain is walked
        if parent is not None:
            parents.add(parent)
    return [digest for digest in links if digest not in parents]


def _needed(store: Store, head: Digest) -> set[Digest]:
    """Every hash a chain names, as far as its links can be read."""
    found: set[Digest] = set()
    at: Digest | None = head
    while at is not None and at not in found:
        found.add(at)
        try:
            link = load(store, at)
        except ForgeError:
            break  # told by ``breaks``
        found |= {digest for digest, _, _ in (*link.content, *link.records)}
        at = link.parent
    return found


def _content(
    store: Store, link: Link, held: Mapping[bytes, int] | None, *, may_be_gone: bool, verify: bool
) -> Iterator[Break]:
    named = (*link.records, *(() if may_be_gone else link.content))
    for digest, size, what in named[::-1]:  # the caller turns the list round
        found = store.size(digest) if held is None else held.get(bytes.fromhex(digest.hex))
        reason = ""
        if found is None:
            reason = f"{what} {digest} is missing"
        elif size not in (None, found):
            reason = f"{what} {digest} has {found:,} bytes; {size:,} were recorded"
        elif verify and (fault := store.fault(digest, size)):
            reason = f"{what} {digest} is not what it was: {fault}"
        if reason:
            seen = last_of(store, digest)[0]
            yield Break(chain=link.chain, stage=_stage(link), missing=str(digest), reason=reason, last_seen=seen)


def _may_be_gone(link: Link, *, attested_later: bool) -> bool:
    """Whether its retention let a collector take it, on a chain that is not published."""
    if link.retention == "until-superseded-and-attested":
        return attested_later
    return link.retention == "ephemeral"


def _unreadable(store: Store, digest: Digest, child: Link | None, error: ForgeError) -> Break:
    stage = f"{child.index - 1}" if child is not None else "last"
    chain = child.chain if child is not None else "unknown"
    return Break(
        chain=chain,
        stage=stage,
        missing=str(digest),
        reason=f"its link cannot be read: {error.what}",
        last_seen=last_of(store, digest)[0],
    )


def _stage(link: Link) -> str:
    return f"{link.index} ({link.stage})"
