"""Stages: what can be done to a checkpoint.

A stage is one file that declares its parameters, the family facts it can work
with, what must have been made before it and what it leaves behind, and how
reproducible its bytes are. ``forgekit.resolve`` joins that with a family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from forgekit.alloy.node import Number, Whole
from forgekit.alloy.schema import StageRecord
from forgekit.registry import Registry

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
    """

    params: Any
    fact: Any
    source: Mapping[str, Any]


def _nothing(_params: Any) -> frozenset[str]:
    return frozenset()


def _no_problems(_given: Given) -> Iterator[str]:
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
    run: Callable[..., Any] | None = None


STAGES = Registry("stage", "forgekit.stages", Stage, hyphens=True)
