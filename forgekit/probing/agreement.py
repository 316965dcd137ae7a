"""Whether an engine computes what the reference computes.

The reference is Transformers in float32. Both are given the same token ids,
so tokenizers play no part, and the engine is asked for its logits along the
reference's own continuation, so one early difference is not counted twice.

Rounding differs between engines and between precisions, so what counts as
agreement is stated per number of bits. The scale is the model's own: the
Kullback-Leibler divergence from the reference is compared with the divergence
between the reference's answers at unrelated positions, which is what weights
that were made up would give.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[np.float32]]

TOP = 10


@dataclass(frozen=True, slots=True)
class Bound:
    """What counts as agreement at one precision.

    Attributes:
        loss: largest mean divergence, as a share of that between unrelated positions.
        top: smallest share of positions where the reference's choice is among the engine's ten likeliest.
        error: largest mean relative error of the logits; None where rounding has no useful limit.
    """

    loss: float
    top: float
    error: float | None = None


EXACT = Bound(loss=0.005, top=0.99, error=0.005)
"""In float32 on both sides. Measured: 1e-6 to 3e-4. A norm rounded to bfloat16 is 0.009 off, a bias left out 0.05."""
BOUNDS = (
    (16, Bound(0.05, 0.9)),
    (8, Bound(0.12, 0.85)),
    (6, Bound(0.25, 0.7)),
    (5, Bound(0.4, 0.5)),
    (4, Bound(0.65, 0.35)),
)
"""By bits per weight. Chosen from what llama.cpp's types lose on random weights, which are the worst there are for
a quantiser, with weights of another seed at a loss of 1 and a top share of 0.06 at most; see perf/RESULTS.md."""


LEAST = BOUNDS[-1][1]
"""What is enough for fewer bits than four, where less than that decides nothing."""


def bound_for(bits: float, *, exact: bool) -> Bound | None:
    """The bound for weights of so many bits; None below four, where rounding alone looks like other weights."""
    if exact:
        return EXACT
    return next((bound for least, bound in BOUNDS if bits >= least), None)


def bits_of(precision: str) -> float:
    """Bits per weight of a precision by its name: ``Q4_K_M`` 4, ``mlx-8bit`` 8, ``BF16`` 16, ``F32`` 32."""
    if precision in ("BF16", "F16"):
        return 16
    if precision in ("F32", "onnx"):
        return 32
    digits = [int(text) for text in _numbers(precision) if 1 <= int(text) <= 16]
    return digits[0] if digits else 0


def _numbers(text: str) -> list[str]:
    found, current = [], ""
    for letter in text + " ":
        if letter.isdigit():
            current += letter
        elif current:
            found.append(current)
            current = ""
    return found


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How an engine compares with the reference over ``positions``.

    Attributes:
        same: greedy tokens equal up to the first difference, of the prompt that differs first; all of them where none.
        divergence: mean KL divergence from the reference, in nats.
        scale: the same between the reference's answers at unrelated positions.
        top: share of positions where the reference's choice is among the engine's ten likeliest.
        error: mean of ‖e − r‖ / ‖r‖ over rows of logits, each centred on its mean.
        gap: at the first difference, how far below its own choice the reference ranks the engine's, in nats.
        spread: root mean square of the reference's centred logits.
    """

    positions: int
    same: int
    tokens: int
    divergence: float
    scale: float
    top: float
    error: float
    gap: float
    spread: float

    @property
    def loss(self) -> float:
        return self.divergence / self.scale if self.scale > 0 else math.inf if self.divergence > 0 else 0.0

    def tree(self) -> dict[str, Any]:
        """For evidence: rounded, so that it reads."""
        tree = {
            key: float(f"{value:.3g}") if isinstance(value, float) else value for key, value in asdict(self).items()
        }
        return tree | {"loss": float(f"{self.loss:.3g}")}

    def fault(self, bound: Bound) -> str:
        """What is not within the bound, in words; empty where everything is."""
        if not math.isfinite(self.divergence) or not math.isfinite(self.error):
            return "its logits are not finite where the reference's are"
        if self.loss > bound.loss:
            return (
                f"its answers are off by {self.loss:.1%} of what unrelated answers differ by, "
                f"more than the {bound.loss:.1%} that rounding may cost at this precision"
            )
        if self.top < bound.top:
            return (
                f"the reference's choice is in its {TOP} likeliest at {self.top:.0%} of positions, not {bound.top:.0%}"
            )
        if bound.error is not None and self.error > bound.error:
            return (
                f"its logits are off by {self.error:.1%}, more than rounding does at this precision ({bound.error:.0%})"
            )
        if bound.error is not None and self.gap > 2 * bound.error * self.spread:  # two logits, each off by that much
            return f"its token {self.same + 1} is one that the reference holds to be {self.gap:.2g} nats less likely"
        return ""


