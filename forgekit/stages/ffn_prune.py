"""Narrow every feed-forward block by the neurons that matter least: what loads everywhere, unlike fewer heads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit.alloy.node import Number
from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError
from forgekit.families import FeedForward
from forgekit.metrics import select
from forgekit.stages import Count, Given, Outcome, Stage, StageParams, Work
from forgekit.surgery import SIDECAR, perform, write
from forgekit.surgery.neurons import CutNeurons, width

BATCH = 4  # texts


class Params(StageParams):
    level: Annotated[float, Number(gt=0.0, le=0.9)]  # share of neurons to remove, once all cycles have run
    multiple_of: Count = 256  # what the new width is rounded down to; K-quants need 256, Q8_0 needs 32
    calibration_corpus: str
    max_length: Count = 512


def problems(given: Given) -> Iterator[str]:
    if given.params.multiple_of % 32:
        yield f"multipleOf {given.params.multiple_of} is no multiple of 32, the smallest block that quantisers store"


def run(work: Work) -> Outcome:
    """Measure on the corpus, keep the neurons with the largest activations, cut the rest.

    Raises:
        CheckpointError: rounding leaves no neuron, or none to cut.
        CorpusError: the corpus is not the one the recipe pins.
    """
    from forgekit.models.corpus import batches, encode, pad_id, read_texts
    from forgekit.models.loading import load, tokenizer
    from forgekit.models.measuring import measure_neurons

    params: Params = work.params
    layers, neurons = width(open_folder(work.source), work.fact)
    wanted = round(neurons * (1 - params.level * work.share))
    keep = wanted // params.multiple_of * params.multiple_of
    if not 0 < keep < neurons:
        raise CheckpointError(
            f"level {params.level:g} leaves {wanted} of {neurons} neurons, {keep} in multiples of {params.multiple_of}",
            where=str(work.source),
            hint="change level or multipleOf",
        )
    words = tokenizer(work.source)
    encoded = encode(words, read_texts(work.corpus(params.calibration_corpus)), params.max_length)
    model = load(work.source, work.family, device=work.device).require_sound(work.source)
    count = -(-len(encoded) // BATCH)
    scores = measure_neurons(
        model, work.fact, batches(encoded, BATCH, pad_id(words)), progress=lambda done, _: work.progress(done, count)
    )
    kept = {layer: tuple(select(scores[layer], keep)) for layer in layers}
    surgery = CutNeurons(kept=kept, neurons=neurons)
    perform(surgery, work.family, work.source, work.out, progress=work.progress)
    write(work.out / SIDECAR, surgery, metric="minitron", texts=len(encoded), batchSize=BATCH)
    return Outcome(
        weights=True,
        files={"keep-map": work.out / SIDECAR},
        surgery=surgery,
        notes={"neuronsBefore": neurons, "neuronsKept": keep, "texts": len(encoded)},
    )


STAGE = Stage(
    name="ffn-prune",
    params=Params,
    purpose="shrink",
    needs=(FeedForward,),
    produces=frozenset({"weights", "keep-map"}),
    reproducibility="exact-here",
    problems=problems,
    corpora=lambda params: iter([params.calibration_corpus]),
    run=run,
)
