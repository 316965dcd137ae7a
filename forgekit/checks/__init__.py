"""Checks: what an alloy claims, and how each kind of claim is settled.

One file per kind of claim, with two functions: ``claims`` finds them in an
alloy without touching anything else, ``settle`` looks at the evidence and
returns a finding. ``settle`` never raises to say no, and says "unchecked",
with the reason, whenever this machine cannot tell.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from forgekit import digest
from forgekit.alloy import Alloy
from forgekit.alloy.pointer import objects
from forgekit.attest.registry import KeyRegistry
from forgekit.benchmarks import Benchmark, ScoreSettings, Scoring
from forgekit.digest import Digest, Progress
from forgekit.errors import AbsentError, SourceError, TamperedError, UnreachableError
from forgekit.findings import Claim, Finding, Tier, Verdict
from forgekit.forge.reforge import Reforged
from forgekit.forms import Form, source_forms
from forgekit.probing.bench import Bench
from forgekit.probing.cells import Probed
from forgekit.registry import Registry
from forgekit.runtimes import Runtime
from forgekit.sources import Source
from forgekit.sources.catalog import Catalog

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """How far a verification goes.

    Attributes:
        offline: use no network.
        catalogs: where parents of derived artifacts are looked for.
        oracle: the reading of a benchmark's rules that counts; any of the benchmark's where None.
        dataset_files: data sets by benchmark name, where they are not to be looked for.
        score: passed on to scorers, but for the data set.
        hashing: called with bytes hashed.
        reforge_limit: bytes of a base up to which recipes are run again; larger ones are left to who asks for it.
        reforge_seconds: how long that may take; a recipe is another's text, and can ask for years.
        keys: whose key is whose; signatures are unchecked without.
        audience: origin that asks; attestations for others do not count.
        now: the time at which signatures are judged; the machine's where None.
        bench: engines that stay open from one artifact to the next; without one, each probe starts its own.
    """

    offline: bool = False
    catalogs: Sequence[Catalog] = ()
    oracle: str | None = None
    dataset_files: Mapping[str, Path] = field(default_factory=dict)
    score: ScoreSettings = field(default_factory=ScoreSettings)
    hashing: Progress | None = None
    reforge_limit: int = 256 << 20
    reforge_seconds: float = 600.0
    bench: Bench | None = None
    keys: KeyRegistry | None = None
    audience: str | None = None
    now: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Access to what is behind one artifact's claims. Nothing is fetched, hashed or scored twice."""

    name: str
    alloy: Alloy
    source: Source
    settings: Settings = field(default_factory=Settings)
    _memo: dict[Any, Any] = field(default_factory=dict, repr=False)
    _lock: threading.RLock = field(default_factory=threading.RLock, repr=False)

    def file(self, path: str) -> Path:
        """A local file with the bytes of ``path``.

        Raises:
            AbsentError: the publisher left it out.
            UnreachableError: it is not here and cannot be had.
            SourceError: the path leaves the artifact.
        """
        return self._once(("file", path), lambda: self.source.fetch(path))

    def sha256(self, path: str) -> Digest:
        """SHA-256 of a local file; the first call hashes every local file the alloy lists, side by side."""
        hashes = self._once("hashes", self._hash_listed)
        return hashes.get(path) or self._once(("sha256", path), lambda: digest.sha256_file(self.file(path)))

    def score(self, benchmark: Benchmark, data: bytes) -> Scoring:
        """A samples file, scored."""
        key = ("score", benchmark.name, digest.sha256(data))
        settings = self.settings.score
        dataset = self.settings.dataset_files.get(benchmark.name, settings.dataset_file)
        return self._once(
            key, lambda: benchmark.score(data, replace(settings, dataset_file=dataset, offline=self.settings.offline))
        )

    def reforged(self) -> Rerun:
        """The recipe run again, and how it compares; once, however many claims ask.

        Raises:
            ForgeError: it cannot be run here; the message says why.
        """
        return self._once("reforged", lambda: rerun(self))

    def forms(self) -> list[Form]:
        """The forms the artifact comes in, by its listing.

        Raises:
            SourceError: it cannot be listed.
        """
        return self._once("forms", lambda: source_forms(self.source))

    def probe(self, runtime: Runtime, form: Form) -> Probed:
        """One form in one runtime; once, however many claims ask."""
        return self._once(("probe", runtime.name, form.name), lambda: self._probe(runtime, form))

    def _probe(self, runtime: Runtime, form: Form) -> Probed:
        if self.settings.bench is not None:
            return self.settings.bench.probe(form, runtime, self.forms())
        with Bench() as bench:
            return bench.probe(form, runtime, self.forms())

    def parent(self, repo: str) -> Source | None:
        """The artifact called ``repo``: from a catalog, else from the Hub; None where neither can be reached."""
        for catalog in self.settings.catalogs:
            if catalog.root.is_dir() and (catalog.root / repo).is_dir():
                return catalog.entry(repo)
        if self.settings.offline:
            return None
        from forgekit.sources.hub import HubSource

        return HubSource(repo)

    def _hash_listed(self) -> dict[str, Digest]:
        listed = [row.get("filename") for _, row in objects(self.alloy.tree, "/results/integrity/fileHashes")]
        here: dict[str, Path] = {}
        for path in listed:
            try:
                if isinstance(path, str) and path not in here and self.source.listing().get(path):
                    here[path] = self._local(path)
            except SourceError:
                continue  # said when that file's own claim is settled
        hashed = digest.sha256_files(list(here.values()), progress=self.settings.hashing)
        return {path: hashed[local] for path, local in here.items()}

    def _local(self, path: str) -> Path:
        """The file, if it need not be downloaded."""
        from forgekit.sources.folder import FolderSource

        if not isinstance(self.source, FolderSource):
            raise UnreachableError(f"{path} is not local")
        return self.source.fetch(path)

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        """What ``make`` returned the first time, or the error it raised."""
        with self._lock:
            if key not in self._memo:
                try:
                    self._memo[key] = (make(), None)
                except Exception as caught:  # noqa: BLE001 - raised again, now and each time it is asked for
                    self._memo[key] = (None, caught)
            value, failure = self._memo[key]
        if failure is not None:
            raise failure
        return cast("T", value)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rerun:
    """A recipe that was run again.

    Attributes:
        verdict: how the result compares with the published one.
        stages: records of the stages of the new run.
    """

    verdict: Reforged
    stages: tuple[Mapping[str, Any], ...]


