"""What a document computes from its own figures, it computes rightly.

Each rule below finds one relation that published alloys assert between their
own fields. Figures are decimals that were rounded, so a relation holds when it
is possible for the unrounded values; no tolerance is added to that.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from forgekit.alloy import Alloy
from forgekit.alloy.pointer import find, is_number, join, objects, rows_by, walk
from forgekit.checks import Check, Evidence, Found, confirmed, refuted
from forgekit.errors import UnknownNameError
from forgekit.families import FAMILIES, AlwaysOn, Experts, FusedExperts
from forgekit.figures import Figure, Interval, show
from forgekit.findings import Claim, Finding


@dataclass(frozen=True, slots=True)
class Relation:
    """One asserted figure, what it should be, and how that is computed.

    Attributes:
        computed: every value the figure may be a rounding of.
        shown: a representative of ``computed``, for readers.
        formula: in words and numbers.
        alternatives: other readings of the same figure; any one suffices.
        part: tells relations at one place apart.
    """

    pointer: str
    claimed: float
    computed: Interval
    shown: str
    formula: str
    alternatives: tuple[Interval, ...] = ()
    part: str = ""

    @property
    def holds(self) -> bool:
        figure = Figure.of(self.claimed).interval
        return any(figure.overlaps(reading) for reading in (self.computed, *self.alternatives))


def _interval(value: float) -> Interval:
    return Figure.of(value).interval


def _exact(value: float) -> Fraction:
    return Fraction(Figure.of(value).value)


def _numbers(row: Mapping[str, Any], *keys: str) -> list[float] | None:
    values = [row.get(key) for key in keys]
    return [value for value in values if is_number(value)] if all(is_number(value) for value in values) else None


def _difference(pointer: str, claimed: Any, values: list[float], names: str) -> Iterator[Relation]:
    if is_number(claimed):
        first, second = values
        shown = str(Figure.of(first).value - Figure.of(second).value)
        yield Relation(pointer, claimed, _interval(first) - _interval(second), shown, f"{names}, {first} − {second},")


def score_delta(alloy: Alloy) -> Iterator[Relation]:
    """Delta = score − baseScore."""
    for pointer, row in objects(alloy.tree, "/results/benchmarks"):
        if values := _numbers(row, "score", "baseScore"):
            yield from _difference(join(pointer, "delta"), row.get("delta"), values, "score − baseScore")


def anchor_delta(alloy: Alloy) -> Iterator[Relation]:
    """A calibration anchor's delta = measured − published."""
    for pointer, stage in objects(alloy.tree, "/stages"):
        anchor = stage.get("calibrationAnchor")
        if isinstance(anchor, Mapping) and (values := _numbers(anchor, "measuredScore", "publishedScore")):
            at = join(pointer, "calibrationAnchor", "delta")
            yield from _difference(at, anchor.get("delta"), values, "measured − published")


def prior_delta(alloy: Alloy) -> Iterator[Relation]:
    """A prior baseline's deltaVsAnchor<Benchmark> = its result − the anchor's."""
    for pointer, row in objects(alloy.tree, "/priorMetricBaselines"):
        evaluation = row.get("evaluation")
        if not isinstance(evaluation, Mapping):
            continue
        results, anchors = evaluation.get("results"), evaluation.get("anchorReproduction")
        if not isinstance(results, Mapping) or not isinstance(anchors, Mapping):
            continue
        for name, anchor in anchors.items():
            key = "deltaVsAnchor" + "".join(word.capitalize() for word in name.split("_"))
            if is_number(anchor) and is_number(results.get(name)):
                at = join(pointer, "evaluation", "results", key)
                yield from _difference(at, results.get(key), [results[name], anchor], "result − anchor")


