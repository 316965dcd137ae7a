"""Lay the weights out anew: few large shards, tensors in the order of the layers that use them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from forgekit.checkpoint.opening import CONFIG, open_folder
from forgekit.checkpoint.writing import SHARD_LIMIT, copy_companions, copy_file, cut_anew, unchanged, write_shards
from forgekit.errors import CheckpointError
from forgekit.stages import Count, Given, Outcome, Stage, StageParams, Work

FORMATS = ("safetensors", "safetensors-defragged")
DIGITS = re.compile(r"(\d+)")


class Params(StageParams):
    format: str
    runtime: str | None = None
    optimization: str = "balanced"
    validate_on: list[str] = []
    include_tokenizer: bool = True
    shard_bytes: Count = SHARD_LIMIT


def problems(given: Given) -> Iterator[str]:
    if given.params.format not in FORMATS:
        yield f"format {given.params.format!r} is not one of {', '.join(FORMATS)}; the quant stage writes other formats"


def run(work: Work) -> Outcome:
    """Write every tensor again, byte for byte.

    Raises:
        CheckpointError: the checkpoint has no tokenizer and the recipe wants one, or the disk is full.
    """
    params: Params = work.params
    source = open_folder(work.source)
    ordered = [unchanged(source, name) for name in sorted(source.tensors, key=natural)]
    total = sum(piece.size for piece in ordered)
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        work.progress(min(done, total), total)

    write_shards(work.out, cut_anew(ordered, params.shard_bytes), progress=step)
    copied = copy_companions(work.source, work.out) if params.include_tokenizer else []
    if params.include_tokenizer and not any(name.startswith("tokenizer") for name in copied):
        raise CheckpointError(
            "there is no tokenizer to package", where=str(work.source), hint="set includeTokenizer to false"
        )
    copy_file(work.source / CONFIG, work.out / CONFIG)
    return Outcome(weights=True, notes={"tensors": len(ordered), "shardsBefore": len(source.files)})


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in DIGITS.split(name)]


STAGE = Stage(
    name="package",
    params=Params,
    purpose="ship",
    produces=frozenset({"weights"}),
    reproducibility="exact",
    problems=problems,
    repeats=False,
    run=run,
)
