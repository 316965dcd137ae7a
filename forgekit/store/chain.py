"""Chains: what each stage made, of what, and how long it is kept.

A link is an object like any other, so the hash of the last one vouches for
every link before it. Its artifact's address is the modelHash of its files.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from forgekit.alloy.schema import Retention
from forgekit.digest import Digest, is_plain_relative, manifest, model_hash, sha256
from forgekit.errors import AbsentError, DigestError, StoreError, TamperedError
from forgekit.store import refs
from forgekit.store.objects import LINK, MANIFEST, RUN, Store

SCHEMA = "forgekit.link/1"
RETENTIONS: tuple[Retention, ...] = get_args(Retention)
LONGEST = 10_000  # links of one chain; a chain cannot loop, but a record can be absurd


@dataclass(frozen=True, slots=True)
class Held:
    """One file of an artifact, by content.

    Attributes:
        name: POSIX path inside the artifact.
        size: bytes.
    """

    name: str
    digest: Digest
    size: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Link:
    """What one stage made.

    Attributes:
        chain: name of the chain.
        index: 0 for what the chain began with.
        stage: its type.
        files: the artifact; its hash is the modelHash of these.
        evidence: what the stage left beside it (keep-maps, adapters, samples, configs).
        parent: the link before; None for the first.
        parent_artifact: hash of the artifact it was made from; None for the first.
        run: object with the record of the run, such as the alloy as it was generated.
        recipe: object with the recipe that ran.
    """

    chain: str
    index: int
    stage: str
    retention: Retention
    files: tuple[Held, ...]
    evidence: tuple[Held, ...] = ()
    parent: Digest | None = None
    parent_artifact: Digest | None = None
    run: Digest | None = None
    recipe: Digest | None = None
    artifact: Digest = field(init=False)

    def __post_init__(self) -> None:
        where = f"{self.chain}, stage {self.index} ({self.stage})"
        refs.checked_name(self.chain)
        if (self.parent is None) != (self.index == 0) or (self.parent is None) != (self.parent_artifact is None):
            raise StoreError(
                "a link names its parent and its parent's artifact, the first of a chain neither", where=where
            )
        if self.parent is None and self.retention == "ephemeral":
            raise StoreError(
                "an ephemeral stage cannot anchor a chain", where=where, hint="keep what the chain begins with"
            )
        names = [held.name for held in (*self.files, *self.evidence)]
        if wrong := [name for name in names if not is_plain_relative(name)]:
            raise StoreError(f"{wrong[0]!r} is no name of a file below a folder", where=where)
        if len(set(names)) != len(names):
            raise StoreError("a file is named twice", where=where)
        object.__setattr__(self, "artifact", model_hash((held.name, held.digest.hex) for held in self.files))

    @property
    def content(self) -> tuple[tuple[Digest, int | None, str], ...]:
        """(hash, size, what it is) of everything the artifact needs to be had again."""
        rows = ((held.digest, held.size, held.name) for held in (*self.files, *self.evidence))
        return ((self.artifact, None, "the manifest"), *rows)

    @property
    def records(self) -> tuple[tuple[Digest, None, str], ...]:
        """The same of what is kept as long as the link itself: small, and the only account of what happened."""
        rows = ((self.run, "the record of the run"), (self.recipe, "the recipe"))
        return tuple((digest, None, what) for digest, what in rows if digest is not None)

    def render(self) -> bytes:
        """The bytes its hash is of."""
        tree = {
            "schema": SCHEMA,
            "chain": self.chain,
            "index": self.index,
            "stage": self.stage,
            "retention": self.retention,
            "artifactHash": str(self.artifact),
            "parentArtifactHash": _text(self.parent_artifact),
            "parentLink": _text(self.parent),
            "run": _text(self.run),
            "recipe": _text(self.recipe),
            "files": [_row(held) for held in self.files],
            "evidence": [_row(held) for held in self.evidence],
        }
        return json.dumps(tree, sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Link:
        """Read a link.

        Raises:
            StoreError: it is not one, or does not agree with itself.
        """
        try:
            tree: Any = json.loads(data)
            if tree["schema"] != SCHEMA or tree["retention"] not in RETENTIONS:
                raise StoreError("it is no link of a schema and retention known here", where=where)
            link = cls(
                chain=str(tree["chain"]),
                index=int(tree["index"]),
                stage=str(tree["stage"]),
                retention=tree["retention"],
                files=tuple(map(_held, tree["files"])),
                evidence=tuple(map(_held, tree["evidence"])),
                parent=_digest(tree["parentLink"]),
                parent_artifact=_digest(tree["parentArtifactHash"]),
                run=_digest(tree["run"]),
                recipe=_digest(tree["recipe"]),
            )
            if str(link.artifact) != tree["artifactHash"]:
                raise StoreError("its artifact's hash is not that of its files", where=where)
        except (ValueError, KeyError, TypeError, AttributeError, DigestError) as error:
            raise StoreError(f"the link cannot be read: {error}", where=where) from error
        return link


def parse_manifest(data: bytes, where: str) -> list[tuple[str, Digest]]:
    """(name, hash) of the files of an artifact.

    Raises:
        StoreError: it is no manifest, or a name leads out of the artifact's folder.
    """
    try:
        rows = [(str(row["filename"]), Digest.parse(row["sha256"])) for row in json.loads(data)]
    except (ValueError, KeyError, TypeError, AttributeError, DigestError) as error:
        raise StoreError(f"it is no manifest of an artifact: {error}", where=where) from error
    if wrong := [name for name, _ in rows if not is_plain_relative(name)]:
        raise StoreError(f"{wrong[0]!r} is no name of a file below a folder", where=where)
    return rows


def append(
    store: Store,
    *,
    chain: str,
    stage: str,
    retention: Retention,
    files: Mapping[str, Path],
    evidence: Mapping[str, Path] | None = None,
    after: Digest | None = None,
    run: bytes | None = None,
    recipe: Digest | None = None,
    link: bool = False,
) -> Digest:
    """Store what a stage made and record it as the next link of a chain.

    Args:
        files: the artifact's files by their names in it: weights, in a chain of models.
        evidence: what else the stage left, likewise.
        after: the link before; None for the first.
        run: record of the run, to be kept as an object.
        link: hard links will do.

    Returns:
        Hash of the link.

    Raises:
        StoreError: a file cannot be stored, or the link is not one that may be recorded; no link is.
    """
    before = None if after is None else load(store, after)
    with contextlib.ExitStack() as holding:  # no collector may come between an object and the link that names it
        if run is not None:
            holding.enter_context(store.leased({sha256(run)}))
            store.place(sha256(run), run, RUN)
        made = Link(
            chain=chain,
            index=0 if before is None else before.index + 1,
            stage=stage,
            retention=retention,
            files=_put_all(store, files, link, holding),
            evidence=_put_all(store, evidence or {}, link, holding),
            parent=after,
            parent_artifact=None if before is None else before.artifact,
            run=None if run is None else sha256(run),
            recipe=recipe,
        )
        return record(store, made)


def record(store: Store, link: Link) -> Digest:
    """Record a link whose content the store holds already.

    Raises:
        StoreError: something it names is missing, or it does not agree with its parent.
    """
    data = link.render()
    digest = sha256(data)
    named = (*link.content, *link.records)
    with store.leased({digest, *(one for one, _, _ in named)}):
        store.place(link.artifact, manifest((held.name, held.digest.hex) for held in link.files), MANIFEST)
        for one, size, what in named:
            found = store.size(one)
            if found is None or size not in (None, found):
                state = "is not in the store" if found is None else f"has {found} bytes there, not {size}"
                raise StoreError(f"{what} {state}", where=store.where(one), hint="put it, then record the link")
        if link.parent is not None:
            _agree(link, load(store, link.parent), store)
        store.place(digest, data, LINK)
        refs.write(store, f"{refs.LINKS}/{digest.hex}", {"chain": link.chain, "recordedAt": store.clock()})
    return digest


def load(store: Store, digest: Digest) -> Link:
    """A recorded link.

    Raises:
        AbsentError: the store does not hold it.
        TamperedError: the bytes under its name are others.
        StoreError: they are no link.
    """
    return Link.parse(store.read(digest), store.where(digest))


def walk(store: Store, head: Digest) -> Iterator[tuple[Digest, Link]]:
    """(hash, link) from a link back to the first of its chain.

    Raises:
        AbsentError: a link is missing.
        TamperedError: a link is something else.
        StoreError: a link cannot be read, or does not agree with the one before it.
    """
    at: Digest | None = head
    child: Link | None = None
    for _ in range(LONGEST):
        if at is None:
            return
        link = load(store, at)
        if child is not None:
            _agree(child, link, store)
        yield at, link
        at, child = link.parent, link
    raise StoreError(f"the chain has more than {LONGEST} links", where=store.where(head))


def recorded(store: Store) -> Iterator[Digest]:
    """Every link that was recorded here."""
    return (digest for _, digest in refs.hashes(store, refs.LINKS))


def published(store: Store) -> Iterator[tuple[str, Digest]]:
    """(name, last link) of every published chain."""
    return refs.hashes(store, refs.PUBLISHED)


def attest(store: Store, link: Digest, evidence: bytes) -> Digest:
    """Note that a link's artifact passed: evidence such as a runtime's record or a signed alloy.

    Raises:
        StoreError: no such link is recorded, or its artifact is not in the store.
    """
    digest = sha256(evidence)
    found = load(store, link)
    with store.leased({digest, *(one for one, _, _ in found.content)}):
        if missing := [what for one, _, what in found.content if store.size(one) is None]:
            raise StoreError(f"{missing[0]} is not in the store, so nothing is attested", where=store.where(link))
        store.place(digest, evidence, "attestation")
        refs.write(store, f"{refs.ATTESTED}/{link.hex}/{digest.hex}", {"attestedAt": store.clock()})
    return digest


def is_attested(store: Store, link: Digest) -> bool:
    return any(True for _ in refs.keys(store, f"{refs.ATTESTED}/{link.hex}"))


def last_of(store: Store, digest: Digest) -> tuple[str, int | None]:
    """What is known of an object that is not here: a sentence of where it was last seen, and its size."""
    about = store.about(digest)
    if about is None:
        return "nothing here says where it ever was", None
    when = datetime.fromtimestamp(about.put_at, UTC).replace(microsecond=0).isoformat()
    return f"{store.where(digest)}, put {when}" + (f" from {about.origin}" if about.origin else ""), about.size


def _put_all(
    store: Store,
    files: Mapping[str, Path],
    link: bool,  # noqa: FBT001 - handed through
    holding: contextlib.ExitStack,
) -> tuple[Held, ...]:
    rows = ((name, store.put_file(path, link=link, holding=holding)) for name, path in sorted(files.items()))
    return tuple(Held(name, put.digest, put.size) for name, put in rows)


def _agree(child: Link, parent: Link, store: Store) -> None:
    assert child.parent is not None
    if child.parent_artifact != parent.artifact or child.index != parent.index + 1:
        raise StoreError(
            f"stage {child.index} ({child.stage}) says it was made from {child.parent_artifact}; "
            f"the link before it, stage {parent.index}, left {parent.artifact}",
            where=store.where(child.parent),
        )


def _row(held: Held) -> dict[str, object]:
    return {"filename": held.name, "sha256": held.digest.hex, "size": held.size}


def _held(row: Any) -> Held:
    return Held(str(row["filename"]), Digest.parse(row["sha256"]), int(row["size"]))


def _text(digest: Digest | None) -> str | None:
    return None if digest is None else str(digest)


def _digest(text: str | None) -> Digest | None:
    return None if text is None else Digest.parse(text)


READ_ERRORS = (AbsentError, TamperedError, StoreError)
"""What reading a record can raise."""