def anchor_is_base(alloy: Alloy) -> Iterator[Relation]:
    """The anchor a prior baseline was compared with is the base score published elsewhere in the document."""
    base = rows_by(alloy.tree, "/results/benchmarks", "name")
    for pointer, row in objects(alloy.tree, "/priorMetricBaselines"):
        evaluation = row.get("evaluation")
        if not isinstance(evaluation, Mapping) or evaluation.get("anchorBaseModel") != alloy.at("/source/baseModel"):
            continue
        anchors = evaluation.get("anchorReproduction")
        for name, value in anchors.items() if isinstance(anchors, Mapping) else ():
            other = base.get(name, {}).get("baseScore")
            if is_number(value) and is_number(other):
                at = join(pointer, "evaluation", "anchorReproduction", name)
                formula = f"the base's {name} under /results/benchmarks"
                yield Relation(at, value, _interval(other), str(other), formula)


def anchor_measured_is_base(alloy: Alloy) -> Iterator[Relation]:
    """An eval stage's measured anchor is the base score of its first benchmark."""
    base = rows_by(alloy.tree, "/results/benchmarks", "name")
    for pointer, stage in objects(alloy.tree, "/stages"):
        anchor = stage.get("calibrationAnchor")
        if not isinstance(anchor, Mapping) or anchor.get("model") != alloy.at("/source/baseModel"):
            continue
        first = find(stage, "/benchmarks/0/name")
        measured, other = anchor.get("measuredScore"), base.get(str(first), {}).get("baseScore")
        if is_number(measured) and is_number(other):
            at = join(pointer, "calibrationAnchor", "measuredScore")
            yield Relation(at, measured, _interval(other), str(other), f"the base's {first} under /results/benchmarks")


def improvement(alloy: Alloy) -> Iterator[Relation]:
    """ImprovementPct = (baseline − final) / baseline, in percent; benchmark rows repeat it."""
    results = alloy.at("/results")
    if isinstance(results, Mapping):
        values = _numbers(results, "baselinePerplexity", "finalPerplexity")
        yield from _improvement("/results/improvementPct", results.get("improvementPct"), values)
    for pointer, row in objects(alloy.tree, "/results/benchmarks"):
        metrics = row.get("metrics")
        if isinstance(metrics, Mapping):
            values = _numbers(metrics, "baseline", "final")
            for key in ("improvement", "improvement_pct"):
                yield from _improvement(join(pointer, "metrics", key), metrics.get(key), values)


def _improvement(pointer: str, claimed: Any, values: list[float] | None) -> Iterator[Relation]:
    if not is_number(claimed) or values is None or values[0] <= 0:
        return
    baseline, final = values
    hundred = Interval.point(100)
    ratio = _interval(final) / _interval(baseline)
    shown = show((1 - _exact(final) / _exact(baseline)) * 100)
    formula = f"(baseline − final) / baseline, ({baseline} − {final}) / {baseline} in percent,"
    yield Relation(pointer, claimed, hundred - hundred * ratio, shown, formula)


def repeated_perplexity(alloy: Alloy) -> Iterator[Relation]:
    """The perplexity row among the benchmarks repeats the results' own figures."""
    pairs = {"baseline": "baselinePerplexity", "final": "finalPerplexity"}
    for pointer, row in objects(alloy.tree, "/results/benchmarks"):
        metrics = row.get("metrics")
        if row.get("name") != "perplexity" or not isinstance(metrics, Mapping):
            continue
        for key, name in pairs.items():
            other = alloy.at(f"/results/{name}")
            if is_number(metrics.get(key)) and is_number(other):
                at = join(pointer, "metrics", key)
                yield Relation(at, metrics[key], _interval(other), str(other), f"/results/{name}")


def passing_share(alloy: Alloy) -> Iterator[Relation]:
    """A score beside counts is passing / total, in percent."""
    for pointer, row in objects(alloy.tree, "/results/benchmarks"):
        metrics = row.get("metrics")
        if not isinstance(metrics, Mapping):
            continue
        passing = metrics.get("passing", metrics.get("passed"))
        total, score = metrics.get("total"), metrics.get("score")
        if is_number(passing) and is_number(total) and is_number(score) and total > 0:
            exact = Fraction(_exact(passing), _exact(total))
            formula = f"{passing} of {total} passing, in percent,"
            at = join(pointer, "metrics", "score")
            yield Relation(at, score, Interval.point(exact * 100), show(exact * 100), formula, part="counts")


