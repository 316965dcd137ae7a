"""Importance metrics: which experts a mixture can spare.

A metric is one file. It says what it needs to see (the weights, the router's
choices, or the experts' outputs as well), which sums it takes of what it sees,
and how a score follows from the sums. A higher score means: keep.

Notation in the formulas: T_j are the tokens routed to expert j, N_j = |T_j|,
g_j(t) is the gate weight the model itself used for token t, f_j(t) the
expert's output.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from forgekit.errors import CheckpointError
from forgekit.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor

Sums = Mapping[str, Sequence[float]]
"""A sum per expert, by the name the metric gave it."""


@dataclass(frozen=True, slots=True)
class Routing:
    """What one layer did with one batch of tokens.

    Attributes:
        experts: how many the layer has.
        chosen: int64[tokens, k], the experts each token went to.
        gates: float64[tokens, k], the weights the model gave them.
        norms: float64[tokens, k], L2 norm of each chosen expert's output; None unless the metric needs outputs.
    """

    experts: int
    chosen: Tensor
    gates: Tensor
    norms: Tensor | None

    def per_expert(self, values: Tensor | None = None) -> Tensor:
        """Sum of ``values`` [tokens, k] over the tokens of each expert; the number of them where None."""
        import torch

        flat = self.chosen.reshape(-1)
        if values is None:
            return torch.bincount(flat, minlength=self.experts)
        made = torch.zeros(self.experts, dtype=torch.float64, device=flat.device)
        return made.index_add_(0, flat, values.reshape(-1).to(torch.float64))


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One expert of one layer, as it stands in the checkpoint; bytes are read when asked for.

    Attributes:
        router_row: (dtype, bytes) of the expert's row of the router, [hidden].
        tensors: (dtype, bytes) of each of its projections.
    """

    router_row: Callable[[], tuple[str, bytes]]
    tensors: Callable[[], Iterator[tuple[str, bytes]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Metric:
    """One measure of importance.

    Attributes:
        name: as recipes write it.
        formula: of the score, in the notation above.
        source: paper or code.
        needs: ``weights``: nothing is run; ``router``: the model runs; ``outputs``: expert outputs are measured too.
        version: written into every file of scores; changes when the same input would score differently.
        observe: sums of one batch, by name; for ``router`` and ``outputs``.
        score: scores of one layer from the sums of all batches.
        weigh: score of one expert from its weights; for ``weights``.
    """

    name: str
    formula: str
    source: str
    needs: Literal["weights", "router", "outputs"]
    version: str = "1"
    observe: Callable[[Routing], dict[str, Any]] | None = None
    score: Callable[[Sums], list[float]] | None = None
    weigh: Callable[[ExpertWeights], float] | None = None


def select(scores: Sequence[float], keep: int, *, groups: int = 1) -> list[int]:
    """The experts a layer keeps, ascending: highest score first, the lower index on a tie.

    Args:
        keep: how many; with ``groups``, the same number in each group of neighbours.

    Raises:
        CheckpointError: a score is not a number, or the numbers do not divide evenly.
    """
    if bad := [index for index, score in enumerate(scores) if math.isnan(score)]:
        raise CheckpointError(
            f"expert {bad[0]} has no score: it is not a number", hint="the weights or the profile hold NaN"
        )
    size, rest = divmod(len(scores), groups)
    each, left = divmod(keep, groups)
    if rest or left:
        raise CheckpointError(
            f"{len(scores)} experts in {groups} groups cannot be cut to {keep} evenly",
            hint=f"keep a multiple of {groups}",
        )
    kept: list[int] = []
    for start in range(0, len(scores), size):
        order = sorted(range(start, start + size), key=lambda index: (-scores[index], index))
        kept += order[:each]
    return sorted(kept)


def exact_moments(dtype: str, data: bytes) -> tuple[int, float, float]:
    """(number of values, sum of magnitudes, sum of squares), each sum rounded once.

    Sixteen-bit values are counted by bit pattern and added as integers, so the
    result depends on no order of addition and no processor.

    Raises:
        CheckpointError: a value is infinite or not a number, or the dtype is not floating point.
    """
    import numpy as np

    if dtype in ("BF16", "F16"):
        patterns = np.bincount(np.frombuffer(data, "<u2") & 0x7FFF, minlength=1 << 15)
        absolute, squares = 0, 0
        mantissa_bits, bias = (7, 127) if dtype == "BF16" else (10, 15)
        for pattern in np.flatnonzero(patterns).tolist():
            count = int(patterns[pattern])
            exponent, mantissa = pattern >> mantissa_bits, pattern & ((1 << mantissa_bits) - 1)
            if exponent == 2 * bias + 1:
                raise CheckpointError("a weight is infinite or not a number")
            value = mantissa if exponent == 0 else (mantissa | 1 << mantissa_bits) << (exponent - 1)
            absolute += count * value
            squares += count * value * value
        unit = mantissa_bits + bias - 1  # every value is a whole multiple of 2**-unit
        return len(data) // 2, _scaled(absolute, unit), _scaled(squares, 2 * unit)
    if dtype in ("F32", "F64"):
        values = np.abs(np.frombuffer(data, "<f4" if dtype == "F32" else "<f8").astype(np.float64))
        if not np.isfinite(values).all():
            raise CheckpointError("a weight is infinite or not a number")
        listed = values.tolist()
        return len(listed), math.fsum(listed), math.fsum(value * value for value in listed)
    raise CheckpointError(f"weights of dtype {dtype} have no magnitude that can be ranked")


def _scaled(whole: int, shift: int) -> float:
    """``whole * 2**-shift``, rounded once."""
    extra = max(whole.bit_length() - 80, 0)
    sticky = whole & ((1 << extra) - 1) != 0
    return math.ldexp((whole >> extra) | sticky, extra - shift)


METRICS = Registry("metric", "forgekit.metrics", Metric)
