"""Runtimes: engines that an artifact can be loaded in and asked to generate.

A runtime is one file: which forms of an artifact it reads, the invariants its
loader is known to have, and a driver that runs inside a process of its own.
The file is imported in the engine's own interpreter too, so nothing but the
standard library may be imported at its top.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from forgekit.errors import CheckpointError
from forgekit.forms import Kind
from forgekit.registry import Registry

if TYPE_CHECKING:
    from forgekit.forms import Form

LACKS = ("ImportError", "ModuleNotFoundError")  # what an engine says that is not whole

Outcome = Literal["answered", "refused", "died", "time", "memory", "missing"]

Effect = Literal["hostile", "refuse", "wrong"]
"""hostile: it is never given to an engine.
refuse: the engine is known to refuse it, or to crash.
wrong: the engine is known to load it and to answer wrongly."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Obstacle:
    """What the headers already say against a form in a runtime.

    Attributes:
        invariant: stable, kebab-case name of the rule.
        text: what is so, and what the engine does about it.
        where: file, key or tensor.
        fix: what the publisher can do.
    """

    invariant: str
    effect: Effect
    text: str
    where: str = ""
    fix: str = ""


Invariant = Callable[["Form"], Iterator[Obstacle]]
"""A rule a loader has. Reads headers and configs only, and says nothing of what it cannot see."""


class Driver(Protocol):
    """One loaded artifact, on the engine's side. Made anew, in a new process, for every artifact.

    A driver may have more: ``check()``, asked last, raises where something that was looked at meanwhile is broken;
    ``decode(ids)`` gives their text; ``inspect(asked)`` tells what an artifact is where it cannot be run.
    """

    @staticmethod
    def warm() -> None:
        """Import the engine, before any artifact is seen."""

    def describe(self) -> Mapping[str, str]:
        """Name and version of the engine, and the device it runs on."""

    def load(self, asked: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """Load ``asked["path"]``; gives what the loader said about it. Raises whatever the engine raises."""

    def encode(self, text: str) -> list[int] | None:
        """Token ids by the artifact's own tokenizer, without special tokens; None where the engine has none."""

    def generate(self, ids: list[int], count: int) -> list[int]:
        """At most ``count`` further token ids, greedily; fewer only after an end token."""

    def logits(self, ids: list[int]) -> Any:
        """float32 [len(ids), vocabulary]: what follows each token; None where the engine does not say.

        Log-probabilities are as good: a constant per row makes no difference.
        """


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What became of one question.

    Attributes:
        outcome: ``answered``; ``refused``: the engine raised; ``died``: its process ended; ``time``, ``memory``:
            it was stopped at a limit; ``missing``: the engine could not be started at all.
        phase: what it was doing: import, load, encode, generate, logits.
        said: the engine's own words, or how it died.
        found: everything it measured.
    """

    outcome: Outcome
    phase: str = ""
    said: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)


Ask = Callable[["Runtime", Mapping[str, Any]], Answer]
"""Put a question to a runtime's process."""


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """One engine.

    Attributes:
        name: as ``target.runtimes`` of an alloy writes it.
        title: as its makers write it.
        reads: kinds of form it loads, the best first.
        modules: what must be importable in its interpreter.
        install: how to get it.
        invariants: what its loader is known to insist on.
        driver: runs it.
        makes: turns a safetensors form into one it reads, where its users do that themselves. Is given a folder to
            put it in, and a way to ask a process that is as confined as the engine's.
        interpreter: name of the runtime whose interpreter it shares; its own where empty.
        forks: whether its process may fork after the engine is imported.
        variables: of its process's environment.
        widens: bytes a weight takes in memory; None where as many as on disk.
        remote: variables that name a server to talk to; with any, the process keeps the network, and gets them.
        elsewhere: why it cannot run on this machine, if that is known without asking it.
    """

    name: str
    title: str
    reads: tuple[Kind, ...]
    modules: tuple[str, ...]
    install: str
    driver: type[Driver]
    invariants: tuple[Invariant, ...] = ()
    makes: Callable[[Form, Path, Ask], Form] | None = None
    interpreter: str = ""
    forks: bool = True
    variables: Mapping[str, str] = field(default_factory=dict)
    widens: int | None = None
    remote: tuple[str, ...] = ()
    elsewhere: Callable[[], str] = lambda: ""

    def preflight(self, form: Form) -> list[Obstacle]:
        """Everything the headers say against the form, in the order of the invariants."""
        found: list[Obstacle] = []
        for invariant in self.invariants:
            with contextlib.suppress(CheckpointError):  # unreadable headers are an invariant of their own
                found += invariant(form)
        return found


RUNTIMES = Registry("runtime", "forgekit.runtimes", Runtime)


def find_runtime(name: object) -> Runtime | None:
    """The runtime an alloy means: ``LlamaCpp``, ``llama.cpp`` and ``llama_cpp`` are one."""
    if not isinstance(name, str):
        return None
    wanted = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((RUNTIMES[known] for known in RUNTIMES if known.replace("_", "") == wanted), None)
