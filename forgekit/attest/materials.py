"""What an alloy says went in and came out: the rows that provenance and bills of materials are made of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import join, objects, rows_by
from forgekit.attest.registry import moment
from forgekit.digest import fault, is_plain_relative
from forgekit.errors import AttestationError

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
UNPINNED = "the alloy records no hash of it"


@dataclass(frozen=True, kw_only=True, slots=True)
class Material:
    """Something that went into an artifact.

    Attributes:
        role: base-model, parent, corpus or samples.
        name: as the alloy calls it.
        path: file in the artifact; None where it is not one.
        digest: hex by algorithm, as in in-toto's DigestSet; empty where nothing was pinned.
        notes: what else the alloy says of it, as text.
    """

    role: str
    name: str
    path: str | None
    digest: Mapping[str, str]
    notes: Mapping[str, str]

    @property
    def purl(self) -> str | None:
        """Package URL of a model on the Hub; None for anything else."""
        if self.role not in ("base-model", "parent") or not REPOSITORY.fullmatch(self.name):
            return None
        commit = self.digest.get("gitCommit")
        return f"pkg:huggingface/{quote(self.name)}" + (f"@{commit}" if commit else "")


def files(alloy: Alloy) -> dict[str, str]:
    """SHA-256 in hex of every file the alloy records one of, by path.

    Raises:
        AttestationError: it records none, one that is no hash, two for one file, or a path that leaves the artifact.
    """
    lists = ["/results/integrity/fileHashes", "/results/integrity/companionHashes"]
    lists += [join(pointer, "files") for pointer, _ in objects(alloy.tree, "/results/stages")]
    found: dict[str, str] = {}
    for pointer, row in (pair for at in lists for pair in objects(alloy.tree, at)):
        name, value = row.get("filename"), row.get("sha256")
        where = f"{alloy.where}#{pointer}"
        if not isinstance(name, str) or not is_plain_relative(name):
            raise AttestationError(f"{name!r} is no path inside the artifact", where=where)
        if not isinstance(value, str) or fault(value):
            raise AttestationError(f"{name} has no SHA-256", where=where, hint="record one for every file")
        if found.setdefault(name, value.removeprefix("sha256:")) != value.removeprefix("sha256:"):
            raise AttestationError(f"{name} is recorded with two hashes", where=where)
    if not found:
        raise AttestationError(
            "the alloy records no hash of any file, so there is nothing to make a statement about",
            where=f"{alloy.where}#/results/integrity/fileHashes",
            hint="forge it, or record the hashes",
        )
    return dict(sorted(found.items()))


def alloy_name(alloy: Alloy) -> str:
    """The alloy's own file name."""
    return alloy.where.replace("\\", "/").rsplit("/", 1)[-1]


def materials(alloy: Alloy) -> list[Material]:
    """Everything that went in: the base, the published artifact it was derived from, corpora, samples."""
    return [*_models(alloy), *_corpora(alloy), *_samples(alloy)]


def finished(alloy: Alloy, epoch: int | None) -> str | None:
    """When the run ended, as RFC 3339 in UTC: what the alloy says, else ``epoch``; None where neither does."""
    stated = moment(alloy.at("/results/completedAt"))
    if stated is None and epoch is not None:
        stated = datetime.fromtimestamp(epoch, UTC)
    return None if stated is None else stamp(stated)


def stamp(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _models(alloy: Alloy) -> Iterator[Material]:
    source = alloy.at("/source")
    row = source if isinstance(source, Mapping) else {}
    if isinstance(row.get("baseModel"), str):
        revision, hashed = row.get("revision"), alloy.at("/results/integrity/baseModelHash")
        pinned = isinstance(revision, str) and COMMIT.fullmatch(revision)
        notes = {"revision": revision, "modelHash": hashed, "architecture": row.get("architecture")}
        digest = {"gitCommit": str(revision)} if pinned else {}
        yield _made("base-model", row["baseModel"], None, digest, notes, pinned=bool(pinned or hashed))
    derived = alloy.at("/derivedFrom")
    if isinstance(derived, Mapping) and isinstance(derived.get("repo"), str):
        yield _made("parent", derived["repo"], None, _sha256(derived.get("alloyHash")), {"kind": derived.get("kind")})


def _corpora(alloy: Alloy) -> Iterator[Material]:
    rooted = rows_by(alloy.tree, "/calibrationCorpora", "id")
    seen: set[str] = set()
    for _, row in objects(alloy.tree, "/calibrationCorpora"):
        name = str(row.get("id") or row.get("name"))
        seen.add(name)
        yield _made("corpus", name, row.get("path"), _sha256(row.get("sha256")), {"use": "calibration"})
    for _, row in objects(alloy.tree, "/results/integrity/datasets"):
        name = str(row.get("name"))
        if name not in seen:
            seen.add(name)
            notes = {"version": row.get("version"), "source": row.get("source")}
            yield _made("corpus", name, row.get("path"), _sha256(row.get("hash")), notes)
    for _, stage in objects(alloy.tree, "/stages"):
        for key in ("calibrationCorpus", "calibrationDataset", "dataset", "trainingDataset", "profileDataset"):
            used = stage.get(key)
            if isinstance(used, str) and used not in seen and used not in rooted:
                seen.add(used)
                digest = _sha256(stage.get(f"{key}Sha256"))
                yield _made("corpus", used, stage.get(f"{key}File"), digest, {"use": stage.get("type")})


def _samples(alloy: Alloy) -> Iterator[Material]:
    for _, row in objects(alloy.tree, "/results/benchmarks"):
        for path, hashed, whose in (
            ("samplesPath", "resultHash", "this model"),
            ("baseSamplesPath", "baseResultHash", "its base"),
        ):
            if isinstance(row.get(path), str):
                notes = {"benchmark": row.get("name"), "writtenBy": whose}
                yield _made("samples", row[path], row[path], _sha256(row.get(hashed)), notes)


def _made(
    role: str, name: str, path: Any, digest: Mapping[str, str], notes: Mapping[str, Any], *, pinned: bool | None = None
) -> Material:
    kept = {key: value for key, value in notes.items() if isinstance(value, str) and value}
    if not (digest if pinned is None else pinned):
        kept["unpinned"] = UNPINNED
    return Material(role=role, name=name, path=path if isinstance(path, str) else None, digest=digest, notes=kept)


def _sha256(value: Any) -> dict[str, str]:
    return {"sha256": value.removeprefix("sha256:")} if isinstance(value, str) and not fault(value) else {}