QUOTED = re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d+)?)\s*%?\s*\((\d+)/(\d+)\)")


def quoted_counts(alloy: Alloy) -> Iterator[Relation]:
    """Prose that quotes "85.40 (140/164)" quotes a percentage and the counts it is of, to a tenth of a point."""
    for pointer, value in walk(alloy.tree):
        if not isinstance(value, str):
            continue
        for number, (percent, passed, total) in enumerate(QUOTED.findall(value)):
            if int(total) == 0:
                continue
            exact = Fraction(int(passed), int(total)) * 100
            near = Interval(exact - Fraction(1, 10), exact + Fraction(1, 10))
            formula = f"what is quoted as {percent} ({passed}/{total})"
            yield Relation(pointer, float(percent), near, show(exact), formula, part=f"quote-{number}")


def prune_percentage(alloy: Alloy) -> Iterator[Relation]:
    """PrunePct = the share of experts dropped."""
    for pointer, stage, keep, original in _expert_prunes(alloy):
        claimed = stage.get("prunePct")
        if is_number(claimed):
            exact = Fraction(original - keep, original) * 100
            formula = f"(original − kept) / original, ({original} − {keep}) / {original} in percent,"
            yield Relation(join(pointer, "prunePct"), claimed, Interval.point(exact), show(exact), formula)


def expert_tensors(alloy: Alloy) -> Iterator[Relation]:
    """ExpertsDropped and expertsRenamed count tensors: layers × experts × 3."""
    layers = _moe_layers(alloy)
    if layers is None:
        return
    for pointer, stage, keep, original in _expert_prunes(alloy):
        for key, experts in (("expertsDropped", original - keep), ("expertsRenamed", keep)):
            if is_number(stage.get(key)):
                exact = layers * experts * 3
                formula = f"layers × experts × 3 tensors, {layers} × {experts} × 3,"
                yield Relation(join(pointer, key), stage[key], Interval.point(exact), str(exact), formula)
        if is_number(stage.get("routerSlicedLayers")):
            at = join(pointer, "routerSlicedLayers")
            formula = "the number of layers with experts"
            yield Relation(at, stage["routerSlicedLayers"], Interval.point(layers), str(layers), formula)


def _expert_prunes(alloy: Alloy) -> Iterator[tuple[str, dict[str, Any], int, int]]:
    for pointer, stage in objects(alloy.tree, "/stages"):
        if stage.get("type") != "expert-prune":
            continue
        keep = stage.get("keepExpertsPerLayer", stage.get("keepExperts"))
        original = stage.get("originalExpertsPerLayer", alloy.at("/source/numExpertsPerLayer"))
        if type(keep) is int and type(original) is int and 0 < keep <= original:
            yield pointer, stage, keep, original


def _moe_layers(alloy: Alloy) -> int | None:
    """Layers with experts of their own, where the document and the family's facts tell."""
    layers = alloy.at("/source/numLayers")
    try:
        family = FAMILIES[str(alloy.at("/source/architecture"))]
    except UnknownNameError:
        return None
    always_on = family.fact(AlwaysOn)
    uneven = always_on is not None and always_on.dense_layers_key is not None
    unfused = family.fact(Experts) is not None and family.fact(FusedExperts) is None
    return layers if type(layers) is int and unfused and not uneven else None


def active_parameters(alloy: Alloy) -> Iterator[Relation]:
    """Dropping experts leaves as many active per token as before, so active parameters stay."""
    stages = {str(stage.get("type")) for _, stage in objects(alloy.tree, "/stages")}
    changing = stages - {"expert-activation-profile", "expert-prune", "quant", "package", "eval", "publish", "deploy"}
    claimed, source = alloy.at("/results/activeParamsB"), alloy.at("/source/activeParamsB")
    if "expert-prune" in stages and not changing and is_number(claimed) and is_number(source):
        formula = "expert-prune leaves the experts per token as they are, and source.activeParamsB"
        yield Relation("/results/activeParamsB", claimed, _interval(source), str(source), formula)


