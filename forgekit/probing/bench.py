"""One form in one runtime: what its headers foretell, what its engine does, and what of that is proven."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from forgekit.digest import sha256
from forgekit.errors import CheckpointError, ForgeError, MachineError, SourceError
from forgekit.findings import Verdict
from forgekit.forms import Form
from forgekit.models.strategy import memory
from forgekit.models.tools import require
from forgekit.probing.agreement import compare
from forgekit.probing.cells import Probed, choose, is_whole, none_shipped, precision_of, unread
from forgekit.probing.engine import Engine
from forgekit.probing.judging import NoReference, Reference, agreed, finite, insane, same_text, same_tokens
from forgekit.runtimes import LACKS, RUNTIMES, Answer, Obstacle, Runtime

if TYPE_CHECKING:
    import numpy as np

REFERENCE = "transformers"
TEXTS = ("The capital of France is", "def fibonacci(n):\n    ", "Once upon a time", "1 + 1 = 2, 2 + 2 =")
TOKENS = 8  # generated after each prompt
PROMPT_LENGTH = 8  # of prompts made of ids, where no tokenizer can be had
DEFAULT_MEMORY = 8 << 30  # where the machine does not say what it has
SLOW_DISK = 20e6  # bytes per second that a load is given time for, beside its limit
OVERHEAD = 2 << 30  # bytes an engine takes beside the weights


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """What one load and its generations may take.

    Attributes:
        seconds: of wall time, beside what reading the weights from a slow disk takes.
        memory: bytes; four fifths of what is free where None.
        threads: processor threads for arithmetic.
        device: ``cpu`` or ``cuda``.
    """

    seconds: float = 300.0
    memory: int | None = None
    threads: int = 1
    device: str = "cpu"

    def bytes(self) -> int:
        if self.memory is not None:
            return self.memory
        return (memory("cpu").host or DEFAULT_MEMORY) * 4 // 5


class Bench:
    """Engines that stay open from one probe to the next, and what the reference answered. Close it when done."""

    def __init__(self, limits: Limits | None = None, *, tell: Callable[[str], None] = lambda _what: None) -> None:
        self.limits = limits or Limits()
        self.tell = tell
        self._engines: dict[str, Engine] = {}
        self._references: dict[Any, Reference | NoReference] = {}
        self._answers: dict[Any, Answer] = {}
        self._made: dict[Any, Form | ForgeError] = {}
        self._scratch = Path(tempfile.mkdtemp(prefix="forgekit-bench-"))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End every engine."""
        for engine in self._engines.values():
            engine.close()
        self._engines.clear()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def probe(self, form: Form, runtime: Runtime, beside: Sequence[Form] = ()) -> Probed:
        """Ask one runtime to load one form and to generate.

        Args:
            beside: the artifact's other forms, among which the unquantised one is looked for to compare with.
        """
        try:
            foretold = tuple(runtime.preflight(form))
        except SourceError as error:
            return unread(form, runtime, error)

        def said(verdict: Verdict, reason: str, **evidence: Any) -> Probed:
            return Probed(
                runtime=runtime.name,
                form=form.name,
                precision=precision_of(form),
                verdict=verdict,
                reason=reason,
                foretold=foretold,
                evidence=evidence,
            )

        hostile = next((obstacle for obstacle in foretold if obstacle.effect == "hostile"), None)
        if hostile is not None:
            return said(Verdict.REFUTED, f"not given to the engine: {hostile.text}", invariant=hostile.invariant)
        why_not = unavailable(runtime, form, self.limits)
        if form.path is None:
            why_not = why_not or "its weights are not on this machine, only their headers"
        elif runtime.elsewhere() and hasattr(runtime.driver, "inspect"):
            verdict, reason, more = self._inspected(form, runtime)
            return said(verdict, reason + _foretell(foretold), **more)
        if why_not:
            return said(Verdict.UNCHECKED, why_not + _foretell(foretold))
        return self._asked(form, runtime, beside, foretold, said)

    def _asked(
        self,
        form: Form,
        runtime: Runtime,
        beside: Sequence[Form],
        foretold: Sequence[Obstacle],
        said: Callable[..., Probed],
    ) -> Probed:
        try:
            ready = self._ready(form, runtime)
        except MachineError as error:
            return said(Verdict.UNCHECKED, f"it is not converted here: {error.what}" + _foretell(foretold))
        except ForgeError as error:
            return said(Verdict.REFUTED, f"it is not converted: {error.what}", asked=True)
        reference = self._reference(form, beside)
        own = runtime.name == REFERENCE and is_whole(form)
        known = reference if isinstance(reference, Reference) and not own else None
        answer = self._ask(ready, runtime, known)
        evidence = self._evidence(runtime, answer)
        if ready is not form:
            evidence["convertedFrom"] = form.name or "the checkpoint"
        if answer.outcome == "missing":
            return said(Verdict.UNCHECKED, f"{runtime.title} does not start here: {answer.said}" + _foretell(foretold))
        verdict, reason, more = self._judge(ready, runtime, answer, None if own else reference)
        return said(verdict, reason, asked=True, **evidence, **more)

    def _inspected(self, form: Form, runtime: Runtime) -> tuple[Verdict, str, dict[str, Any]]:
        """What can be said of a form that this machine may read and not run: never that it runs."""
        here = unavailable(replace(runtime, elsewhere=str), form, self.limits)
        if here:
            return Verdict.UNCHECKED, f"{runtime.elsewhere()}, and its graph is not read: {here}", {}
        try:
            ready = self._ready(form, runtime)
        except MachineError as error:
            return Verdict.UNCHECKED, f"{runtime.elsewhere()}, and it is not converted here: {error.what}", {}
        assert ready.path is not None
        self.tell(f"{runtime.title}: reading {ready.name}")
        answer = self._put_to(runtime, {"path": str(ready.path.resolve()), "inspect": True})
        if answer.outcome == "answered":
            seen = answer.found["seen"]
            made = ", ".join(f"{value} {key}" for key, value in seen.items() if isinstance(value, int))
            more: dict[str, Any] = {"graph": seen}
            graph = "its graph"
            if ready is not form:
                graph, more["convertedFrom"] = "it is converted here, the graph", form.name or "the checkpoint"
            return Verdict.UNCHECKED, f"{runtime.elsewhere()}; {graph} is read ({made}), and not run", more
        if answer.outcome in ("missing", "memory", "time") or answer.said.startswith(LACKS):
            return Verdict.UNCHECKED, f"{runtime.elsewhere()}, and its graph is not read: {answer.said}", {}
        return Verdict.REFUTED, f"its graph cannot be read: {answer.said}", {"asked": True}

    def _judge(  # noqa: PLR0911 - one per verdict and reason
        self, form: Form, runtime: Runtime, answer: Answer, reference: Reference | NoReference | None
    ) -> tuple[Verdict, str, dict[str, Any]]:
        if answer.outcome != "answered":
            return self._failed(form, runtime, answer)
        found = answer.found
        logits = self._logits(runtime, found)
        fault = insane(found, form.vocabulary, logits)
        if fault:
            return Verdict.REFUTED, fault, {}
        loaded = "loads and generates, twice the same"
        unread = str(found.get("notes", {}).get("tokenizer") or "")
        if reference is None and unread:
            verdict = Verdict.UNCHECKED if unread.startswith(LACKS) else Verdict.REFUTED
            return verdict, f"it loads, and its tokenizer does not: {unread}", {}
        if reference is None:
            return Verdict.CONFIRMED, f"{loaded}; every tensor finds its place", {}
        if isinstance(reference, NoReference):
            verdict = Verdict.UNPROVEN if reference.left_out else Verdict.UNCHECKED
            return verdict, f"{loaded}, and whether it computes what the weights say is open: {reference.why}", {}
        if runtime.remote:
            return same_text(found, reference, loaded)
        if logits is None:
            return same_tokens(form, found, reference, loaded)
        try:
            agreement = compare(reference.prompts, reference.outputs, found["outputs"], reference.logits, logits)
        except ValueError as error:
            return Verdict.REFUTED, f"it loads and is another model: {error}", {}
        return agreed(form, found, agreement, reference, loaded)

    def _failed(self, form: Form, runtime: Runtime, answer: Answer) -> tuple[Verdict, str, dict[str, Any]]:
        """Whose fault it is that nothing was answered."""
        said = _refusal(answer)
        if answer.outcome == "refused" and answer.said.startswith(LACKS):
            return Verdict.UNCHECKED, f"{runtime.title} lacks something here: {answer.said}", {}
        if answer.outcome == "memory" and 2 * memory_needed(runtime, form) > self.limits.bytes():
            return Verdict.UNCHECKED, f"{said}; this machine has too little to tell", {}
        if answer.outcome == "refused" and answer.phase != "load" and form.family is None and form.kind != "gguf":
            return Verdict.UNCHECKED, f"it loads, and forgekit does not know how this architecture is asked: {said}", {}
        return Verdict.REFUTED, said, {}

    def _ready(self, form: Form, runtime: Runtime) -> Form:
        """The form as the runtime reads it: itself, or converted; once."""
        if form.kind in runtime.reads or runtime.makes is None:
            return form
        key = (runtime.name, form.stamp)
        if key not in self._made:
            self.tell(f"converting for {runtime.title}")
            folder = Path(tempfile.mkdtemp(dir=self._scratch))
            try:
                self._made[key] = replace(runtime.makes(form, folder, self._put_to), architecture=form.architecture)
            except ForgeError as error:
                self._made[key] = error
        made = self._made[key]
        if isinstance(made, ForgeError):
            raise made
        return made

    def _put_to(self, runtime: Runtime, question: Mapping[str, Any]) -> Answer:
        limits = {"seconds": 4 * self.limits.seconds, "memory": self.limits.bytes(), "threads": self.limits.threads}
        return self._engine(runtime).ask({**limits, **question})

    def _engine(self, runtime: Runtime) -> Engine:
        if runtime.name not in self._engines:
            self._engines[runtime.name] = Engine(runtime, threads=self.limits.threads)
        return self._engines[runtime.name]

    def _ask(self, form: Form, runtime: Runtime, reference: Reference | None) -> Answer:
        """Put the question; the reference's own answer is kept, with its logits, for whoever asks again."""
        if reference is not None or runtime.name != REFERENCE:
            return self._put(form, runtime, reference)
        key = form.stamp
        if key not in self._answers:
            answer = self._put(form, runtime, None)
            logits = self._read_logits(runtime, answer.found)
            self._answers[key] = replace(answer, found={**answer.found, "rows": logits})
        return self._answers[key]

    def _put(self, form: Form, runtime: Runtime, reference: Reference | None) -> Answer:
        engine = self._engine(runtime)
        self.tell(f"{runtime.title}: loading {form.name or form.precision}")
        question = {
            "path": str(form.path.resolve()) if form.path is not None else "",
            "name": form.path.name if form.path is not None else form.name,
            "family": form.family.name if form.family else "",
            "precision": form.precision,
            "exact": not form.quantised and self.limits.device == "cpu",
            "towers": any(name.endswith("ForConditionalGeneration") for name in form.architectures),
            "device": self.limits.device,
            "threads": self.limits.threads,
            "tokens": TOKENS,
            "texts": list(TEXTS),
            "fallback": plain_prompts(form.vocabulary or 256),
            "logits": str(engine.scratch / "logits.bin"),
            "seconds": self.limits.seconds + form.total / SLOW_DISK,
            "memory": self.limits.bytes(),
        }
        if reference is not None:
            question |= {"prompts": reference.prompts, "sequences": reference.sequences}
        answer = engine.ask(question)
        return replace(answer, found={**answer.found, "exact": question["exact"]})

    def _reference(self, form: Form, beside: Sequence[Form]) -> Reference | NoReference:
        """What the unquantised weights answer, or why there is nothing to compare with."""
        whole = next(filter(is_whole, (*beside, form)), None)
        if whole is None:
            return NoReference("the artifact ships no unquantised safetensors", left_out=True)
        if whole.path is None:
            return NoReference("the unquantised weights are not on this machine")
        key = whole.stamp
        if key not in self._references:
            self._references[key] = self._ask_reference(whole)
        return self._references[key]

    def _ask_reference(self, form: Form) -> Reference | NoReference:
        runtime = RUNTIMES[REFERENCE]
        if any(obstacle.effect == "hostile" for obstacle in runtime.preflight(form)):
            return NoReference("the unquantised weights are not given to the reference")
        why_not = unavailable(runtime, form, replace(self.limits, device="cpu"))
        if why_not:
            return NoReference(f"the reference cannot run: {why_not}")
        answer = self._ask(form, runtime, None)
        if answer.outcome != "answered":
            return NoReference(f"the reference does not run: {_refusal(answer)}")
        if answer.found.get("notes", {}).get("faults"):
            return NoReference("the reference makes up weights that it does not find")
        logits = self._logits(runtime, answer.found)
        if logits is None or not all(finite(rows) for rows in logits):
            return NoReference("the reference's own logits are not finite")
        encoded = answer.found.get("encoded")
        return Reference(
            prompts=answer.found["prompts"],
            outputs=answer.found["outputs"],
            sequences=answer.found["sequences"],
            logits=logits,
            encoded=encoded if encoded and all(encoded) else None,
            written=written if (written := answer.found.get("written")) and None not in written else None,
        )

    def _logits(self, runtime: Runtime, found: Mapping[str, Any]) -> list[np.ndarray[Any, Any]] | None:
        kept: list[np.ndarray[Any, Any]] | None = found.get("rows")
        return kept if kept is not None else self._read_logits(runtime, found)

    def _read_logits(self, runtime: Runtime, found: Mapping[str, Any]) -> list[np.ndarray[Any, Any]] | None:
        """float32 [tokens, vocabulary] of each sequence; None where the engine gave none."""
        import numpy as np

        shapes = found.get("logits")
        if not shapes:
            return None
        data = np.fromfile(self._engine(runtime).scratch / "logits.bin", dtype="<f4")
        made, at = [], 0
        for rows, columns in shapes:
            made.append(data[at : at + rows * columns].reshape(rows, columns))
            at += rows * columns
        return made

    def _evidence(self, runtime: Runtime, answer: Answer) -> dict[str, Any]:
        found = answer.found
        evidence: dict[str, Any] = {**found.get("engine", {}), "confined": dict(self._engine(runtime).confined)}
        if "loadSeconds" in found:
            evidence["loadSeconds"] = round(found["loadSeconds"], 3)
        if "peakBytes" in found:
            evidence["peakMemoryMiB"] = round(found["peakBytes"] / 2**20)
            evidence["baselineMiB"] = round(found.get("baselineBytes", 0) / 2**20)
        if "outputs" in found:
            made = sum(map(len, found["outputs"]))
            evidence["promptHash"] = text_hash(found["prompts"])
            evidence["outputHash"] = text_hash(found["outputs"])
            evidence["outputTokenIds"] = found["outputs"]
            evidence["tokensPerSec"] = round(made / max(found["generateSeconds"], 1e-9), 1)
        return evidence