def rerun(evidence: Evidence) -> Rerun:
    """Run an artifact's recipe again in a temporary folder, on a base small enough for that.

    Raises:
        UnreachableError: the base is not here or is too large, the recipe's own files are not local, or it takes
            too long.
        ForgeError: a stage cannot be run here.
    """
    import tempfile
    import time

    from forgekit.checkpoint.opening import open_folder
    from forgekit.forge import executor
    from forgekit.forge.base import locate
    from forgekit.forge.reforge import again

    root = getattr(evidence.source, "root", None)
    if not isinstance(root, Path):
        raise UnreachableError("the recipe's files are not in a local folder", hint="`forgekit reforge` fetches them")
    source = evidence.alloy.at("/source")
    base = locate(source if isinstance(source, dict) else {}, beside=root, offline=True)
    total = open_folder(base).total
    if total > evidence.settings.reforge_limit:
        raise UnreachableError(
            f"the base has {total / 1e9:.1f} GB, more than is run again unasked", hint="`forgekit reforge` runs it"
        )
    until = time.monotonic() + evidence.settings.reforge_seconds

    def watch(*_: object) -> None:
        if time.monotonic() > until:
            limit = evidence.settings.reforge_seconds
            raise UnreachableError(
                f"running the recipe takes more than the {limit:g} s that are spent unasked",
                hint="`forgekit reforge` runs it to its end",
            )

    settings = executor.Settings(offline=True, tell=watch, progress=watch)
    with tempfile.TemporaryDirectory(prefix="forgekit-") as folder:
        verdict, made = again(evidence.alloy, evidence.source, beside=root, folder=Path(folder), settings=settings)
    return Rerun(verdict=verdict, stages=made.stages)


