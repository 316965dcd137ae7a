"""What an engine's answer proves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forgekit.findings import Verdict
from forgekit.forms import Form
from forgekit.probing.agreement import LEAST, Agreement, bits_of, bound_for


@dataclass(frozen=True, slots=True)
class NoReference:
    """Why there is nothing to compare with.

    Attributes:
        left_out: whether the publisher ships nothing to compare with; else this machine lacks it.
    """

    why: str
    left_out: bool = False


@dataclass
class Reference:
    """What the unquantised weights answer in Transformers."""

    prompts: list[list[int]]
    outputs: list[list[int]]
    sequences: list[list[int]]
    logits: list[Any]
    encoded: list[list[int]] | None
    written: list[str] | None


def same_text(found: Mapping[str, Any], reference: Reference, loaded: str) -> tuple[Verdict, str, dict[str, Any]]:
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


def same_tokens(
    form: Form, found: Mapping[str, Any], reference: Reference, loaded: str
) -> tuple[Verdict, str, dict[str, Any]]:
    """What an engine that gives no logits shows by its tokens alone."""
    same = leading(reference.outputs, found["outputs"])
    told = f"{loaded}; its first {same} tokens are the reference's"
    if same >= (1 if form.quantised else 4):
        return Verdict.CONFIRMED, told, {"sameTokens": same}
    if form.quantised:
        return Verdict.UNCHECKED, f"{told}, and without logits rounding cannot be told from other weights", {}
    return Verdict.REFUTED, told, {"sameTokens": same}


def agreed(
    form: Form, found: Mapping[str, Any], agreement: Agreement, reference: Reference, loaded: str
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
    if logits is not None and not all(map(finite, logits)):
        return "its logits hold NaN or infinities"
    return ""


def finite(rows: Any) -> bool:
    import numpy as np

    return bool(np.isfinite(rows).all())


def leading(reference: Sequence[Sequence[int]], outputs: Sequence[Sequence[int]]) -> int:
    return min(
        next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
        for ours, theirs in zip(reference, outputs, strict=False)
    )