def unavailable(runtime: Runtime, form: Form | None, limits: Limits) -> str:
    """Why the runtime cannot be asked on this machine; empty where it can."""
    elsewhere = runtime.elsewhere()
    if elsewhere:
        return elsewhere
    for module in runtime.modules:
        try:
            require(runtime.name, module)
        except MachineError as error:
            return f"{error.what}; {runtime.install}"
    if form is None:
        return ""
    needed = memory_needed(runtime, form)
    room = limits.bytes()
    if limits.device == "cpu" and needed > room:
        return f"it takes about {needed / 1e9:.1f} GB of memory and {room / 1e9:.1f} GB may be used"
    return ""


def memory_needed(runtime: Runtime, form: Form) -> int:
    """Bytes a load is expected to take: the weights as the engine holds them, and itself."""
    try:
        weights = form.elements * runtime.widens if runtime.widens and not form.quantised else form.total
    except CheckpointError:
        weights = form.total
    return weights * 5 // 4 + OVERHEAD


def plain_prompts(vocabulary: int) -> list[list[int]]:
    """Four prompts of eight token ids, drawn by a hash so that they are the same everywhere."""
    drawn = hashlib.shake_256(b"forgekit probe prompts/1").digest(4 * PROMPT_LENGTH * 4)
    low = min(16, vocabulary // 2)  # special tokens stand first
    numbers = [low + int.from_bytes(drawn[i : i + 4], "little") % (vocabulary - low) for i in range(0, len(drawn), 4)]
    return [numbers[i : i + PROMPT_LENGTH] for i in range(0, len(numbers), PROMPT_LENGTH)]


def text_hash(value: Any) -> str:
    """SHA-256 of a value as compact JSON."""
    return str(sha256(json.dumps(value, separators=(",", ":")).encode()))


def matrix(
    forms: Sequence[Form], runtimes: Sequence[Runtime], bench: Bench, *, beside: Sequence[Form] = ()
) -> list[Probed]:
    """Every runtime with every form it would be given; one row saying so where there is none.

    Args:
        beside: further forms to look for the unquantised weights among.
    """
    cells = []
    for runtime in runtimes:
        chosen = choose(runtime, forms)
        cells += [bench.probe(form, runtime, beside or forms) for form in chosen]
        if not chosen:
            cells.append(none_shipped(runtime, forms))
    return cells


def _refusal(answer: Answer) -> str:
    verb = {"refused": "it refuses", "died": "it crashes", "time": "it hangs", "memory": "it runs out of memory"}
    return f"{verb[answer.outcome]} ({answer.phase}): {answer.said}"


def _foretell(obstacles: Sequence[Obstacle]) -> str:
    return f"; the headers foretell: {obstacles[0].text}" if obstacles else ""
