"""Drop routed experts, renumber the survivors and slice the router to match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit.alloy.node import Number, Whole
from forgekit.families import Experts
from forgekit.stages import Count, Given, Stage, StageParams


class Params(StageParams):
    keep_experts: Count | None = None
    keep_experts_per_layer: Count | None = None
    original_experts_per_layer: Count | None = None
    strategy: str | None = None
    selection_strategy: str | None = None
    metric: str | None = None
    metric_source: str | None = None
    profile_dataset: str | None = None
    profile_steps: Count = 100
    importance_json: str | None = None
    expert_tensor_layout: str | None = "auto"  # or the layout id of the family
    calibration_corpus: str | None = None
    per_layer_normalized: bool | None = None
    prune_pct: Annotated[float, Number(ge=0.0, le=100.0)] | None = None
    experts_dropped: Annotated[int, Whole(ge=0)] | None = None  # tensors, not experts
    experts_renamed: Annotated[int, Whole(ge=0)] | None = None  # tensors, not experts
    router_sliced_layers: Annotated[int, Whole(ge=0)] | None = None
    implementation: str | None = None
    rationale: str | None = None

    @property
    def keep(self) -> int | None:
        """Experts each layer keeps, under whichever of the two names the recipe uses."""
        return self.keep_experts_per_layer or self.keep_experts

    @property
    def needs_profile(self) -> bool:
        """Whether the selection ranks by what a profile measured, rather than by the weights alone."""
        words = {self.strategy, self.selection_strategy, self.metric}
        return bool(words & {"calibration-aware-activation-count", "activation_count", "activation"})


def consumes(params: Params) -> frozenset[str]:
    return frozenset({"importance"}) if params.needs_profile and params.importance_json is None else frozenset()


def problems(given: Given) -> Iterator[str]:
    params, source = given.params, given.source
    if params.keep is None:
        yield "neither keepExpertsPerLayer nor keepExperts says how many experts to keep"
        return
    if params.keep_experts and params.keep_experts_per_layer and params.keep_experts != params.keep_experts_per_layer:
        yield f"keepExperts {params.keep_experts} and keepExpertsPerLayer {params.keep_experts_per_layer} differ"
    stated = [
        (name, value)
        for name, value in (
            ("originalExpertsPerLayer", params.original_experts_per_layer),
            ("source.numExpertsPerLayer", source.get("numExpertsPerLayer")),
            ("source.totalExperts", source.get("totalExperts")),
        )
        if isinstance(value, int)
    ]
    if len({value for _, value in stated}) > 1:
        yield "the number of experts is given as " + ", ".join(f"{name} {value}" for name, value in stated)
    for name, value in stated[:1]:
        if params.keep >= value:
            yield f"keeping {params.keep} of {value} experts ({name}) removes none"
    top_k = source.get("numActivatedExperts")
    if isinstance(top_k, int) and params.keep < top_k:
        yield f"keeping {params.keep} experts leaves fewer than the {top_k} each token is routed to"
    if params.expert_tensor_layout not in (None, "auto", given.fact.layout):
        yield f"expertTensorLayout {params.expert_tensor_layout!r} is not this family's {given.fact.layout!r}"


STAGE = Stage(
    name="expert-prune",
    params=Params,
    purpose="shrink",
    needs=(Experts,),
    consumes=consumes,
    produces=frozenset({"weights"}),
    reproducibility="exact",
    problems=problems,
)
