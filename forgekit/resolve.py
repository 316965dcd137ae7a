"""Alloy in, plan out: the whole meaning of a recipe, before anything heavy runs.

Resolving is a join of what stages need with what a family states. Every
problem is found, not only the first, and nothing is looked up by likeness.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

from pydantic import ValidationError, create_model

from forgekit.alloy import Alloy
from forgekit.alloy.node import Node
from forgekit.alloy.pointer import find, join
from forgekit.alloy.schema import AlloyDocument, StageRecord
from forgekit.benchmarks import BENCHMARKS
from forgekit.domains import DOMAINS, Domain
from forgekit.errors import PlanError, UnknownNameError
from forgekit.families import FAMILIES, Family
from forgekit.head_metrics import HEAD_METRICS
from forgekit.metrics import METRICS
from forgekit.registry import Registry
from forgekit.runtimes import RUNTIMES, find_runtime
from forgekit.stages import STAGES, Given, Stage


class Cause(enum.Enum):
    """Whose problem it is."""

    WRONG = "wrong"  # the recipe says something that cannot be
    INCOMPLETE = "incomplete"  # the recipe leaves out something that is needed
    UNKNOWN = "unknown"  # this version of forgekit does not know what the recipe names


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong, where, and what to do about it."""

    pointer: str
    text: str
    hint: str = ""
    cause: Cause = Cause.WRONG

    def __str__(self) -> str:
        return f"#{self.pointer}: {self.text}" + (f"; {self.hint}" if self.hint else "")


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One stage of a recipe, bound to what it will run with.

    Attributes:
        pointer: where it stands in the recipe.
        stage: None where no domain of the alloy knows the type.
        family: None in domains without families, or where the architecture is unknown.
        fact: the family fact it was matched to; None where it needs none.
        params: None where the parameters are invalid.
        problems: why it cannot run; empty when it resolves.
        notes: what a reader should know though it resolves.
    """

    pointer: str
    type: str
    stage: Stage | None
    family: Family | None
    fact: object | None
    params: StageRecord | None
    problems: tuple[Problem, ...]
    notes: tuple[str, ...] = ()

    @property
    def forgeable(self) -> bool:
        """Whether this version can run it, and not only plan and verify it."""
        return not self.problems and self.stage is not None and self.stage.run is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Every stage of a recipe, resolved."""

    name: str
    family: Family | None
    cycles: int
    steps: tuple[Step, ...]
    problems: tuple[Problem, ...]  # all of them, those of the steps included

    def require(self) -> Plan:
        """This plan, if nothing is wrong with it.

        Raises:
            PlanError: listing every problem.
        """
        if self.problems:
            count = f"{len(self.problems)} problems" if len(self.problems) > 1 else "1 problem"
            raise PlanError(f"{self.name}: {count}\n" + "\n".join(f"  {problem}" for problem in self.problems))
        return self


def domains_of(alloy: Alloy) -> tuple[Domain, ...]:
    """The domains an alloy names.

    Raises:
        UnknownNameError: one of them is not registered.
    """
    return tuple(DOMAINS[name] for name in alloy.domains)


def document_type(domains: tuple[Domain, ...]) -> type[AlloyDocument]:
    """The type of a document of these domains: the core, with every field they add."""
    return _document_type(tuple(domain.name for domain in domains))


def read_document(alloy: Alloy) -> AlloyDocument:
    """The typed document, stages included.

    Raises:
        UnknownNameError: the alloy names a domain that is not registered.
        PlanError: listing every field that does not fit the schema.
    """
    if problems := schema_problems(alloy):
        raise PlanError(
            f"{alloy.where} does not fit the schema\n" + "\n".join(f"  {problem}" for problem in problems),
            hint="`forgekit schema` prints it",
        )
    domains = domains_of(alloy)
    document = document_type(domains).parse(alloy.tree)
    stages = [_read_stage(stage, domains) for stage in find(alloy.tree, "/stages", [])]
    return document.model_copy(update={"stages": stages}) if "stages" in document.model_fields_set else document


