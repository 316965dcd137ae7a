"""One form in one runtime: what its headers foretell, what its engine does, and what of that is proven."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from forgekit.errors import CheckpointError, ForgeError, MachineError, SourceError
from forgekit.findings import Verdict
from forgekit.models.strategy import memory
from forgekit.models.tools import require
from forgekit.runtimes import RUNTIMES, Obstacle, Runtime
from forgekit.runtimes._agreement import LEAST, Agreement, bits_of, bound_for, compare
from forgekit.runtimes._engine import LACKS, Answer, Engine
from forgekit.runtimes._form import Form

if TYPE_CHECKING:
    import numpy as np

REFERENCE = "transformers"
TEXTS = ("The capital of France is", "def fibonacci(n):\n    ", "Once upon a time", "1 + 1 = 2, 2 + 2 =")
TOKENS = 8  # generated after each prompt
PROMPT_LENGTH = 8  # of prompts made of ids, where no tokenizer can be had
DEFAULT_MEMORY = 8 << 30  # where the machine does not say what it has
UNREADABLE = "unreadable"  # stands for the precision of a form whose headers are not
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


@dataclass(frozen=True, slots=True)
class NoReference:
    """Why there is nothing to compare with.

    Attributes:
        left_out: whether the publisher ships nothing to compare with; else this machine lacks it.
    """

    why: str
    left_out: bool = False


@dataclass
class _Reference:
    """What the unquantised weights answer in Transformers."""

    prompts: list[list[int]]
    outputs: list[list[int]]
    sequences: list[list[int]]
    logits: list[Any]
    encoded: list[list[int]] | None
    written: list[str] | None


class Bench:
    """Engines that stay open from one probe to the next, and what the reference answered. Close it when done."""

    def __init__(self, limits: Limits | None = None, *, tell: Callable[[str], None] = lambda _what: None) -> None:
        self.limits = limits or Limits()
        self.tell = tell
        self._engines: dict[str, Engine] = {}
        self._references: dict[Any, _Reference | NoReference] = {}
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

    def probe(  # noqa: PLR0911 - one per way it can end
        self, form: Form, runtime: Runtime, beside: Sequence[Form] = ()
    ) -> Probed:
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
                precision=_precision(form),
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
        try:
            ready = self._ready(form, runtime)
        except MachineError as error:
            return said(Verdict.UNCHECKED, f"it is not converted here: {error.what}" + _foretell(foretold))
        except ForgeError as error:
            return said(Verdict.REFUTED, f"it is not converted: {error.what}", asked=True)
        reference = self._reference(form, beside)
        own = runtime.name == REFERENCE and _whole(form)
        known = reference if isinstance(reference, _Reference) and not own else None
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
        assert form.path is not None
        self.tell(f"{runtime.title}: reading {form.name}")
        answer = self._put_to(runtime, {"path": str(form.path.resolve()), "inspect": True})
        if answer.outcome == "answered":
            seen = answer.found["seen"]
            made = ", ".join(f"{value} {key}" for key, value in seen.items() if isinstance(value, int))
            return Verdict.UNCHECKED, f"{runtime.elsewhere()}; its graph is read ({made}), and not run", {"graph": seen}
        if answer.outcome == "missing" or answer.said.startswith(LACKS):
            return Verdict.UNCHECKED, f"{runtime.elsewhere()}, and its graph is not read: {answer.said}", {}
        return Verdict.REFUTED, f"its graph cannot be read: {answer.said}", {"asked": True}

    def _judge(  # noqa: PLR0911 - one per verdict and reason
        self, form: Form, runtime: Runtime, answer: Answer, reference: _Reference | NoReference | None
    ) -> tuple[Verdict, str, dict[str, Any]]:
        if answer.outcome != "answered":
            return self._failed(form, runtime, answer)
        found = answer.found
        logits = self._logits(runtime, found)
        fault = insane(found, form.vocabulary, logits)
        if fault:
            return Verdict.REFUTED, fault, {}
        loaded = "loads and generates, twice the same"
        if reference is None:
            return Verdict.CONFIRMED, f"{loaded}; every tensor finds its place", {}
        if isinstance(reference, NoReference):
            verdict = Verdict.UNPROVEN if reference.left_out else Verdict.UNCHECKED
            return verdict, f"{loaded}, and whether it computes what the weights say is open: {reference.why}", {}
        if runtime.remote:
            return _same_text(found, reference, loaded)
        if logits is None:
            return _same_tokens(form, found, reference, loaded)
        try:
            agreement = compare(reference.prompts, reference.outputs, found["outputs"], reference.logits, logits)
        except ValueError as error:
            return Verdict.REFUTED, f"it loads and is another model: {error}", {}
        return _agreed(form, found, agreement, reference, loaded)

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

    def _ask(self, form: Form, runtime: Runtime, reference: _Reference | None) -> Answer:
        """Put the question; the reference's own answer is kept, with its logits, for whoever asks again."""
        if reference is not None or runtime.name != REFERENCE:
            return self._put(form, runtime, reference)
        key = form.stamp
        if key not in self._answers:
            answer = self._put(form, runtime, None)
            logits = self._read_logits(runtime, answer.found)
            self._answers[key] = replace(answer, found={**answer.found, "rows": logits})
        return self._answers[key]

    def _put(self, form: Form, runtime: Runtime, reference: _Reference | None) -> Answer:
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

    def _reference(self, form: Form, beside: Sequence[Form]) -> _Reference | NoReference:
        """What the unquantised weights answer, or why there is nothing to compare with."""
        whole = next(filter(_whole, (*beside, form)), None)
        if whole is None:
            return NoReference("the artifact ships no unquantised safetensors", left_out=True)
        if whole.path is None:
            return NoReference("the unquantised weights are not on this machine")
        key = whole.stamp
        if key not in self._references:
            self._references[key] = self._ask_reference(whole)
        return self._references[key]

    def _ask_reference(self, form: Form) -> _Reference | NoReference:
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
        if logits is None or not all(_finite(rows) for rows in logits):
            return NoReference("the reference's own logits are not finite")
        encoded = answer.found.get("encoded")
        return _Reference(
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


def _same_text(found: Mapping[str, Any], reference: _Reference, loaded: str) -> tuple[Verdict, str, dict[str, Any]]:
    """A server's text against the reference's: it may serve any weights under any name."""
    if reference.written is None:
        return Verdict.UNCHECKED, f"{loaded}; without a tokenizer its text cannot be held against the weights", {}
    pairs = list(zip(reference.written, found["written"], strict=True))
    same = sum(ours.strip() == theirs.strip() for ours, theirs in pairs)
    if same == len(pairs):
        return Verdict.CONFIRMED, f"{loaded}; all {same} texts are what Transformers writes from these weights", {}
    ours, theirs = next(pair for pair in pairs if pair[0].strip() != pair[1].strip())
    reason = f"it writes {theirs[:40]!r} where Transformers writes {ours[:40]!r} from these weights"
    return Verdict.REFUTED, reason, {"sameTexts": same}


def _same_tokens(
    form: Form, found: Mapping[str, Any], reference: _Reference, loaded: str
) -> tuple[Verdict, str, dict[str, Any]]:
    """What an engine that gives no logits shows by its tokens alone."""
    same = _leading(reference.outputs, found["outputs"])
    told = f"{loaded}; its first {same} tokens are the reference's"
    if same >= (1 if form.quantised else 4):
        return Verdict.CONFIRMED, told, {"sameTokens": same}
    if form.quantised:
        return Verdict.UNCHECKED, f"{told}, and without logits rounding cannot be told from other weights", {}
    return Verdict.REFUTED, told, {"sameTokens": same}


def _agreed(
    form: Form, found: Mapping[str, Any], agreement: Agreement, reference: _Reference, loaded: str
) -> tuple[Verdict, str, dict[str, Any]]:
    computed = found.get("notes", {}).get("dtype")  # where an engine cannot compute in float32
    exact = found["exact"] and computed is None and (form.kind == "safetensors" or form.precision == "F32")
    precision = str(computed or form.precision)
    bound = bound_for(bits_of(precision), exact=exact)
    more: dict[str, Any] = {"agreement": agreement.tree()}
    if reference.encoded is not None and all(found.get("encoded") or [None]):
        more["tokenizerAgrees"] = found["encoded"] == reference.encoded
        if not more["tokenizerAgrees"]:
            return Verdict.REFUTED, "its tokenizer splits text otherwise than the model's own", more
    if bound is None:
        bound = LEAST
        if agreement.fault(bound):
            reason = f"{loaded}; at {precision} rounding alone can look like other weights, and here it does"
            return Verdict.UNCHECKED, reason, more
    more["bound"] = {"loss": bound.loss, "top": bound.top, **({} if bound.error is None else {"error": bound.error})}
    fault = agreement.fault(bound)
    if fault:
        return Verdict.REFUTED, f"it loads and answers otherwise than Transformers does: {fault}", more
    if not exact:
        reason = (
            f"{loaded}; at {precision} it keeps Transformers' choice among its ten likeliest at {agreement.top:.0%} of "
            f"positions (at least {bound.top:.0%}) and is {agreement.loss:.1%} off (at most {bound.loss:.0%})"
        )
        return Verdict.CONFIRMED, reason, more
    same = f"all {agreement.tokens} tokens" if agreement.same == agreement.tokens else f"{agreement.same} tokens"
    return Verdict.CONFIRMED, f"{loaded}; {same} as Transformers, logits {agreement.error:.1e} apart", more


def insane(found: Mapping[str, Any], vocabulary: int | None, logits: Sequence[Any] | None = None) -> str:
    """What is not sane in what an engine did, in words; empty where nothing is."""
    faults = found.get("notes", {}).get("faults")
    if faults:
        told = "; ".join(f"{kind.replace('_', ' ')}: {', '.join(names[:3])}" for kind, names in faults.items())
        return f"it loads, and makes up what it does not find ({told})"
    outputs = found["outputs"]
    if not outputs or not all(outputs):
        return "it loads and generates nothing"
    limit = vocabulary or max((rows.shape[1] for rows in logits or ()), default=0)
    stray = next((token for output in outputs for token in output if token < 0 or (limit and token >= limit)), None)
    if stray is not None:
        return f"it generates the token id {stray}, and there are {limit}"
    if "repeated" in found and found["repeated"] != outputs:
        return "asked twice, it answers differently, decoding greedily"
    if logits is not None and not all(map(_finite, logits)):
        return "its logits hold NaN or infinities"
    return ""


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
    return "sha256:" + hashlib.sha256(json.dumps(value, separators=(",", ":")).encode()).hexdigest()


def choose(runtime: Runtime, forms: Sequence[Form]) -> list[Form]:
    """The forms a runtime would be given: those of the best kind it reads, else what can be turned into one."""
    for kind in runtime.reads:
        own = [form for form in forms if form.kind == kind]
        if own:
            return own
    if runtime.makes is None:
        return []
    return [form for form in forms if form.kind == "safetensors" and (_whole(form) or _precision(form) == UNREADABLE)][
        :1
    ]


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
                    precision=_precision(form),
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


def _whole(form: Form) -> bool:
    """Whether a form is a checkpoint whose weights nobody has quantised."""
    try:
        return form.kind == "safetensors" and not form.quantised
    except ForgeError:
        return False


def _precision(form: Form) -> str:
    try:
        return form.precision
    except ForgeError:
        return UNREADABLE


def _refusal(answer: Answer) -> str:
    verb = {"refused": "it refuses", "died": "it crashes", "time": "it hangs", "memory": "it runs out of memory"}
    return f"{verb[answer.outcome]} ({answer.phase}): {answer.said}"


def _foretell(obstacles: Sequence[Obstacle]) -> str:
    return f"; the headers foretell: {obstacles[0].text}" if obstacles else ""


def _finite(rows: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(rows).all())


def _leading(reference: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> int:
    return min(
        next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
        for ours, theirs in zip(reference, outputs, strict=False)
    )
