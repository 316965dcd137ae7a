"""What must stay, and why. Counted afresh each time: a counter that is stored is wrong after the first crash."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from forgekit.digest import Digest
from forgekit.errors import ForgeError, StoreError
from forgekit.store import refs
from forgekit.store.chain import Link, load, published, recorded
from forgekit.store.objects import Store


@dataclass(slots=True)
class Reasons:
    """References to one object.

    Attributes:
        keep: those that keep it, counted; ``first`` is one of them in words.
        drop: the first that named it and does not keep it.
    """

    keep: int = 0
    first: str = ""
    drop: str = ""


@dataclass(frozen=True)
class Needed:
    """References to every object that a record names."""

    by_hash: dict[Digest, Reasons] = field(default_factory=lambda: defaultdict(Reasons))

    def keep(self, digests: Iterable[Digest], why: str) -> None:
        for digest in digests:
            reasons = self.by_hash[digest]
            reasons.keep += 1
            reasons.first = reasons.first or why

    def drop(self, digests: Iterable[Digest], why: str) -> None:
        for digest in digests:
            reasons = self.by_hash[digest]
            reasons.drop = reasons.drop or why


def needed(store: Store) -> Needed:
    """Walk every ref, and say of each object that is named whether something keeps it.

    Raises:
        StoreError: a record cannot be read, so what it needs is unknown; nothing may be collected then.
    """
    found = Needed()
    recent = list(published(store))  # once: there may be more the next time
    links = _links(store, [head for _, head in recent])
    followers: dict[Digest, list[Digest]] = defaultdict(list)
    for digest, link in links.items():
        if link.parent is not None:
            followers[link.parent].append(digest)
    for name, head in recent:
        for digest, link in _back(links, head):
            found.keep(_all(digest, link), f"published chain {name}, stage {link.index} ({link.stage})")
    attested = {Digest(link) for link, _ in refs.hashes(store, refs.ATTESTED)}
    for digest, link in links.items():
        at = f"{link.chain}, stage {link.index} ({link.stage})"
        found.keep([digest, *(one for one, _, _ in link.records)], f"record of {at}")
        content = [one for one, _, _ in link.content]
        if link.retention == "permanent":
            found.keep(content, f"permanent: {at}")
        elif link.retention == "ephemeral":
            found.drop(content, f"ephemeral, and on no published chain: {at}")
        elif by := _superseded(store, digest, links, followers, attested):
            found.drop(content, f"superseded by stage {by.index} ({by.stage}), which is attested: {at}")
        else:
            found.keep(content, f"not yet superseded by a stage that is attested: {at}")
    _keep_named(store, found)
    return found


def _keep_named(store: Store, found: Needed) -> None:
    for _, evidence in refs.hashes(store, refs.ATTESTED):
        found.keep([evidence], "evidence of an attestation")
    for _, pinned in refs.hashes(store, refs.PINS):
        found.keep([pinned], "pinned")
    for key in refs.keys(store, refs.RECIPES):
        recipe = refs.read(store, key).get("recipe")
        found.keep([Digest.parse(str(recipe))], f"recipe {key.removeprefix(f'{refs.RECIPES}/')}")


def _links(store: Store, heads: Iterable[Digest]) -> dict[Digest, Link]:
    """Every link that was recorded, those given, and every link before them."""
    found: dict[Digest, Link] = {}
    waiting = [*recorded(store), *heads]
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        try:
            found[digest] = link = load(store, digest)
        except ForgeError as error:
            raise StoreError(
                f"a link cannot be read, so what it needs is unknown and nothing is collected: {error.what}",
                where=store.where(digest),
                hint="forgekit store restore --from URL",
            ) from error
        if link.parent is not None:
            waiting.append(link.parent)
    return found


def _back(links: Mapping[Digest, Link], head: Digest) -> Iterable[tuple[Digest, Link]]:
    at: Digest | None = head
    while at is not None:
        yield at, links[at]
        at = links[at].parent


def _all(digest: Digest, link: Link) -> list[Digest]:
    return [digest, *(one for one, _, _ in (*link.content, *link.records))]


def _superseded(
    store: Store,
    digest: Digest,
    links: Mapping[Digest, Link],
    followers: Mapping[Digest, list[Digest]],
    attested: set[Digest],
) -> Link | None:
    """A later link that is attested, is itself kept, and can be had; None where some branch has none."""
    found: Link | None = None
    waiting = list(followers.get(digest, ()))
    while waiting:
        later = waiting.pop()
        link = links[later]
        if later in attested and link.retention != "ephemeral" and _here(store, link):
            found = link
        elif later in followers:
            waiting += followers[later]
        else:
            return None  # this branch ends without one
    return found


def _here(store: Store, link: Link) -> bool:
    sizes = ((store.size(digest), size) for digest, size, _ in link.content)
    return all(found is not None and size in (None, found) for found, size in sizes)