def schema_problems(alloy: Alloy) -> list[Problem]:
    """Everything in a document that does not fit the schema of its domains, in document order.

    Raises:
        UnknownNameError: the alloy names a domain that is not registered.
    """
    domains = domains_of(alloy)
    problems = _validate(document_type(domains), alloy.tree, "")
    stages = alloy.tree.get("stages")
    for index, record in enumerate(stages if isinstance(stages, list) else []):
        stage = _stage(record, domains)
        if stage is not None:
            seen = {problem.pointer for problem in problems}
            problems += [p for p in _validate(stage.params, record, join("/stages", index)) if p.pointer not in seen]
    return problems


def plan(alloy: Alloy) -> Plan:
    """Resolve every stage of an alloy.

    Raises:
        UnknownNameError: the alloy names a domain that is not registered.
    """
    domains = domains_of(alloy)
    problems: list[Problem] = []
    family = _family(alloy, domains, problems)
    records = alloy.tree.get("stages")
    if not isinstance(records, list) or not records:
        problems.append(Problem("/stages", "there are no stages" if records in (None, []) else "stages is not a list"))
        records = []
    source = alloy.tree.get("source")
    recipe = _Recipe(domains, family, source if isinstance(source, dict) else {}, alloy.tree)
    at_hand: set[str] = set()
    steps = [_step(recipe, join("/stages", index), record, at_hand) for index, record in enumerate(records)]
    problems += [problem for step in steps for problem in step.problems]
    cycles = alloy.tree.get("cycles")
    return Plan(
        name=str(alloy.tree.get("name") or alloy.where),
        family=family,
        cycles=cycles if isinstance(cycles, int) and cycles > 0 else 1,
        steps=tuple(steps),
        problems=tuple(problems),
    )


def supported(family: Family) -> dict[str, str]:
    """Stage types this family can be planned with, and the purpose of each."""
    return {
        stage.name: stage.purpose
        for stage in STAGES.values()
        if not stage.needs or any(family.fact(kind) for kind in stage.needs)
    }


@cache
def _document_type(names: tuple[str, ...]) -> type[AlloyDocument]:
    bases: Any = (*(DOMAINS[name].root for name in names), AlloyDocument)  # a domain's results refine the core's
    return cast("type[AlloyDocument]", create_model("Alloy", __base__=bases))


def _validate(model: type[Node], tree: Any, pointer: str) -> list[Problem]:
    try:
        model.parse(tree)
    except ValidationError as error:
        found = []
        for fault in error.errors(include_url=False, include_input=False):
            steps = [step for step in fault["loc"] if not _is_tag(step)]
            text = "is missing" if fault["type"] == "missing" else _sentence(fault["msg"])
            found.append(Problem(join(pointer, *steps), text))
        return list(dict.fromkeys(found))  # a union reports one fault per member
    return []


def _is_tag(step: str | int) -> bool:
    """Whether a step of a pydantic location names a union member and not a key."""
    return isinstance(step, str) and (step in {"str", "bool", "none"} or "[" in step or "(" in step)


def _sentence(message: str) -> str:
    words = {"Input should be": "should be", "Input ": ""}
    for start, other in words.items():
        if message.startswith(start):
            return other + message.removeprefix(start)
    return message


def _family(alloy: Alloy, domains: tuple[Domain, ...], problems: list[Problem]) -> Family | None:
    for domain in domains:
        if domain.family_at is None:
            continue
        name = find(alloy.tree, domain.family_at)
        if not isinstance(name, str):
            text = "no architecture is named"
            hint = "name the model_type of the base's config.json"
            problems.append(Problem(domain.family_at, text, hint, Cause.INCOMPLETE))
            continue
        try:
            return FAMILIES[name]
        except UnknownNameError as error:
            hint = error.hint if error.hint.startswith("add") else f"try {error.hint}"
            problems.append(Problem(domain.family_at, f"{error.what} ({', '.join(FAMILIES)})", hint, Cause.UNKNOWN))
    return None


def _stage(record: Any, domains: tuple[Domain, ...]) -> Stage | None:
    kind = record.get("type") if isinstance(record, Mapping) else None
    if not isinstance(kind, str):
        return None
    return next((domain.stages[kind] for domain in domains if kind in domain.stages), None)


def _read_stage(record: Any, domains: tuple[Domain, ...]) -> StageRecord:
    stage = _stage(record, domains)
    return (stage.params if stage else StageRecord).parse(record)


@dataclass(frozen=True, slots=True)
class _Recipe:
    domains: tuple[Domain, ...]
    family: Family | None
    source: Mapping[str, Any]
    tree: Mapping[str, Any]


