"""Store each unit at a precision that fits how much it is used.

A unit is an expert. Its utilisation is its importance against the largest of
its layer. Below the dead threshold its weights become zero; above the high one
they stay; in between they are rounded to fewer bits, block by block, as a quantiser that
stores that many would round them. Shapes and dtype stay, so the result loads
everywhere; ``precision.json`` says what each unit was given.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from forgekit import importance
from forgekit.alloy.node import Number
from forgekit.checkpoint.opening import CONFIG, Checkpoint, open_folder, parse_object
from forgekit.checkpoint.writing import Made, Piece, copy_companions, copy_file, unchanged, write_shards, write_text
from forgekit.errors import CheckpointError
from forgekit.families import Experts, FusedExperts
from forgekit.metrics import METRICS
from forgekit.stages import Fraction, Given, Outcome, Stage, StageParams, Work
from forgekit.surgery.experts import Mixture, mixture

if TYPE_CHECKING:
    import numpy as np

BLOCK = 32  # values that share a scale, as in Q8_0 and Q4_0
BITS = {"dead": 0, "dormant": 2, "low": 3, "medium": 4, "high": 8, "full": 16}
PRECISION = "precision.json"


class Params(StageParams):
    dead_threshold: Fraction = 0.1
    dormant_threshold: Fraction = 0.2
    low_threshold: Fraction = 0.3
    medium_threshold: Fraction = 0.5
    high_threshold: Fraction = 0.7
    target_size_gb: Annotated[float, Number(gt=0)] | None = None
    enable_quantization: bool = True

    def level(self, utilisation: float) -> str:
        """Which band a utilisation falls into."""
        for name in ("dead", "dormant", "low", "medium", "high"):
            if utilisation < getattr(self, f"{name}_threshold"):
                return name
        return "full"


def problems(given: Given) -> Iterator[str]:
    names = ("dead", "dormant", "low", "medium", "high")
    values = [getattr(given.params, f"{name}_threshold") for name in names]
    if values != sorted(values):
        yield f"the thresholds {', '.join(names)} do not ascend: {', '.join(map(str, values))}"


def run(work: Work) -> Outcome:
    """Band the experts by the importance that was measured, and round their weights.

    Raises:
        CheckpointError: the importance file is of another model, or the result is larger than targetSizeGb.
    """
    params: Params = work.params
    made = mixture(open_folder(work.source), work.fact)
    path = work.at_hand["importance"]
    metric = METRICS[str(parse_object(path.read_text("utf-8"), str(path)).get("metric"))]
    scores = importance.read(path, metric=metric, layers=made.layers, experts=made.experts)
    bands = {layer: banded(params, scores[layer]) for layer in made.layers}
    bits = {
        layer: [BITS[band] if params.enable_quantization or band == "dead" else 16 for band in row]
        for layer, row in bands.items()
    }
    stored = stored_bytes(made, bits)
    if params.target_size_gb is not None and stored > params.target_size_gb * 1e9:
        raise CheckpointError(
            f"at these thresholds the weights need {stored / 1e9:.3f} GB and targetSizeGb is {params.target_size_gb}",
            where=str(work.source),
            hint="raise the thresholds or the target",
        )
    shards = _pieces(made, bits)
    total = sum(piece.size for pieces in shards.values() for piece in pieces)
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        work.progress(min(done, total), total)

    write_shards(work.out, shards, progress=step)
    copy_companions(work.source, work.out)
    copy_file(work.source / CONFIG, work.out / CONFIG)
    tree = {"schema": "forgekit.precision/1", "block": BLOCK, "bits": {str(n): row for n, row in bits.items()}}
    write_text(work.out / PRECISION, json.dumps(tree) + "\n")
    counts = {band: sum(row.count(band) for row in bands.values()) for band in BITS}
    return Outcome(
        weights=True,
        files={"precision": work.out / PRECISION},
        notes={"units": counts, "bytesIfStored": stored, "metric": metric.name},
    )


def banded(params: Params, scores: Sequence[float]) -> list[str]:
    """The band of each unit of a layer."""
    low, high = min(scores), max(scores)
    if low < 0:  # scores that are negative by definition are ranked from the layer's lowest
        scores = [score - low for score in scores]
        high -= low
    return [params.level(score / high if high else 0.0) for score in scores]


def stored_bytes(made: Mixture, bits: Mapping[int, Sequence[int]]) -> int:
    """What the checkpoint needs where every unit is stored at its own precision, scales included."""
    total = sum(placed.size for placed in made.checkpoint.tensors.values())
    for layer, row in bits.items():
        for expert, width in enumerate(row):
            for dtype, data in _expert(made, layer, expert):
                count = len(data) * 8 // (16 if dtype in ("BF16", "F16") else 32)
                total -= len(data)
                total += len(data) if width == 16 else 0 if width == 0 else count * width // 8 + count // BLOCK * 2
    return total


def _expert(made: Mixture, layer: int, expert: int) -> Iterator[tuple[str, bytes]]:
    yield from made.weights(layer, expert).tensors()


def _pieces(made: Mixture, bits: Mapping[int, Sequence[int]]) -> dict[str, list[Piece]]:
    source = made.checkpoint
    rounded: dict[str, list[int]] = {}
    for layer, row in bits.items():
        if isinstance(made.fact, FusedExperts):
            rounded.update({template.format(layer=layer): list(row) for template in made.fact.stacked})
        for expert, width in enumerate(row):
            rounded.update({name: [width] for name in made.expert_tensors(layer, expert)})
    shards: dict[str, list[Piece]] = {name: [] for name in source.files}
    for name, placed in source.tensors.items():
        widths = rounded.get(name)
        if widths is None or all(width == 16 for width in widths):
            piece = unchanged(source, name)
        else:
            tensor = placed.tensor
            piece = Piece(
                name, tensor.dtype, tensor.shape, (Made(partial(_rounded, source, name, widths), placed.size),)
            )
        shards[placed.file].append(piece)
    return shards


def _rounded(source: Checkpoint, name: str, widths: Sequence[int]) -> bytes:
    """A tensor with each of its slices rounded to its width."""
    from forgekit.models.training import from_float64, to_float64

    dtype = source[name].tensor.dtype
    values = to_float64(source.read(name), dtype, name).reshape(len(widths), -1)
    for row, width in zip(values, widths, strict=True):
        if width != 16:
            row[:] = rounded(row, width)
    return from_float64(values, dtype)


def rounded(values: np.ndarray[Any, Any], width: int) -> np.ndarray[Any, Any]:
    """float64[n] rounded to ``width`` bits: symmetric, one scale for each block of 32, ties to the even level.

    Every operation is element by element in float64, so the bits are the same on every machine.
    """
    import numpy as np

    if width == 0:
        return np.zeros_like(values)
    top = 2 ** (width - 1) - 1
    padded = np.pad(values, (0, -len(values) % BLOCK)).reshape(-1, BLOCK)
    scale = np.abs(padded).max(axis=1, keepdims=True) / top
    scale[scale == 0] = 1.0
    made: np.ndarray[Any, Any] = np.clip(np.rint(padded / scale), -top, top) * scale
    return made.reshape(-1)[: len(values)]


STAGE = Stage(
    name="compact",
    params=Params,
    purpose="shrink",
    needs=(Experts,),
    consumes=lambda _params: frozenset({"importance"}),
    produces=frozenset({"weights", "precision"}),
    reproducibility="exact",
    problems=problems,
    run=run,
)
