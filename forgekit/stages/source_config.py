"""State what the base model is loaded with, and hold the base against it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from forgekit.alloy.node import Whole
from forgekit.checkpoint.opening import CONFIG, open_folder
from forgekit.errors import CheckpointError
from forgekit.families import RotaryPositions, Towers
from forgekit.stages import Given, Outcome, Stage, StageParams, Work


class Params(StageParams):
    context_length: Annotated[int, Whole()] | None = None
    input_modalities: list[str] = []
    tokenizer: str | None = None
    target_batch_size: Annotated[int, Whole()] | None = None
    target_devices: list[str] = []


def problems(given: Given) -> Iterator[str]:
    stated = given.source.get("contextLength")
    asked = given.params.context_length
    if isinstance(stated, int) and asked is not None and asked > stated:
        yield f"contextLength {asked} exceeds the base's {stated}; context-extend makes it longer"


def run(work: Work) -> Outcome:
    """Check the base's own config against what the recipe states.

    Raises:
        CheckpointError: they disagree.
    """
    params: Params = work.params
    source = open_folder(work.source)
    where = f"{work.source}/{CONFIG}"
    rotary = work.family.fact(RotaryPositions)
    settings: Any = source.config
    for key in rotary.config if rotary else ():
        settings = settings.get(key, {}) if isinstance(settings, Mapping) else {}
    native = settings.get("max_position_embeddings")
    if params.context_length is not None and isinstance(native, int) and params.context_length > native:
        raise CheckpointError(
            f"contextLength is {params.context_length} and the base has {native} positions",
            where=where,
            hint="context-extend makes it longer",
        )
    towers = work.family.fact(Towers)
    known = {"text", *(towers.modalities if towers else ())}
    if strange := [name for name in params.input_modalities if name not in known]:
        raise CheckpointError(
            f"inputModalities names {strange[0]!r}; {work.family.name} takes {', '.join(sorted(known))}"
        )
    return Outcome(weights=False, notes={"positions": native, "modelType": source.config.get("model_type")})


STAGE = Stage(
    name="source-config",
    params=Params,
    purpose="prepare",
    reproducibility="exact",
    problems=problems,
    repeats=False,
    run=run,
)
