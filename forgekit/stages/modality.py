"""Add or assert a modality beside text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from forgekit.alloy.node import Whole
from forgekit.families import Towers
from forgekit.stages import Given, Stage, StageParams


class Params(StageParams):
    modality: Literal["vision", "audio", "multimodal"]
    encoder_model: str
    projection_arch: Literal["mlp", "cross-attention", "linear"] = "mlp"
    freeze_base: bool = True
    freeze_encoder: bool = True
    training_dataset: str | None = None
    training_steps: Annotated[int, Whole()] | None = None
    projection_dim: Annotated[int, Whole()] | None = None


def problems(given: Given) -> Iterator[str]:
    if given.params.modality not in given.fact.modalities:
        yield f"modality {given.params.modality!r} is not one of {', '.join(given.fact.modalities)}"


STAGE = Stage(
    name="modality",
    params=Params,
    purpose="extend",
    repeats=False,
    needs=(Towers,),
    produces=frozenset({"weights"}),
    reproducibility="exact-here",
    problems=problems,
)
