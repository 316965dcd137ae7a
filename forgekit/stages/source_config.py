"""State what the base model is loaded with."""

from __future__ import annotations

from typing import Annotated

from forgekit.alloy.node import Whole
from forgekit.stages import Stage, StageParams


class Params(StageParams):
    context_length: Annotated[int, Whole()] | None = None
    input_modalities: list[str] = []
    tokenizer: str | None = None
    target_batch_size: Annotated[int, Whole()] | None = None
    target_devices: list[str] = []


STAGE = Stage(
    name="source-config",
    params=Params,
    purpose="prepare",
    repeats=False,
    reproducibility="exact",
)
