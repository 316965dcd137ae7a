"""A published score is what re-scoring the published samples gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import is_number, join, objects, rows_by, walk
from forgekit.benchmarks import Benchmark, Score, Scoring, find_benchmark
from forgekit.checks import Check, Evidence, Found, confirmed, refuted, unchecked, unproven, without_file
from forgekit.checks.samples_hash import LAYER
from forgekit.digest import fault
from forgekit.errors import SamplesError, SandboxError, SourceError
from forgekit.figures import Figure, show
from forgekit.findings import Claim, Finding

OUTER = Fraction(1, 10)  # percentage points; no rounding excuses more


@dataclass(frozen=True, slots=True)
class Published:
    """A score somebody published, and the samples it was computed from, if they say."""

    pointer: str
    value: float
    benchmark: str
    samples: str | None = None
    hash: str | None = None


def published(alloy: Alloy) -> Iterator[Published]:
    """Every benchmark score in an alloy, wherever it stands."""
    seen: set[str] = set()
    for figure in (*_results(alloy), *_priors(alloy)):
        seen.add(figure.pointer)
        yield figure
    for pointer, value in walk(alloy.tree):
        name = pointer.rsplit("/", 1)[-1]
        known = "/" in pointer and is_number(value) and find_benchmark(name) is not None
        if known and pointer not in seen and not pointer.startswith("/acceptanceCriteria"):
            yield Published(pointer, value, name)


def _results(alloy: Alloy) -> Iterator[Published]:
    for pointer, row in objects(alloy.tree, "/results/benchmarks"):
        name = str(row.get("name"))
        student = (row.get("samplesPath"), row.get("resultHash"))
        base = (row.get("baseSamplesPath"), row.get("baseResultHash"))
        metrics = row.get("metrics")
        places: list[tuple[str, Any, tuple[Any, Any]]] = [
            (join(pointer, "score"), row.get("score"), student),
            (join(pointer, "baseScore"), row.get("baseScore"), base),
        ]
        if isinstance(metrics, Mapping):
            places.append((join(pointer, "metrics", "score"), metrics.get("score"), student))
        for at, value, (samples, recorded) in places:
            if is_number(value):
                yield Published(at, value, name, samples, recorded)


def _priors(alloy: Alloy) -> Iterator[Published]:
    base = rows_by(alloy.tree, "/results/benchmarks", "name")
    for pointer, row in objects(alloy.tree, "/priorMetricBaselines"):
        evaluation = row.get("evaluation")
        if not isinstance(evaluation, Mapping):
            continue
        at = join(pointer, "evaluation")
        for name, value in _named_numbers(evaluation.get("results")):
            samples, recorded = evaluation.get("samplesPath"), evaluation.get("samplesHash")
            yield Published(join(at, "results", name), value, name, samples, recorded)
        if evaluation.get("anchorBaseModel") == alloy.at("/source/baseModel"):
            for name, value in _named_numbers(evaluation.get("anchorReproduction")):
                same = base.get(name, {})  # the base was measured once; these are its samples
                samples, recorded = same.get("baseSamplesPath"), same.get("baseResultHash")
                yield Published(join(at, "anchorReproduction", name), value, name, samples, recorded)


def _named_numbers(values: Any) -> Iterator[tuple[str, float]]:
    if isinstance(values, Mapping):
        for name, value in values.items():
            if is_number(value) and find_benchmark(name) is not None:
                yield name, value


def claims(alloy: Alloy) -> Found:
    for figure in published(alloy):
        yield figure.pointer, figure.value


def settle(claim: Claim, evidence: Evidence) -> Finding:
    figure = next(figure for figure in published(evidence.alloy) if figure.pointer == claim.pointer)
    if not isinstance(figure.samples, str):
        return unproven(claim, "the score is published without samples", LAYER, benchmark=figure.benchmark)
    benchmark = find_benchmark(figure.benchmark)
    if benchmark is None:
        return unchecked(claim, f"forgekit has no scorer for {figure.benchmark!r}", benchmark=figure.benchmark)
    scoring = _rescore(claim, figure, benchmark, evidence)
    return scoring if isinstance(scoring, Finding) else _judge(claim, benchmark, scoring, evidence.settings.oracle)


def _rescore(claim: Claim, figure: Published, benchmark: Benchmark, evidence: Evidence) -> Scoring | Finding:
    """The samples behind a figure, scored; or the finding where they cannot be."""
    path = str(figure.samples)
    try:
        local = evidence.file(path)
        if _other_than_hashed(figure, evidence):
            reason = f"{path} is not the file that was hashed, so its score is not the published one's"
            return unchecked(claim, reason, benchmark=benchmark.name)
        return evidence.score(benchmark, local.read_bytes())
    except SourceError as error:
        return without_file(claim, error, LAYER)
    except (SamplesError, SandboxError) as error:
        said = f"{error.what} ({error.where})" if error.where else error.what
        return unchecked(claim, said, benchmark=benchmark.name, **({"try": error.hint} if error.hint else {}))


def _other_than_hashed(figure: Published, evidence: Evidence) -> bool:
    if not isinstance(figure.hash, str) or not isinstance(figure.samples, str) or fault(figure.hash):
        return False
    return evidence.sha256(figure.samples).hex != figure.hash.removeprefix("sha256:")


def _judge(claim: Claim, benchmark: Benchmark, scoring: Scoring, oracle: str | None) -> Finding:
    about: dict[str, Any] = {"benchmark": benchmark.name, **scoring.evidence}
    if oracle is not None and oracle not in scoring.scores:
        return unchecked(claim, f"{benchmark.name} has no oracle {oracle!r} ({', '.join(scoring.scores)})", **about)
    if reason := _scorer_fault(scoring):
        return unchecked(claim, reason, **about)
    if scoring.problems:
        lines = "; ".join(map(str, scoring.problems[:3])) + (" …" if len(scoring.problems) > 3 else "")
        reason = f"the samples are not one record per problem: {lines}"
        return unproven(claim, reason, "samples: publish a complete file", **about)
    names = [oracle] if oracle else list(scoring.scores)
    figure = Figure.of(claim.expected)
    matched = [name for name in names if matches(figure, scoring.scores[name].rate)]
    score = scoring.scores[matched[0] if matched else names[0]]
    observed = _observed(score)
    if matched:
        return confirmed(claim, observed, _said(figure, scoring, matched, names), oracles=matched, **about)
    if _could_match(figure, score):
        return unchecked(claim, _hangs_on_time(figure, score), observed=observed, **about)
    fix = "samples: publish the score of these samples"
    return refuted(claim, observed, _differs(figure, score, scoring, names), fix, **about)


def _scorer_fault(scoring: Scoring) -> str:
    """Why this machine's scorer may not judge; empty where it may."""
    dataset = scoring.evidence["dataset"]
    if dataset["version"] is None:
        return f"{dataset['sha256']} is no release of {dataset['name']} that forgekit knows"
    if not scoring.evidence["selfCheck"]["sound"]:
        return "the scorer fails its self-check on this machine: it does not pass the canonical solutions"
    return ""


