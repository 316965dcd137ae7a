"""Published alloys, audited as chains: what each records of its stages, held against stores and catalogs.

What nobody recorded is unproven, never a break. A break is a recorded hash
that a record promised to keep, or that a document names as its parent, and
that nothing at hand holds.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import objects
from forgekit.digest import Digest, fault, model_hash
from forgekit.errors import ForgeError
from forgekit.store.audit import Audited, Break
from forgekit.store.chain import RETENTIONS, last_of, parse_manifest
from forgekit.store.objects import Store

OWN_HASH = "/results/integrity/modelHash"
PARENT_HASHES = ("/results/integrity/parentAlloyHash", "/derivedFrom/alloyHash")


@dataclass(frozen=True, slots=True)
class Listed:
    """A published artifact.

    Attributes:
        hashes: bare hex of the files that whoever hosts it lists.
        where: it is, for messages.
    """

    name: str
    alloy: Alloy
    hashes: Collection[str] = ()
    where: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """One stage as a document records it; what it leaves out is None."""

    stage: str
    artifact: str | None
    parent: str | None
    retention: str | None


@dataclass
class Shelf:
    """What is at hand to hold alloys against.

    Attributes:
        store, held: a store and its sizes by raw hash; None where there is none.
        knows: whether an alloy of this hash is at hand; asked only where one is named as a parent.
        verify: read every byte of what a store holds.
    """

    store: Store | None = None
    held: Mapping[bytes, int] = field(default_factory=dict)
    knows: Callable[[Digest], bool] = lambda _digest: False
    verify: bool = False

    def artifact_fault(self, digest: Digest) -> str:
        """What keeps an artifact from being had by its modelHash; empty where nothing does."""
        if self.store is None or bytes.fromhex(digest.hex) not in self.held:
            return "is missing"
        try:
            files = parse_manifest(self.store.read(digest), self.store.where(digest))
        except ForgeError as error:
            return f"is hurt: {error.what}"
        for name, one in files:
            if bytes.fromhex(one.hex) not in self.held:
                return f"is missing its file {name}, {one}"
            if self.verify and (wrong := self.store.fault(one)):
                return f"is hurt: {name}, {one}: {wrong}"
        return ""


def audit(listed: Iterable[Listed], shelf: Shelf) -> Iterator[Audited]:
    """Each artifact's chain. No bytes are read but the alloys, unless the shelf says so."""
    for one in listed:
        yield _audit(one, shelf)


def rows_of(alloy: Alloy) -> list[Row]:
    """The stages as they ran, else as the recipe states them."""
    ran = [_row(row) for _, row in objects(alloy.tree, "/results/stages")]
    return ran or [_row(row) for _, row in objects(alloy.tree, "/stages")]


def _audit(one: Listed, shelf: Shelf) -> Audited:
    rows = rows_of(one.alloy)
    told = _Told(one.name, [], [])
    if not any(row.artifact for row in rows):
        told.unproven.append("no stage records the hash of what it made")
    else:
        _stages(rows, one, shelf, told)
    _final(one, shelf, told)
    _parent(one, shelf, told)
    return Audited(chain=one.name, stages=len(rows), breaks=tuple(told.breaks), unproven=tuple(told.unproven))


@dataclass(frozen=True, slots=True)
class _Told:
    chain: str
    breaks: list[Break]
    unproven: list[str]

    def broken(self, stage: str, missing: str | None, reason: str, seen: str = "") -> None:
        self.breaks.append(Break(chain=self.chain, stage=stage, missing=missing, reason=reason, last_seen=seen))