def _step(recipe: _Recipe, pointer: str, record: Any, at_hand: set[str]) -> Step:
    kind = record.get("type") if isinstance(record, Mapping) else None
    if not isinstance(kind, str):
        return _refused(pointer, str(kind), Problem(pointer, "the stage has no type"))
    stage = _stage(record, recipe.domains)
    if stage is None:
        known = ", ".join(sorted({name for domain in recipe.domains for name in domain.stages}))
        text = f"no stage is named {kind!r} ({known})"
        hint = _where_to_add(kind, recipe.domains)
        return _refused(pointer, kind, Problem(join(pointer, "type"), text, hint, Cause.UNKNOWN))
    problems = _validate(stage.params, record, pointer)
    params = stage.params.parse(record) if not problems else None
    has_family = any(domain.family_at for domain in recipe.domains if kind in domain.stages)
    family = recipe.family if has_family else None
    fact = None
    if stage.needs and family is not None:
        fact = next((found for need in stage.needs if (found := family.fact(need))), None)
        if fact is None:
            problems.append(_unsupported(pointer, stage, family))
    if params is not None:
        if missing := stage.consumes(params) - at_hand:
            problems.append(_missing(pointer, stage, missing, recipe.domains))
        if not stage.needs or fact is not None:
            given = Given(params=params, fact=fact, source=recipe.source, recipe=recipe.tree)
            problems += [Problem(pointer, text) for text in stage.problems(given)]
    at_hand |= stage.produces
    at_hand -= stage.spends
    return Step(
        pointer=pointer,
        type=kind,
        stage=stage,
        family=family,
        fact=fact,
        params=params,
        problems=tuple(problems),
        notes=tuple(_notes(stage, params)),
    )


def _refused(pointer: str, kind: str, problem: Problem) -> Step:
    return Step(pointer=pointer, type=kind, stage=None, family=None, fact=None, params=None, problems=(problem,))


def _where_to_add(kind: str, domains: tuple[Domain, ...]) -> str:
    registries = [domain.stages for domain in domains if isinstance(domain.stages, Registry)]
    return f"add {registries[0].file_for(kind)}" if registries else "the domain's own file lists its stages"


def _unsupported(pointer: str, stage: Stage, family: Family) -> Problem:
    can = supported(family)
    reason = next(
        (f": {why}" for need, why in family.without.items() if need in stage.needs or issubclass(need, stage.needs)), ""
    )
    instead = [name for name, purpose in can.items() if purpose == stage.purpose]
    needs = " or ".join(need.__name__ for need in stage.needs)
    return Problem(
        pointer,
        f"family {family.name!r} cannot do {stage.name!r}, which needs {needs}{reason}. It supports {', '.join(can)}",
        f"to {stage.purpose}, use {' or '.join(instead)}" if instead else "",
        Cause.WRONG if any(other.fact(need) for other in FAMILIES.values() for need in stage.needs) else Cause.UNKNOWN,
    )


def _missing(pointer: str, stage: Stage, missing: frozenset[str], domains: tuple[Domain, ...]) -> Problem:
    makers = sorted({other.name for domain in domains for other in domain.stages.values() if other.produces & missing})
    what = " and ".join(sorted(missing))
    text = f"{stage.name!r} needs {what} from an earlier stage"
    return Problem(pointer, text, f"put {' or '.join(makers)} before it", Cause.INCOMPLETE)


def _notes(stage: Stage, params: StageRecord | None) -> Iterator[str]:
    if params is None:
        return
    registries: dict[str, Registry[Any]] = {"benchmark": BENCHMARKS, "metric": METRICS, "head metric": HEAD_METRICS}
    for kind, name in stage.names(params):
        if kind in registries and name not in registries[kind]:
            yield f"no {kind} is named {name!r} here ({', '.join(registries[kind])})"
        if kind == "runtime" and find_runtime(name) is None:
            yield f"no runtime is named {name!r} here ({', '.join(RUNTIMES)})"
    unknown = sorted(params.model_extra or {})
    if unknown:
        yield f"not read by {stage.name!r}: {', '.join(unknown)}"


__all__ = [
    "Cause",
    "Plan",
    "Problem",
    "Step",
    "document_type",
    "domains_of",
    "plan",
    "read_document",
    "schema_problems",
    "supported",
]
