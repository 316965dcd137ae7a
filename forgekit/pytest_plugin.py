"""The pytest face: a claim is a test id, a finding is its outcome.

Confirmed passes, refuted fails, unproven is an expected failure that names
who could mend it, unchecked is skipped with its reason. Settling happens in a
fixture, so a broken check is an ERROR and a refuted claim a FAILURE.

The plugin does nothing in a session that has no ``claims`` tests.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from forgekit.attest.registry import KeyRegistry
    from forgekit.checks import Evidence
    from forgekit.errors import ForgeError
    from forgekit.findings import Claim, Finding
    from forgekit.probing.bench import Bench
    from forgekit.sources import Source
    from forgekit.sources.catalog import Catalog

MARKERS = (
    "tier1: the document itself: stages dispatch, its arithmetic holds; no torch, no network",
    "tier2: the recipe is run again",
    "tier3: files, samples and corpora have the recorded hashes",
    "tier4: published samples are scored again",
    "runtime: declared runtimes load the artifact and generate",
    "gpu: needs a GPU",
    "network: needs the network",
    "slow: takes more than a few seconds",
    "claims(tier): run once per claim of this tier that the artifacts make",
)
VERDICT = "forgekit_verdict"


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("forgekit", "claims of published artifacts")
    group.addoption(
        "--catalog",
        action="append",
        metavar="PATH",
        help="catalog of pinned artifacts; repeatable. Default: $FORGEKIT_CATALOG, else _cache/",
    )
    group.addoption(
        "--alloy",
        action="append",
        metavar="TARGET",
        help="one artifact: a folder, an alloy file, hf://org/name[@revision], a catalog entry; repeatable",
    )
    group.addoption("--offline", action="store_true", help="use no network")
    group.addoption(
        "--unproven",
        choices=("xfail", "fail"),
        default="xfail",
        help="what a claim does whose publisher left out the evidence",
    )


def pytest_configure(config: pytest.Config) -> None:
    for marker in MARKERS:
        config.addinivalue_line("markers", marker)
    config.stash[SUITE] = Suite(config)


@dataclass(frozen=True)
class Subject:
    """One artifact under test, or why it cannot be."""

    name: str
    source: Source | None
    error: ForgeError | None = None


@dataclass
class Suite:
    """The artifacts of a session, opened when the first ``claims`` test asks for them."""

    config: pytest.Config
    _subjects: list[Subject] | None = None
    _claims: list[Claim] | None = None
    _evidence: dict[str, Evidence] = field(default_factory=dict)
    _gaps: dict[str, str] | None = None
    misused: pytest.UsageError | None = None

    def claims_or_none(self) -> list[Claim]:
        """The claims; none where the session was asked for wrongly, which is said once collection is over."""
        try:
            return self.claims
        except pytest.UsageError as error:
            if hasattr(self.config, "workerinput"):  # an xdist worker can only report an error of collection
                raise pytest.Collector.CollectError(str(error)) from None
            self.misused = error
            self._claims = []
            return []

    @property
    def subjects(self) -> list[Subject]:
        if self._subjects is None:
            self._subjects = list(self._open())
        return self._subjects

    @property
    def claims(self) -> list[Claim]:
        """Every claim of every artifact that can be read.

        Raises:
            pytest.UsageError: there is none, or a known gap names no claim.
        """
        if self._claims is None:
            from forgekit.verify import claims_of

            found: list[Claim] = []
            for index, subject in enumerate(self.subjects):
                if subject.source is not None:
                    from forgekit.errors import ForgeError

                    try:
                        found += claims_of(subject.name, subject.source.alloy(), subject.source)
                    except ForgeError as error:
                        self.subjects[index] = Subject(subject.name, None, error)
            if not found and not any(subject.error for subject in self.subjects):
                raise pytest.UsageError(
                    "no artifact makes a claim: give a catalog (--catalog) or an artifact (--alloy)"
                )
            stray = sorted(self.gaps.keys() - {claim.id for claim in found})
            if stray:
                raise pytest.UsageError(f"known gaps that match no claim: {', '.join(stray)}")
            self._claims = found
        return self._claims

    @property
    def gaps(self) -> dict[str, str]:
        if self._gaps is None:
            from forgekit.gaps import known_gaps

            self._gaps = {} if self.config.getoption("--alloy") else known_gaps(self.catalogs)
        return self._gaps

    @property
    def catalogs(self) -> list[Catalog]:
        from forgekit.sources.catalog import Catalog
        from forgekit.sources.opening import default_catalogs

        named = self.config.getoption("--catalog")
        if not named:
            return default_catalogs()
        for path in named:
            if not Path(path).is_dir():
                raise pytest.UsageError(f"--catalog {path}: there is no such folder")
        return [Catalog(Path(path)) for path in named]

    def evidence(self, artifact: str) -> Evidence:
        if artifact not in self._evidence:
            from forgekit.checks import Evidence, Settings

            source = next(subject.source for subject in self.subjects if subject.name == artifact)
            assert source is not None
            settings = Settings(
                offline=self.config.getoption("--offline"), catalogs=self.catalogs, bench=self.bench, keys=self.keys
            )
            self._evidence[artifact] = Evidence(name=artifact, alloy=source.alloy(), source=source, settings=settings)
        return self._evidence[artifact]

    @cached_property
    def keys(self) -> KeyRegistry | None:
        """The key registry that ``FORGEKIT_KEYS`` names."""
        import os

        from forgekit.attest.registry import read

        named = os.environ.get("FORGEKIT_KEYS")
        return read(Path(named)) if named else None

    @cached_property
    def bench(self) -> Bench:
        """Engines that stay open for the session."""
        from forgekit.probing.bench import Bench

        made = Bench()
        self.config.add_cleanup(made.close)
        return made

    @cached_property
    def pins(self) -> dict[str, str]:
        """What the Hub lists of each ``hf://`` artifact now, so that every xdist worker sees the same."""
        from forgekit.errors import ForgeError
        from forgekit.sources.hub import HubSource, pin_of

        found: dict[str, str] = {}
        for target in self.config.getoption("--alloy") or ():
            if target.startswith("hf://") and not self.config.getoption("--offline"):
                with contextlib.suppress(ForgeError):  # every worker will meet it again, and say so
                    found[target] = pin_of(HubSource.parse(target)).render().decode()
        return found

    def _source(self, target: str) -> Source:
        from forgekit.sources.opening import open_target
        from forgekit.sources.pins import Pin

        pinned: str | None = getattr(self.config, "workerinput", {}).get("forgekit_pins", {}).get(target)
        if pinned is not None:
            from forgekit.sources.hub import HubSource

            return HubSource.at(Pin.parse(pinned.encode(), target))
        return open_target(target, self.catalogs, offline=self.config.getoption("--offline"))

    def _open(self) -> Iterator[Subject]:
        from forgekit.errors import AbsentError, ForgeError
        from forgekit.sources.catalog import Broken

        targets = self.config.getoption("--alloy")
        if not targets:
            for catalog in self.catalogs:
                for entry in catalog.entries():
                    if isinstance(entry, Broken):
                        yield Subject(entry.name, None, entry.error)
                    else:
                        yield Subject(entry.name, entry)
            return
        for target in targets:
            try:
                source = self._source(target)
                source.alloy()
            except AbsentError as error:
                raise pytest.UsageError(f"--alloy {target}: {error}") from error
            except ForgeError as error:
                yield Subject(target, None, error)
            else:
                yield Subject(source.name, source)