def _stages(rows: list[Row], one: Listed, shelf: Shelf, told: _Told) -> None:
    before: str | None = None
    asked = {one.alloy.at(OWN_HASH)}  # asked for by itself
    for index, row in enumerate(rows):
        at = f"{index} ({row.stage})"
        last = index == len(rows) - 1
        for value, what in ((row.artifact, "artifact"), (row.parent, "parent")):
            if value is not None and (wrong := fault(value)):
                told.broken(at, value, f"the hash of its {what} is none: {wrong}", one.where)
        if index and before is not None and row.parent is not None and row.parent != before:
            told.broken(at, row.parent, f"it was made from {row.parent}; the stage before left {before}", one.where)
        if row.artifact is None:
            told.unproven.append(f"stage {at} does not record the hash of what it made")
        elif not last and not fault(row.artifact) and row.artifact not in asked:
            asked.add(row.artifact)
            _kept(row, at, one, shelf, told)
        elif last and row.retention == "ephemeral":
            told.broken(at, row.artifact, "a published chain cannot end in an ephemeral stage", one.where)
        before = row.artifact or before


def _kept(row: Row, at: str, one: Listed, shelf: Shelf, told: _Told) -> None:
    assert row.artifact is not None
    digest = Digest.parse(row.artifact)
    wrong = shelf.artifact_fault(digest)
    if not wrong:
        return
    if row.retention is None and wrong == "is missing":
        told.unproven.append(
            f"stage {at} records {digest} and no retention, and it is not here: nobody promised to keep it"
        )
        return
    promised = f" and on a chain that is published: {row.retention}" if row.retention == "ephemeral" else ""
    seen = last_of(shelf.store, digest)[0] if shelf.store is not None else ""
    if not seen or seen.startswith("nothing"):
        seen = f"recorded in {one.where}"
    told.broken(at, str(digest), f"its artifact {digest} {wrong}{promised}", seen)


def _final(one: Listed, shelf: Shelf, told: _Told) -> None:
    stated = one.alloy.at(OWN_HASH)
    if not isinstance(stated, str):
        told.unproven.append("the artifact's own hash is not recorded")
        return
    if wrong := fault(stated):
        told.broken("last", stated, f"the artifact's own hash is none: {wrong}", one.where)
        return
    wrong = shelf.artifact_fault(Digest.parse(stated))
    if wrong and wrong != "is missing":
        told.broken("last", stated, f"the artifact {wrong}", one.where)
    elif wrong and not _hosted(one, stated):
        told.unproven.append(f"nothing at hand holds the artifact {stated}: no store, and no pin of its host's listing")


def _hosted(one: Listed, stated: str) -> bool:
    """Whether the host lists every file whose hashes make up the artifact's."""
    rows = {
        str(row.get("filename")): str(row.get("sha256"))
        for _, row in objects(one.alloy.tree, "/results/integrity/fileHashes")
    }
    if not rows or not set(rows.values()) <= set(one.hashes) or any(map(fault, rows.values())):
        return False
    return str(model_hash(rows.items())) == stated


def _parent(one: Listed, shelf: Shelf, told: _Told) -> None:
    if not isinstance(one.alloy.at("/derivedFrom"), dict) and one.alloy.at(PARENT_HASHES[0], "absent") == "absent":
        return
    repo = one.alloy.at("/derivedFrom/repo")
    stated = next((value for value in map(one.alloy.at, PARENT_HASHES) if value is not None), None)
    if stated is None:
        told.unproven.append(f"its parent, {repo or 'which is not named'}, is not recorded by hash")
        return
    if not isinstance(stated, str) or fault(stated):
        told.broken("parent", str(stated), f"the hash of its parent is none: {fault(str(stated))}", one.where)
        return
    digest = Digest.parse(stated)
    if bytes.fromhex(digest.hex) not in shelf.held and not shelf.knows(digest):
        told.broken("parent", str(digest), f"its parent's alloy {digest} is missing", f"{repo}, says {one.where}")


def _row(row: Mapping[str, Any]) -> Row:
    retention = row.get("retention")
    return Row(
        stage=str(row.get("type")),
        artifact=_text(row, "artifactHash", "outputHash"),
        parent=_text(row, "parentArtifactHash", "inputHash"),
        retention=retention if retention in RETENTIONS else None,
    )


def _text(row: Mapping[str, Any], *keys: str) -> str | None:
    found = next((row[key] for key in keys if row.get(key) is not None), None)
    return None if found is None else str(found)