def file_sizes(alloy: Alloy) -> Iterator[Relation]:
    """A sizeGb for a quantised variant is the size of the file of that name, in 10**9 or 2**30 bytes."""
    files = [
        (row["filename"], row["size"])
        for _, row in objects(alloy.tree, "/results/integrity/fileHashes")
        if isinstance(row.get("filename"), str) and type(row.get("size")) is int
    ]
    for pointer, variant, claimed in _sizes(alloy):
        matching = [size for name, size in files if f"{variant}.gguf".lower() in name.lower()]
        if len(matching) != 1 or not is_number(claimed):
            continue
        size = matching[0]
        decimal, binary = Fraction(size, 10**9), Fraction(size, 2**30)
        formula = f"the size of the {variant} file, {size:,} bytes,"
        shown = f"{show(decimal)} GB or {show(binary)} GiB"
        yield Relation(pointer, claimed, Interval.point(decimal), shown, formula, (Interval.point(binary),))


def _sizes(alloy: Alloy) -> Iterator[tuple[str, str, Any]]:
    for pointer, stage in objects(alloy.tree, "/stages"):
        tiers = stage.get("tiers")
        for variant, tier in tiers.items() if isinstance(tiers, Mapping) else ():
            if isinstance(tier, Mapping):
                yield join(pointer, "tiers", variant, "sizeGb"), variant, tier.get("sizeGb")
    for pointer, row in objects(alloy.tree, "/results/hardwareVerified"):
        if isinstance(row.get("format"), str):
            yield join(pointer, "sizeGb"), row["format"], row.get("sizeGb")


def same_experts(alloy: Alloy) -> Iterator[Relation]:
    """The number of experts before pruning is the base model's."""
    base = alloy.at("/source/numExpertsPerLayer")
    for pointer, stage in objects(alloy.tree, "/stages"):
        original = stage.get("originalExpertsPerLayer")
        if is_number(original) and is_number(base):
            at = join(pointer, "originalExpertsPerLayer")
            yield Relation(at, original, _interval(base), str(base), "source.numExpertsPerLayer")


RULES: tuple[Callable[[Alloy], Iterator[Relation]], ...] = (
    score_delta,
    anchor_delta,
    prior_delta,
    anchor_is_base,
    anchor_measured_is_base,
    improvement,
    repeated_perplexity,
    passing_share,
    quoted_counts,
    prune_percentage,
    expert_tensors,
    active_parameters,
    file_sizes,
    same_experts,
)


def relations(alloy: Alloy) -> Iterator[Relation]:
    for rule in RULES:
        yield from rule(alloy)


def claims(alloy: Alloy) -> Found:
    for relation in relations(alloy):
        yield relation.pointer, relation.claimed, relation.part


def settle(claim: Claim, evidence: Evidence) -> Finding:
    here = (relation for relation in relations(evidence.alloy) if relation.pointer == claim.pointer)
    relation = next(relation for relation in here if claim.part in {relation.part, CHECK.name})
    if relation.holds:
        return confirmed(claim, _json(relation.shown), f"{relation.formula} is {relation.shown}")
    reason = f"{relation.formula} is {relation.shown}, not {relation.claimed}"
    return refuted(claim, _json(relation.shown), reason, "alloy: correct the figure")


def _json(shown: str) -> int | float | str:
    """A figure as the number it is; text where it is more than one."""
    try:
        return int(shown) if shown.lstrip("-").isdecimal() else float(shown)
    except ValueError:
        return shown


CHECK = Check(name="arithmetic", tier=1, claims=claims, settle=settle, domain="llm-forge")
