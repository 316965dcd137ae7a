"""The acceptance gate: what an artifact must reach to ship, and whether it does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any

from forgekit.alloy.node import Node, Number
from forgekit.alloy.pointer import find, is_number, join, objects, rows_by
from forgekit.figures import Figure


class BenchmarkAcceptance(Node):
    """What one benchmark must reach.

    Attributes:
        min: smallest acceptable score, a **fraction** in [0, 1]; reaching it exactly passes.
        anchor_delta: smallest acceptable score minus base score, in **percentage points**;
            -3.0 means at most three points may be lost, and losing exactly three passes.
        anchor_benchmark: benchmark whose base score is the anchor; this one's where absent.
    """

    min: Annotated[float, Number(ge=0.0, le=1.0)]
    anchor_delta: Annotated[float, Number()] | None = None
    anchor_benchmark: str | None = None
    notes: str | None = None


class AcceptanceHardware(Node):
    """What the artifact must fit into. ``max_vram_gb`` in GB of 10**9 bytes."""

    max_vram_gb: Annotated[float, Number(ge=0)] | None = None
    device_tier: str | None = None


class AcceptanceIntegrity(Node):
    """Which evidence the artifact must carry."""

    model_hash_required: bool = False
    samples_path_required: bool = False


@dataclass(frozen=True, slots=True)
class Reason:
    """One requirement: where it stands, whether it is met, and what was compared.

    ``met`` is None where the artifact does not say what would decide it.
    """

    pointer: str
    met: bool | None
    text: str


@dataclass(frozen=True, slots=True)
class Gate:
    """The decision. An artifact ships only when every requirement is known to be met."""

    reasons: tuple[Reason, ...]

    @property
    def ship(self) -> bool:
        return all(reason.met for reason in self.reasons)

    @property
    def undecided(self) -> bool:
        """Not refused, and not all of it known."""
        return not self.ship and not any(reason.met is False for reason in self.reasons)

    @property
    def verdict(self) -> str:
        return "ship" if self.ship else "rework"


class AcceptanceCriteria(Node):
    """What an artifact must reach before it ships."""

    benchmarks: dict[str, BenchmarkAcceptance] = {}
    hardware: AcceptanceHardware | None = None
    integrity: AcceptanceIntegrity | None = None
    notes: str | None = None

    def gate(self, tree: Mapping[str, Any], *, at: str = "/acceptanceCriteria") -> Gate:
        """Decide ship or rework from what the document publishes.

        Args:
            tree: the whole document.
            at: pointer of these criteria in it, for the reasons.
        """
        reasons = [
            *self._benchmarks(tree, join(at, "benchmarks")),
            *self._hardware(tree, join(at, "hardware")),
            *self._integrity(tree, join(at, "integrity")),
        ]
        return Gate(tuple(reasons))

    def _benchmarks(self, tree: Mapping[str, Any], at: str) -> Iterator[Reason]:
        rows = rows_by(tree, "/results/benchmarks", "name")
        for name, wanted in self.benchmarks.items():
            here = join(at, name)
            score = _percent(rows.get(name, {}).get("score"))
            if score is None:
                yield Reason(here, None, f"{name} has no published score")
                continue
            floor = Figure.of(wanted.min).value * 100
            yield Reason(join(here, "min"), score >= floor, f"{name} {score} against at least {floor.normalize():f}")
            if wanted.anchor_delta is None:
                continue
            anchor = wanted.anchor_benchmark or name
            base = _percent(rows.get(anchor, {}).get("baseScore"))
            if base is None:
                yield Reason(join(here, "anchorDelta"), None, f"{anchor} has no published base score to compare with")
                continue
            allowed = Figure.of(wanted.anchor_delta).value
            yield Reason(
                join(here, "anchorDelta"),
                score - base >= allowed,
                f"{name} {score} is {score - base:+} points from the base's {anchor} {base}; allowed is {allowed:+}",
            )

    def _hardware(self, tree: Mapping[str, Any], at: str) -> Iterator[Reason]:
        if self.hardware is None or self.hardware.max_vram_gb is None:
            return
        limit = self.hardware.max_vram_gb
        needed = find(tree, "/hardware/minVramGb")
        if not is_number(needed):
            yield Reason(
                join(at, "maxVramGb"), None, "the document does not say how much memory it needs (/hardware/minVramGb)"
            )
            return
        yield Reason(join(at, "maxVramGb"), needed <= limit, f"needs {needed} GB against at most {limit} GB")

    def _integrity(self, tree: Mapping[str, Any], at: str) -> Iterator[Reason]:
        if self.integrity is None:
            return
        if self.integrity.model_hash_required:
            present = bool(find(tree, "/results/integrity/modelHash"))
            yield Reason(
                join(at, "modelHashRequired"), present, "modelHash is " + ("present" if present else "missing")
            )
        if self.integrity.samples_path_required:
            bare = [
                row.get("name")
                for _, row in objects(tree, "/results/benchmarks")
                if "score" in row and not row.get("samplesPath")
            ]
            text = f"no samplesPath for {', '.join(map(str, bare))}" if bare else "every score names its samples"
            yield Reason(join(at, "samplesPathRequired"), not bare, text)


def _percent(value: Any) -> Decimal | None:
    return Figure.of(value).value if is_number(value) else None