def matches(figure: Figure, rate: Fraction) -> bool:
    """Whether a figure is a rate rounded to the figure's own digits, as a percentage or as a fraction.

    ±0.1 percentage points is the outer bound: a figure too coarse to be within it proves nothing.
    """
    exact = Fraction(figure.value)
    percent = figure.rounds(rate * 100) and abs(exact - rate * 100) <= OUTER
    fraction = 0 <= exact <= 1 and figure.rounds(rate) and abs(exact - rate) * 100 <= OUTER
    return percent or fraction


def _could_match(figure: Figure, score: Score) -> bool:
    """Whether the verdicts that depend on the machine, all taken the other way or some, make the figure."""
    range_ = range(score.passed - len(score.close), score.passed + score.unstable + 1)
    return any(matches(figure, Fraction(count, score.total)) for count in range_)


def _hangs_on_time(figure: Figure, score: Score) -> str:
    here = f"{score.passed}/{score.total} here, not {figure}"
    if score.close:
        few = len(score.close) == 1
        return (
            f"{here}; {' and '.join(score.close)} {'passes' if few else 'pass'} so near the official wall-clock limit "
            f"that a slower or busier machine fails {'it' if few else 'them'}"
        )
    return f"{here}; {score.unstable} verdicts change from run to run on this machine"


def _observed(score: Score) -> dict[str, Any]:
    counts: dict[str, Any] = {
        "passed": score.passed,
        "total": score.total,
        "percent": show(score.rate * 100),
        "oracle": score.oracle,
    }
    return counts | ({"unstable": score.unstable} if score.unstable else {})


def _said(figure: Figure, scoring: Scoring, matched: list[str], asked: list[str]) -> str:
    score = scoring.scores[matched[0]]
    text = f"{score.passed}/{score.total} is {show(score.rate * 100)} %"
    others = [name for name in asked if name not in matched]
    if others:
        other = scoring.scores[others[0]]
        text += f" by {', '.join(matched)}; {other.passed}/{other.total} by {', '.join(others)}, which is not {figure}"
    elif len({scoring.scores[name].passed for name in asked}) > 1:
        text += " by " + ", ".join(f"{name} ({scoring.scores[name].passed})" for name in matched)
    return text


def _differs(figure: Figure, score: Score, scoring: Scoring, asked: list[str]) -> str:
    rate = score.rate * 100
    if figure.rounds(rate):
        off = show(abs(Fraction(figure.value) - rate))
        return f"{score.passed}/{score.total} is {show(rate)} %: {figure} is too coarse, {off} points away"
    counts = "; ".join(f"{scoring.scores[name].passed}/{score.total} by {name}" for name in asked)
    return f"re-scoring gives {show(rate)} %, not {figure} ({counts})"


CHECK = Check(name="score", tier=4, claims=claims, settle=settle, domain="llm-forge")
