"""Stages: what can be done to a checkpoint.

A stage is one file that declares its parameters, the family facts it can work
with, what must have been made before it and what it leaves behind, and how
reproducible its bytes are. ``forgekit.resolve`` joins that with a family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from forgekit.alloy.node import Number, Whole
from forgekit.alloy.schema import StageRecord
from forgekit.families import Family
from forgekit.registry import Registry
from forgekit.surgery import Surgery

Reproducibility = Literal["exact", "exact-here", "statistical"]
"""exact: bytes are a function of inputs and recipe on any machine.
exact-here: bytes are stable on one class of machine with one set of versions.
statistical: results are compared by a stated rule."""

Purpose = Literal["prepare", "shrink", "recover", "extend", "measure", "combine", "ship", "record"]
"""What a stage is for; stages of one purpose can stand in for each other."""

Count = Annotated[int, Whole(ge=1)]
Fraction = Annotated[float, Number(ge=0.0, le=1.0)]
LearningRate = str  # as published: "2e-4"


class StageParams(StageRecord):
    """Base of every stage's parameters. Unknown ones are kept, and named in the plan."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Given:
    """What a stage may look at to refuse a recipe: everything known before a byte is read.

    Attributes:
        params: the stage's own parameters.
        fact: the family fact the stage was matched to; None where it needs none.
        source: the recipe's ``source`` object.
        recipe: all of it.
    """

    params: Any
    fact: Any
    source: Mapping[str, Any]
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a stage runs with.

    Attributes:
        source: folder of the checkpoint as the stages before left it.
        source_hash: modelHash of that checkpoint.
        out: where this stage writes; it may hold whole files of an interrupted run of the same stage.
        at_hand: files that earlier stages left for later ones, by what they are (``importance``).
        recipe: the whole recipe, for its corpora and declared runtimes.
        corpus: a corpus the recipe names, as a file whose hash was checked.
        model: another checkpoint the recipe names (a teacher), as a folder.
        share: how much of the stage's total is due by now; below 1 only in the earlier cycles of several.
        seed: of everything drawn at random.
        threads: processor threads that arithmetic may use; part of what makes its bits.
        device: ``cpu`` or ``cuda``.
        validate: whether engines are asked; not where a published recipe is run again only for its weights.
        progress: called with (done, total) of whatever the stage counts.
    """

    params: Any
    family: Family
    fact: Any
    source: Path
    out: Path
    source_hash: str = ""
    at_hand: Mapping[str, Path] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    corpus: Callable[[str], Path]
    model: Callable[[str], Path]
    share: float = 1.0
    seed: int = 0
    threads: int = 1
    device: str = "cpu"
    validate: bool = True
    progress: Callable[[int, int], None] = lambda _done, _total: None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a stage has done.

    Attributes:
        weights: whether ``out`` holds a whole checkpoint, which the next stage starts from.
        files: what it leaves at hand for later stages, by what it is.
        surgery: what was cut, for the proof that nothing else was; None where nothing was cut.
        notes: what goes into the alloy's record of the stage.
        reproducibility: of this run, where it is less than the stage's, for what it measured it measured here.
    """

    weights: bool
    files: Mapping[str, Path] = field(default_factory=dict)
    surgery: Surgery | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    reproducibility: Reproducibility | None = None


def _nothing(_params: Any) -> frozenset[str]:
    return frozenset()


def _no_problems(_given: Given) -> Iterator[str]:
    return iter(())


def _no_texts(_params: Any) -> Iterator[str]:
    return iter(())


def _no_names(_params: Any) -> Iterator[tuple[str, str]]:
    return iter(())


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """One kind of step.

    Attributes:
        name: the ``type`` it has in an alloy.
        params: its parameters.
        purpose: what it is for.
        needs: family facts, any one of which it can work with; empty where it works on any model.
        consumes: what must be at hand when it starts, given its parameters.
        produces: what is at hand once it has run.
        spends: what is no longer at hand once it has run.
        reproducibility: None where it writes nothing that is hashed.
        problems: further reasons to refuse, each a sentence.
        names: (kind of part, name) for each registered part its parameters refer to.
        repeats: whether it runs in every cycle of a recipe, and not only in the first or after the last.
        corpora: names of the corpora its parameters refer to.
        run: does it. None while only the declaration exists: it can be planned and verified, not forged.
    """

    name: str
    params: type[StageParams]
    purpose: Purpose
    needs: tuple[type, ...] = ()
    consumes: Callable[[Any], frozenset[str]] = _nothing
    produces: frozenset[str] = frozenset()
    spends: frozenset[str] = frozenset()
    reproducibility: Reproducibility | None = None
    problems: Callable[[Given], Iterator[str]] = _no_problems
    names: Callable[[Any], Iterator[tuple[str, str]]] = _no_names
    repeats: bool = True
    corpora: Callable[[Any], Iterator[str]] = _no_texts
    run: Callable[[Work], Outcome] | None = None


STAGES = Registry("stage", "forgekit.stages", Stage, hyphens=True)