Found = Iterator[tuple[str, Any] | tuple[str, Any, str]]
"""(JSON pointer, claimed value) per claim; with a word to tell apart several claims of one place."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One kind of claim.

    Attributes:
        name: the ``kind`` of its claims, stable and kebab-case.
        tier: where its claims belong in the suite.
        claims: finds them in an alloy. Offline, and reads nothing but the alloy.
        settle: decides one of them.
        domain: the domain whose alloys make such claims; None for every domain's.
        pinned: finds claims that the place the artifact was pinned in makes about it.
    """

    name: str
    tier: Tier
    claims: Callable[[Alloy], Found]
    settle: Callable[[Claim, Evidence], Finding]
    domain: str | None = None
    pinned: Callable[[Source], Found] | None = None

    def of(self, artifact: str, alloy: Alloy, source: Source | None = None) -> Iterator[Claim]:
        """This kind's claims of one artifact."""
        if self.domain is not None and self.domain not in alloy.domains:
            return
        found = list(self.claims(alloy))
        if source is not None and self.pinned is not None:
            found += self.pinned(source)
        for pointer, expected, *part in found:
            yield Claim(
                artifact=artifact,
                kind=self.name,
                pointer=pointer,
                tier=self.tier,
                expected=expected,
                part=part[0] if part else "",
            )


CHECKS = Registry("check", "forgekit.checks", Check, hyphens=True)


def confirmed(claim: Claim, observed: Any, reason: str | None = None, **evidence: Any) -> Finding:
    return Finding(claim=claim, verdict=Verdict.CONFIRMED, observed=observed, reason=reason, evidence=evidence)


def refuted(claim: Claim, observed: Any, reason: str, fix: str | None = None, **evidence: Any) -> Finding:
    return Finding(claim=claim, verdict=Verdict.REFUTED, observed=observed, reason=reason, fix=fix, evidence=evidence)


def unproven(claim: Claim, reason: str, fix: str, observed: Any = None, **evidence: Any) -> Finding:
    """The publisher left out what would prove it. ``fix`` is "layer: what to do"."""
    return Finding(claim=claim, verdict=Verdict.UNPROVEN, observed=observed, reason=reason, fix=fix, evidence=evidence)


def unchecked(claim: Claim, reason: str, observed: Any = None, **evidence: Any) -> Finding:
    """This verifier cannot tell. ``reason`` says what it lacks."""
    return Finding(claim=claim, verdict=Verdict.UNCHECKED, observed=observed, reason=reason, evidence=evidence)


def without_file(claim: Claim, error: SourceError, fix: str) -> Finding:
    """The finding where the file behind a claim cannot be had: whose fault that is decides."""
    said = f"{error.what} ({error.where})" if error.where else error.what
    if isinstance(error, UnreachableError | TamperedError):  # neither is the publisher's doing
        return unchecked(claim, said, **({"try": error.hint} if error.hint else {}))
    if isinstance(error, AbsentError):
        return unproven(claim, said, fix)
    return unproven(claim, said, f"{fix.split(':', maxsplit=1)[0]}: keep the file inside the artifact")


def hash_fault(value: Any) -> str:
    """What keeps a recorded hash from being one, in words; empty when it is one."""
    if not isinstance(value, str):
        return "it is not text"
    return digest.fault(value)


def judge_hash_text(claim: Claim, layer: str) -> Finding | None:
    """The finding for a recorded hash that no bytes could have; None where it is well-formed.

    A placeholder says of itself that nothing was pinned; a cut or mistyped
    hash claims something that is false of every file.
    """
    fault = hash_fault(claim.expected)
    if not fault:
        return None
    if claim.expected is None:
        return unproven(claim, "no hash is recorded", f"{layer}: record the SHA-256")
    if fault == "it is not hexadecimal":
        return unproven(claim, f"{claim.expected!r} is a placeholder, not a hash", f"{layer}: record the SHA-256")
    return refuted(claim, None, f"no file can have this hash: {fault}", f"{layer}: record the SHA-256")
