"""Drop routed experts, renumber the survivors and slice the router to match."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit import importance
from forgekit.alloy.node import Number, Whole
from forgekit.checkpoint.opening import open_folder
from forgekit.digest import sha256_file
from forgekit.errors import CheckpointError
from forgekit.families import Experts
from forgekit.metrics import METRICS, Metric, select
from forgekit.stages import Count, Given, Outcome, Stage, StageParams, Work
from forgekit.surgery import perform, write
from forgekit.surgery.experts import DroppedExperts, Mixture, mixture

PUBLISHED = {
    "calibration-aware-activation-count": "activation_count",
    "activation": "activation_count",
    "router_gate_l2_norm": "router_l2",
    "per-layer-normalized-router-importance": "router_l2",
}
"""Words of published recipes for metrics that have a registered name."""


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
    def ranking(self) -> str:
        """The metric the recipe ranks by, under whichever of its words it says so."""
        named = [PUBLISHED.get(word, word) for word in (self.metric, self.selection_strategy, self.strategy) if word]
        return next((word for word in named if word in METRICS), named[0] if named else "router_l2")

    @property
    def needs_profile(self) -> bool:
        """Whether the selection ranks by what a profile measured, rather than by the weights alone."""
        return self.ranking not in METRICS or METRICS[self.ranking].needs != "weights"


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


SIDECAR = "expert_prune.metadata.v1.json"


def run(work: Work) -> Outcome:
    """Choose, then stream the checkpoint through without the experts that were not chosen.

    Raises:
        CheckpointError: checkpoint, importance file and recipe do not fit together; the message names the place.
    """
    made = mixture(open_folder(work.source), work.fact)
    keep = _checked_keep(work.params, made)
    metric, kept, ranked_by = _choose(work, made, keep)
    surgery = DroppedExperts(kept={layer: tuple(row) for layer, row in kept.items()}, experts=made.experts)
    total = perform(surgery, work.family, work.source, work.out, progress=work.progress)
    unfused = sum(len(made.expert_tensors(layer, expert)) for layer in made.layers for expert in range(1))
    counts = {
        "kept_renamed": unfused * keep,
        "sliced": sum(len(made.stacked(layer)) for layer in made.layers),
        "dropped_expert": unfused * (made.experts - keep),
    }
    about = {
        "schema_version": 1,
        "tool": {"name": "forgekit"},
        "source": {"shards": [{"path": name, "bytes": size} for name, size in made.checkpoint.files.items()]},
        "selection": {
            "metric": metric.name,
            "metric_version": metric.version,
            "layout_family": work.fact.layout,
            "per_layer_kept_count": keep,
            "per_layer_kept_indices": {str(layer): row for layer, row in kept.items()},
            "importance_json": ranked_by,
        },
        "tensors": {"kept_unchanged": len(made.checkpoint.tensors) - sum(counts.values()), **counts},
        "total_bytes_out": total,
    }
    write(work.out / SIDECAR, surgery, **about)
    return Outcome(
        weights=True,
        files={"keep-map": work.out / SIDECAR},
        surgery=surgery,
        notes={
            "metric": metric.name,
            "expertsKeptPerLayer": keep,
            "expertsDropped": counts["dropped_expert"],
            "expertsRenamed": counts["kept_renamed"],
            "routerSlicedLayers": len(made.layers),
        },
    )


def _checked_keep(params: Params, made: Mixture) -> int:
    where = made.checkpoint.where
    keep = params.keep
    assert keep is not None  # the plan has refused it
    if params.original_experts_per_layer not in (None, made.experts):
        said = params.original_experts_per_layer
        raise CheckpointError(f"the recipe says {said} experts per layer and the model has {made.experts}", where=where)
    if keep >= made.experts:
        raise CheckpointError(f"keeping {keep} of {made.experts} experts removes none", where=where)
    if keep < made.top_k:
        raise CheckpointError(
            f"keeping {keep} experts leaves fewer than the {made.top_k} each token is routed to", where=where
        )
    if keep % made.groups:
        raise CheckpointError(
            f"routing is limited to {made.groups} groups of experts, and {keep} is not a multiple of that", where=where
        )
    if keep // made.groups * made.top_groups < made.top_k:
        raise CheckpointError(
            f"{made.top_groups} of {made.groups} groups would hold {keep // made.groups * made.top_groups} experts, "
            f"fewer than the {made.top_k} each token is routed to",
            where=where,
        )
    return keep


def _choose(work: Work, made: Mixture, keep: int) -> tuple[Metric, dict[int, list[int]], dict[str, str] | None]:
    """The metric, the experts each layer keeps, and the importance file they were read from, if there was one."""
    params: Params = work.params
    metric = METRICS[params.ranking]
    if metric.needs == "weights":
        assert metric.weigh is not None
        kept = {}
        for number, layer in enumerate(made.layers, 1):
            try:
                scores = [metric.weigh(made.weights(layer, expert)) for expert in range(made.experts)]
            except CheckpointError as error:
                raise CheckpointError(f"{error.what} in layer {layer}", where=made.router(layer)) from error
            kept[layer] = select(scores, keep, groups=made.groups)
            work.progress(number, len(made.layers))
        return metric, kept, None
    path = work.corpus(params.importance_json) if params.importance_json else work.at_hand["importance"]
    scores_of = importance.read(path, metric=metric, layers=made.layers, experts=made.experts)
    kept = {layer: select(scores_of[layer], keep, groups=made.groups) for layer in made.layers}
    return metric, kept, {"name": path.name, "sha256": sha256_file(path).hex}


def names(params: Params) -> Iterator[tuple[str, str]]:
    yield "metric", params.ranking


STAGE = Stage(
    name="expert-prune",
    params=Params,
    purpose="shrink",
    needs=(Experts,),
    consumes=consumes,
    produces=frozenset({"weights", "keep-map"}),
    reproducibility="exact",
    problems=problems,
    names=names,
    corpora=lambda params: iter([params.importance_json] if params.importance_json else []),
    run=run,
)