def compare(
    prompts: Sequence[Sequence[int]],
    reference: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    expected: Sequence[Array],
    found: Sequence[Array],
) -> Agreement:
    """Compare an engine with the reference.

    Args:
        prompts: token ids given to both.
        reference, outputs: what each of the two generated after them, greedily.
        expected, found: float32 [prompt + reference, vocabulary] of each prompt followed by the reference's answer.

    Raises:
        ValueError: the two have different vocabularies.
    """
    import numpy as np

    rows, other, counts = [], [], []
    for prompt, answer, ours, theirs in zip(prompts, reference, expected, found, strict=True):
        width = min(ours.shape[1], theirs.shape[1])
        if abs(ours.shape[1] - theirs.shape[1]) > max(256, ours.shape[1] // 8):  # engines pad to a round number
            raise ValueError(f"it has {theirs.shape[1]} token ids and the reference {ours.shape[1]}")
        span = slice(len(prompt) - 1, len(prompt) + len(answer) - 1)
        rows.append(ours[span, :width].astype(np.float64))
        other.append(theirs[span, :width].astype(np.float64))
        counts.append(len(answer))
    ours_, theirs_ = np.concatenate(rows), np.concatenate(other)
    ours_log, theirs_log = _log_softmax(ours_), _log_softmax(theirs_)
    probability = np.exp(ours_log)
    divergence = _divergence(probability, ours_log, theirs_log)
    scale = _divergence(probability, ours_log, np.roll(ours_log, 1, axis=0)) if len(ours_log) > 1 else 0.0
    likeliest = np.argsort(-theirs_, axis=1, kind="stable")[:, :TOP]
    top = float(np.mean([choice in row for choice, row in zip(ours_.argmax(1), likeliest, strict=True)]))
    centred, theirs_centred = ours_ - ours_.mean(1, keepdims=True), theirs_ - theirs_.mean(1, keepdims=True)
    lengths = np.linalg.norm(centred, axis=1)
    error = float(np.mean(np.linalg.norm(theirs_centred - centred, axis=1) / np.where(lengths > 0, lengths, 1)))
    same, gap = _first_difference(reference, outputs, ours_log, counts)
    return Agreement(
        positions=len(ours_),
        same=same,
        tokens=max(counts, default=0),
        divergence=divergence,
        scale=scale,
        top=top,
        error=error,
        gap=gap,
        spread=float(np.mean(lengths) / math.sqrt(centred.shape[1])),
    )


def _log_softmax(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import numpy as np

    shifted = values - values.max(axis=1, keepdims=True)
    made: np.ndarray[Any, Any] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return made


def _divergence(p: np.ndarray[Any, Any], log_p: np.ndarray[Any, Any], log_q: np.ndarray[Any, Any]) -> float:
    """Mean over rows of KL(p ‖ q), in nats."""
    import numpy as np

    with np.errstate(invalid="ignore"):
        terms = np.where(p > 0, p * (log_p - log_q), 0.0)
    return max(0.0, float(terms.sum(axis=1).mean()))


def _first_difference(
    reference: Sequence[Sequence[int]],
    outputs: Sequence[Sequence[int]],
    log_p: np.ndarray[Any, Any],
    counts: Sequence[int],
) -> tuple[int, float]:
    same, gap, start = max(counts, default=0), 0.0, 0
    for ours, theirs, count in zip(reference, outputs, counts, strict=True):
        step = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs))
        )
        if step < len(ours):
            same = min(same, step)
            if step < len(theirs) and theirs[step] < log_p.shape[1]:
                row = log_p[start + step]
                gap = max(gap, float(row[ours[step]] - row[theirs[step]]))
        start += count
    return same, gap
