"""Write the weights at lower precision."""

from __future__ import annotations

from typing import Literal

from forgekit.stages import Stage, StageParams


class Params(StageParams):
    format: Literal["gguf", "mlx", "safetensors", "onnx"]
    quant_types: list[str]
    device_targets: list[str] = []


STAGE = Stage(
    name="quant",
    params=Params,
    purpose="shrink",
    repeats=False,
    produces=frozenset({"weights"}),
    reproducibility="exact-here",
)
