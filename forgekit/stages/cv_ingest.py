"""Read image sequences into a computer-vision pipeline."""

from __future__ import annotations

from forgekit.families import VisionPipeline
from forgekit.stages import Count, Stage, StageParams


class Params(StageParams):
    dataset: str
    subset: str | None = None
    frame_format: str = "jpeg-sequence"
    max_sequences: Count | None = None


STAGE = Stage(
    name="cv-ingest",
    params=Params,
    purpose="prepare",
    needs=(VisionPipeline,),
)
