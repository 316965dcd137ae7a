"""What a recipe asks for, before anything runs: the order of its stages, its corpora, and what cannot be done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forgekit.digest import is_plain_relative, sha256_file
from forgekit.errors import CorpusError
from forgekit.resolve import Step
from forgekit.runtimes import find_runtime


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One stage at one time."""

    step: Step
    cycle: int
    cycles: int

    @property
    def share(self) -> float:
        return (self.cycle + 1) / self.cycles if self.step.stage and self.step.stage.repeats else 1.0


def order(steps: tuple[Step, ...], cycles: int) -> list[Turn]:
    """The stages in the order they run: what prepares, then the cycles of what transforms, then what ships."""
    repeating = [step for step in steps if step.stage and step.stage.repeats]
    first = steps.index(repeating[0]) if repeating else len(steps)
    before = [step for step in steps[:first] if step not in repeating]
    after = [step for step in steps[first:] if step not in repeating]
    turns = [Turn(step=step, cycle=0, cycles=cycles) for step in before]
    turns += [Turn(step=step, cycle=cycle, cycles=cycles) for cycle in range(cycles) for step in repeating]
    return turns + [Turn(step=step, cycle=0, cycles=cycles) for step in after]


def refusals(turns: list[Turn], cycles: int, tree: Mapping[str, Any], folder: Path) -> Iterator[str]:
    """What a plan does not see and a forge cannot do, each with its place."""
    for step in {turn.step.pointer: turn.step for turn in turns}.values():
        assert step.stage is not None
        if step.stage.run is None:
            yield f"#{step.pointer}: {step.type!r} can be planned and verified, and is not forged by this version"
            continue
        if cycles > 1 and step.type == "expert-prune":
            yield f"#{step.pointer}: 'expert-prune' keeps a fixed number, which {cycles} cycles cannot reach twice"
        for kind, name in step.stage.names(step.params):
            yield from _unknown(step.pointer, kind, name)
        for name in step.stage.corpora(step.params):
            try:
                corpus_file(tree, name, folder)
            except CorpusError as error:
                yield f"#{step.pointer}: {error.what}" + (f"; {error.hint}" if error.hint else "")


def lacking(turns: list[Turn]) -> Iterator[str]:
    """Runtimes that a recipe asks and this machine has not, each with the reason."""
    from forgekit.probing.bench import Limits, unavailable

    for step in {turn.step.pointer: turn.step for turn in turns}.values():
        for kind, name in step.stage.names(step.params) if step.stage else ():
            runtime = find_runtime(name) if kind == "runtime" else None
            if runtime is not None and (why_not := unavailable(runtime, None, Limits())):
                yield f"#{step.pointer}: {runtime.title} cannot be asked on this machine: {why_not}"


FINAL = frozenset({"package", "publish", "deploy", "deliver"})


def unvalidated(turns: list[Turn], tree: Mapping[str, Any]) -> Iterator[str]:
    """Final stages that a recipe would reach while a runtime it declares has not passed on those very bytes.

    A stage that writes weights takes every pass away; one that quantises takes away those of the runtimes that read
    what it writes. Packaging writes weights, so what follows it counts.
    """
    target = tree.get("target")
    named = target.get("runtimes") if isinstance(target, Mapping) else None
    declared = {runtime.name: runtime for name in named or () if (runtime := find_runtime(name)) is not None}
    passed: set[str] = set()
    for turn in turns:
        stage, params = turn.step.stage, turn.step.params
        assert stage is not None
        if "weights" in stage.produces:
            passed.clear()
        elif "quantised" in stage.produces:
            passed -= {name for name in passed if getattr(params, "format", "") in declared[name].reads}
        asked = find_runtime(getattr(params, "runtime", None)) if stage.name == "validate-runtime" else None
        if asked is not None and not getattr(params, "artifact", None):  # a pass on some forms is not one on all
            passed |= {asked.name} & declared.keys()
        if stage.name in FINAL - {"package"} and (missing := sorted(declared.keys() - passed)):
            yield _not_passed(turn.step.pointer, stage.name, missing)
            return
    final = next((turn for turn in turns if turn.step.type in FINAL), None)
    if final is not None and (missing := sorted(declared.keys() - passed)):
        yield _not_passed(final.step.pointer, final.step.type, missing)


def _not_passed(pointer: str, kind: str, missing: list[str]) -> str:
    stages = ", ".join(f'{{"type": "validate-runtime", "runtime": "{name}"}}' for name in missing)
    where = "after" if kind == "package" else "before"
    return (
        f"#{pointer}: {kind!r} ends the chain, and {' and '.join(missing)}, which the recipe declares, "
        f"{'has' if len(missing) == 1 else 'have'} not passed on the bytes it ends with; {where} it, add {stages}"
    )


def _unknown(pointer: str, kind: str, name: str) -> Iterator[str]:
    from forgekit.benchmarks import BENCHMARKS, find_benchmark
    from forgekit.head_metrics import HEAD_METRICS
    from forgekit.metrics import METRICS
    from forgekit.runtimes import RUNTIMES

    if kind == "runtime" and find_runtime(name) is None:
        yield f"#{pointer}: no runtime is named {name!r} ({', '.join(RUNTIMES)})"
    if kind == "benchmark" and find_benchmark(name) is None:
        yield f"#{pointer}: no benchmark is named {name!r} ({', '.join(BENCHMARKS)})"
    registry: Any = {"metric": METRICS, "head metric": HEAD_METRICS}.get(kind)
    if registry is not None and name not in registry:
        yield f"#{pointer}: no {kind} is named {name!r} ({', '.join(registry)})"


def corpus_file(tree: Mapping[str, Any], name: str, folder: Path) -> Path:
    """The file of a corpus a recipe names, its hash checked.

    A corpus is named by the id of a row of ``calibrationCorpora``, by the name of ``calibrationCorpus`` or
    ``perplexityCorpus``, or by the path such a row has.

    Raises:
        CorpusError: it is not pinned, is missing, leaves the recipe's folder, or has another hash.
    """
    if not name:
        raise CorpusError(
            "the stage needs a corpus and names none", hint="name one, with its path and sha256 in calibrationCorpora"
        )
    row = next((row for row in corpora(tree) if name in (row.get("id"), row.get("name"), row.get("path"))), None)
    path_text = row.get("path") if row else name
    if not isinstance(path_text, str):
        raise CorpusError(f"corpus {name!r} has no path", hint="give its row in calibrationCorpora a path")
    if not is_plain_relative(path_text):
        raise CorpusError(f"the path {path_text!r} of corpus {name!r} leaves the recipe's folder")
    path = folder / path_text
    if not path.is_file():
        raise CorpusError(f"corpus {name!r} is not at {path}")
    found = sha256_file(path)
    recorded = (row.get("sha256") or row.get("contentHash")) if row else None
    if recorded is None:
        raise CorpusError(
            f"corpus {name!r} is not pinned by a hash", hint=f'record "sha256": "{found.hex}" in calibrationCorpora'
        )
    if str(recorded).removeprefix("sha256:") != found.hex:
        raise CorpusError(f"corpus {name!r} is {found.short} and the recipe pins {str(recorded)[:23]}")
    return path


def corpora(tree: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every row of a recipe that pins a corpus."""
    rows = tree.get("calibrationCorpora")
    yield from (row for row in (rows if isinstance(rows, list) else ()) if isinstance(row, Mapping))
    yield from (row for key in ("calibrationCorpus", "perplexityCorpus") if isinstance(row := tree.get(key), Mapping))