SUITE = pytest.StashKey[Suite]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    suite = metafunc.config.stash[SUITE]
    mark = metafunc.definition.get_closest_marker("claims")
    if mark is not None:
        (tier,) = mark.args
        grouped = metafunc.config.pluginmanager.hasplugin("xdist")
        metafunc.parametrize(
            "claim",
            [
                pytest.param(claim, id=claim.id, marks=[pytest.mark.xdist_group(claim.artifact)] if grouped else [])
                for claim in suite.claims_or_none()
                if claim.tier == tier
            ],
        )
    if "unreadable" in metafunc.fixturenames:
        suite.claims_or_none()  # reading the alloys is what finds the unreadable ones
        broken = [subject for subject in suite.subjects if subject.error is not None] if not suite.misused else []
        metafunc.parametrize("unreadable", broken, ids=[subject.name for subject in broken])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Runs in xdist's controller before there are workers: what was asked for wrongly is said once.

    Raises:
        pytest.UsageError: as ``Suite.claims``.
    """
    if config.getoption("--alloy") or config.getoption("--catalog"):
        _ = config.stash[SUITE].claims


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Runs in xdist's controller, once per worker."""
    node.workerinput["forgekit_pins"] = node.config.stash[SUITE].pins


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Drop the tests that no claim and no unreadable artifact filled: there is nothing to say about them.

    Raises:
        pytest.UsageError: there is nothing to verify at all, or not what was asked for.
    """
    if misused := config.stash[SUITE].misused:
        raise misused
    empty = [item for item in items if _unfilled(item)]
    if empty:
        config.hook.pytest_deselected(items=empty)
        items[:] = [item for item in items if item not in empty]


def _unfilled(item: pytest.Item) -> bool:
    names = getattr(item, "fixturenames", ())
    marks = item.iter_markers("skip")
    return ("claim" in names or "unreadable" in names) and any(
        str(mark.kwargs.get("reason", "")).startswith("got empty parameter set") for mark in marks
    )


@pytest.fixture
def finding(request: pytest.FixtureRequest, claim: Claim) -> Finding:
    """The claim under test, settled."""
    from forgekit.verify import settle

    settled = settle(claim, request.config.stash[SUITE].evidence(claim.artifact))
    request.node.user_properties += [
        (VERDICT, settled.verdict.value),
        ("forgekit_kind", claim.kind),
        ("forgekit_pointer", claim.pointer),
        ("forgekit_reason", settled.reason or ""),
    ]
    return settled


@pytest.fixture
def judge(request: pytest.FixtureRequest) -> Callable[[Finding], None]:
    """Turn a finding into the outcome of the test that asks."""
    from forgekit.findings import Verdict
    from forgekit.report import explain

    suite = request.config.stash[SUITE]

    def judge(finding: Finding) -> None:
        text = explain(finding)
        known = suite.gaps.get(finding.claim.id)
        if known is not None and finding.verdict is not Verdict.REFUTED:
            pytest.fail(f"a known gap has closed, take it off the list\n{text}", pytrace=False)
        if finding.verdict is Verdict.REFUTED:
            if known is not None:
                pytest.xfail(f"known: {known}\n{text}")
            pytest.fail(f"{text}\n  again     {_again(finding)}", pytrace=False)
        if finding.verdict is Verdict.UNPROVEN:
            if request.config.getoption("--unproven") == "fail":
                pytest.fail(text, pytrace=False)
            pytest.xfail(text)
        if finding.verdict is Verdict.UNCHECKED:
            pytest.skip(text)

    return judge


def _again(finding: Finding) -> str:
    return f"forgekit verify {finding.claim.artifact} --only '{finding.claim.pointer or finding.claim.kind}'"


def pytest_terminal_summary(terminalreporter: Any) -> None:
    counts: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) == "call":
                counts.update(value for name, value in report.user_properties if name == VERDICT)
    if counts:
        total = counts.total()
        words = ", ".join(f"{counts[word]} {word}" for word in ("confirmed", "refuted", "unproven", "unchecked"))
        terminalreporter.write_sep("-", "forgekit")
        terminalreporter.write_line(f"{words} · {counts['confirmed'] / total:.0%} of {total} claims confirmed")
