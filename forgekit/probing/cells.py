"""The cells of a matrix: one form in one runtime, as its headers foretell it and as a probe found it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from forgekit.errors import ForgeError, SourceError
from forgekit.findings import Verdict
from forgekit.forms import Form
from forgekit.runtimes import Obstacle, Runtime

UNREADABLE = "unreadable"  # stands for the precision of a form whose headers are not


@dataclass(frozen=True, kw_only=True)
class Probed:
    """One cell of the matrix.

    Attributes:
        form: name of the form; empty for the checkpoint at the root.
        precision: of its weights.
        verdict: confirmed: it loads, generates and agrees; refuted: it does not; unproven: the artifact holds no form
            of this kind; unchecked: this machine cannot tell.
        foretold: what the headers said before anything was loaded.
        evidence: what was measured.
    """

    runtime: str
    form: str
    precision: str
    verdict: Verdict
    reason: str
    foretold: tuple[Obstacle, ...] = ()
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def surprise(self) -> str:
        """Where headers and engine disagree, in words; empty where they do not."""
        if not self.evidence.get("asked"):
            return ""
        if self.verdict is Verdict.CONFIRMED and self.foretold:
            return f"the headers foretold that it fails ({self.foretold[0].invariant}), and it runs"
        if self.verdict is Verdict.REFUTED and not self.foretold:
            return "the headers foretold nothing, and it fails"
        return ""

    def tree(self) -> dict[str, Any]:
        return {
            "runtime": self.runtime,
            "form": self.form,
            "precision": self.precision,
            "verdict": self.verdict.value,
            "reason": self.reason,
            "foretold": [_obstacle_tree(obstacle) for obstacle in self.foretold],
            "surprise": self.surprise or None,
            "evidence": dict(self.evidence),
        }


def _obstacle_tree(obstacle: Obstacle) -> dict[str, str]:
    return {
        "invariant": obstacle.invariant,
        "effect": obstacle.effect,
        "text": obstacle.text,
        "where": obstacle.where,
        "fix": obstacle.fix,
    }


def choose(runtime: Runtime, forms: Sequence[Form]) -> list[Form]:
    """The forms a runtime would be given: those of the best kind it reads, else what can be turned into one."""
    for kind in runtime.reads:
        own = [form for form in forms if form.kind == kind]
        if own:
            return own
    if runtime.makes is None:
        return []
    return [
        form for form in forms if form.kind == "safetensors" and (is_whole(form) or precision_of(form) == UNREADABLE)
    ][:1]


def foretold(forms: Sequence[Form], runtimes: Sequence[Runtime]) -> list[Probed]:
    """The same from headers alone: nothing is loaded, and nothing is confirmed."""
    cells = []
    for runtime in runtimes:
        chosen = choose(runtime, forms)
        for form in chosen:
            try:
                obstacles = tuple(runtime.preflight(form))
            except SourceError as error:
                cells.append(unread(form, runtime, error))
                continue
            worst = next((o for o in obstacles if o.effect == "hostile"), obstacles[0] if obstacles else None)
            cells.append(
                Probed(
                    runtime=runtime.name,
                    form=form.name,
                    precision=precision_of(form),
                    verdict=Verdict.UNCHECKED if worst is None or worst.effect != "hostile" else Verdict.REFUTED,
                    reason=worst.text if worst else "nothing in the headers speaks against it",
                    foretold=obstacles,
                )
            )
        if not chosen:
            cells.append(none_shipped(runtime, forms))
    return cells


def unread(form: Form, runtime: Runtime, error: SourceError) -> Probed:
    """The cell where not even the headers can be had."""
    return Probed(
        runtime=runtime.name,
        form=form.name,
        precision="",
        verdict=Verdict.UNCHECKED,
        reason=f"its headers cannot be read: {error.what}",
    )


def none_shipped(runtime: Runtime, forms: Sequence[Form]) -> Probed:
    """The cell where an artifact has nothing for a runtime."""
    shipped = ", ".join(sorted({form.kind for form in forms})) or "no weights"
    reads = " or ".join(runtime.reads)
    return Probed(
        runtime=runtime.name,
        form="",
        precision="",
        verdict=Verdict.UNPROVEN,
        reason=f"{runtime.title} reads {reads}, and the artifact ships {shipped}",
    )


def is_whole(form: Form) -> bool:
    """Whether a form is a checkpoint whose weights nobody has quantised."""
    try:
        return form.kind == "safetensors" and not form.quantised
    except ForgeError:
        return False


def precision_of(form: Form) -> str:
    try:
        return form.precision
    except ForgeError:
        return UNREADABLE
