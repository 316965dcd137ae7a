"""Remove attention heads: zeroed in place (pad) or cut out (slice)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

from forgekit.alloy.node import Number
from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError
from forgekit.families import AttentionHeads
from forgekit.head_metrics import HEAD_METRICS
from forgekit.runtimes import find_runtime
from forgekit.stages import Count, Given, Outcome, Stage, StageParams, Work
from forgekit.surgery import SIDECAR, perform, write
from forgekit.surgery.heads import Attention, CutHeads, attention

BATCH = 4  # texts
MAX_LENGTH = 512  # tokens of a text that is measured


class Params(StageParams):
    strategy: Literal[
        "entropy",
        "magnitude",
        "gradient",
        "random",
        "activation-magnitude",
        "calibration-aware-activation-count",
        "per-layer-normalized-router-importance",
    ]
    level: Annotated[float, Number(ge=0.0, le=0.9)]  # share of heads to remove, once all cycles have run
    min_heads_per_layer: Count = 4
    min_kv_heads_per_layer: Count = 2
    analysis_steps: Count = 200
    per_layer_normalized: bool | None = None  # false: heads of all layers compete; else each layer loses the same share
    defrag_mode: str | None = None
    group_mode: Literal["per-group", "whole-groups"] = "per-group"  # what is cut where heads share keys and values
    calibration_corpus: str | None = None


def problems(given: Given) -> Iterator[str]:
    params, fact = given.params, given.fact
    if params.defrag_mode not in (None, "pad", "slice"):
        yield f"defragMode {params.defrag_mode!r} is neither 'pad' nor 'slice'"
    if params.defrag_mode != "slice":
        return
    if fact.uncuttable:
        yield f"defragMode slice is impossible for this family: {fact.uncuttable}; use pad"
    target = given.recipe.get("target")
    declared = target.get("runtimes") if isinstance(target, Mapping) else None
    for runtime in declared if isinstance(declared, list) else ():
        known = find_runtime(runtime)
        if known is not None and known.name in fact.square_in:
            yield (
                f"defragMode slice would publish a model that {runtime}, a declared runtime, cannot load: "
                "it takes hidden_size / num_attention_heads for the width of a head; use pad, ffn-prune or depth-prune"
            )
    if params.per_layer_normalized is False:
        yield "defragMode slice with perLayerNormalized false leaves layers with different numbers of heads; use pad"


def run(work: Work) -> Outcome:
    """Rank the heads, choose, and write the checkpoint without them.

    Raises:
        CheckpointError: checkpoint and recipe do not fit together, or the minima leave nothing to cut.
        CorpusError: the strategy needs a corpus and the recipe pins none.
    """
    params: Params = work.params
    made = attention(open_folder(work.source), work.fact)
    level = params.level * work.share
    if level == 0:
        return Outcome(weights=False, notes={"headsRemoved": 0, "reason": "level is 0"})
    scores, notes = rank(work, made)
    gone = choose(
        made,
        scores,
        level,
        min_heads=params.min_heads_per_layer,
        min_groups=params.min_kv_heads_per_layer,
        whole_groups=params.group_mode == "whole-groups",
        overall=params.per_layer_normalized is False,
    )
    removed = sum(map(len, gone.values()))
    if not removed and work.share < 1:
        return Outcome(weights=False, notes={"headsRemoved": 0, "reason": f"level {level:g} by now rounds to no head"})
    if not removed:
        raise CheckpointError(
            f"level {level:g} removes no head: {made.heads} heads in {made.kv_heads} groups, "
            f"of which {params.min_heads_per_layer} and {params.min_kv_heads_per_layer} must stay",
            where=str(work.source),
            hint="raise level or lower minHeadsPerLayer",
        )
    surgery = CutHeads(gone=gone, heads=made.heads, mode=params.defrag_mode or "pad")
    perform(surgery, work.family, work.source, work.out, progress=work.progress)
    write(work.out / SIDECAR, surgery, scores={str(layer): row for layer, row in scores.items()}, **notes)
    lost = {layer: len(gone.get(layer, ())) for layer in made.layers}
    layers = [
        {"layer": layer, "totalHeads": made.heads, "prunedHeads": cut, "survivingHeads": made.heads - cut}
        for layer, cut in lost.items()
    ]
    return Outcome(
        weights=True,
        files={"keep-map": work.out / SIDECAR},
        surgery=surgery,
        notes={"headsRemoved": removed, "mode": surgery.mode, "layers": layers, **notes},
        reproducibility="exact-here" if HEAD_METRICS[params.strategy].observe else None,
    )


def rank(work: Work, made: Attention) -> tuple[dict[int, list[float]], dict[str, object]]:
    """A score per head of every layer, higher to keep, and what it was measured on."""
    metric = HEAD_METRICS[work.params.strategy]
    if metric.draw is not None:
        draw = metric.draw
        return {n: [draw(work.seed, n, h) for h in range(made.heads)] for n in made.layers}, {"metric": metric.name}
    if metric.weigh is not None:
        source = open_folder(work.source)
        found: dict[int, list[float]] = {}
        for layer in made.layers:
            name = made.fact.query.format(layer=layer)
            size = source[name].size // made.heads
            rows = (source.read_part(name, head * size, size) for head in range(made.heads))
            found[layer] = [metric.weigh(source[name].tensor.dtype, row) for row in rows]
        return found, {"metric": metric.name}

    from forgekit.models.corpus import batches, encode, pad_id, read_texts
    from forgekit.models.loading import load, tokenizer
    from forgekit.models.measuring import first_batches, measure_heads

    path = work.corpus(work.params.calibration_corpus or "")
    words = tokenizer(work.source)
    encoded = encode(words, read_texts(path), MAX_LENGTH)
    eager = "eager" if metric.needs == "attention" else None
    model = load(work.source, work.family, device=work.device, attention=eager).require_sound(work.source)
    assert metric.observe is not None
    scores = measure_heads(
        model,
        made.fact,
        metric.observe,
        first_batches(batches(encoded, BATCH, pad_id(words)), work.params.analysis_steps),
        heads=made.heads,
        gradients=metric.needs == "gradients",
        attention=metric.needs == "attention",
        progress=lambda done, _: work.progress(done, min(work.params.analysis_steps, -(-len(encoded) // BATCH))),
    )
    return scores, {"metric": metric.name, "texts": len(encoded), "batchSize": BATCH}


def choose(
    made: Attention,
    scores: Mapping[int, Sequence[float]],
    level: float,
    *,
    min_heads: int,
    min_groups: int,
    whole_groups: bool,
    overall: bool,
) -> dict[int, tuple[int, ...]]:
    """The heads each layer loses, ascending; lowest score first, the lower index staying on a tie.

    Args:
        whole_groups: cut key-value heads with all their query heads; else every group loses equally many.
        overall: units of all layers compete, scores divided by their layer's mean; else each layer loses one share.
    """
    units = _units(made, whole_groups=whole_groups or overall)
    allowed = _allowed(made, units, min_heads, min_groups, whole_groups=whole_groups or overall)
    ranked: dict[int, list[tuple[float, int]]] = {}
    for layer in made.layers:
        row = scores[layer]
        mean = sum(map(abs, row)) / len(row) or 1.0
        values = [sum(row[head] for head in unit) / len(unit) / mean for unit in units]
        ranked[layer] = sorted(((value, -at) for at, value in enumerate(values)))
    if overall:
        return _overall(made, units, ranked, level, allowed)
    gone: dict[int, tuple[int, ...]] = {}
    if whole_groups or made.group == 1:
        count = min(round(level * len(units)), allowed)
        for layer in made.layers:
            picked = [-at for _, at in ranked[layer][:count]]
            gone[layer] = tuple(sorted(head for at in picked for head in units[at]))
        return gone
    each = min(round(level * made.group), made.group - 1, allowed)
    for layer in made.layers:
        lost: list[int] = []
        for group in range(made.kv_heads):
            heads = range(group * made.group, (group + 1) * made.group)
            lost += sorted(heads, key=lambda head: (scores[layer][head], -head))[:each]
        gone[layer] = tuple(sorted(lost))
    return gone


def _units(made: Attention, *, whole_groups: bool) -> list[tuple[int, ...]]:
    if whole_groups:
        return [tuple(range(g * made.group, (g + 1) * made.group)) for g in range(made.kv_heads)]
    return [(head,) for head in range(made.heads)]


def _allowed(
    made: Attention, units: Sequence[tuple[int, ...]], min_heads: int, min_groups: int, *, whole_groups: bool
) -> int:
    """How many units a layer may lose; per group, where groups lose equally many heads."""
    if whole_groups or made.group == 1:
        by_heads = (made.heads - min_heads) // len(units[0])
        by_groups = made.kv_heads - min_groups
        return max(min(by_heads, by_groups), 0)
    return max((made.heads - min_heads) // made.kv_heads, 0)


def _overall(
    made: Attention,
    units: Sequence[tuple[int, ...]],
    ranked: Mapping[int, Sequence[tuple[float, int]]],
    level: float,
    allowed: int,
) -> dict[int, tuple[int, ...]]:
    every = sorted((value, -at, layer) for layer, row in ranked.items() for value, at in row)
    budget = round(level * len(units) * len(made.layers))
    lost: dict[int, list[int]] = {layer: [] for layer in made.layers}
    for _, at, layer in every:
        if budget and len(lost[layer]) < allowed:
            lost[layer].append(at)
            budget -= 1
    return {layer: tuple(sorted(head for at in picked for head in units[at])) for layer, picked in lost.items()}


def names(params: Params) -> Iterator[tuple[str, str]]:
    yield "head metric", params.strategy


def corpora(params: Params) -> Iterator[str]:
    metric = HEAD_METRICS.get(params.strategy)
    if params.level and metric is not None and metric.observe is not None:
        yield params.calibration_corpus or ""


STAGE = Stage(
    name="prune",
    params=Params,
    purpose="shrink",
    needs=(AttentionHeads,),
    produces=frozenset({"weights", "keep-map"}),
    reproducibility="exact",
    problems=problems,
    names=names,
    corpora=corpora,
    run=run,
)
