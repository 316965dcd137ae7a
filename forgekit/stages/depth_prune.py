"""Cut out the decoder layers that change least what passes through them."""

from __future__ import annotations

from collections.abc import Iterator

from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError
from forgekit.families import FeedForward
from forgekit.metrics import select
from forgekit.stages import Count, Given, Outcome, Stage, StageParams, Work
from forgekit.surgery import SIDECAR, perform, write
from forgekit.surgery.layers import CutLayers, depth

BATCH = 4  # texts


class Params(StageParams):
    keep_layers: Count
    calibration_corpus: str
    max_length: Count = 512


def problems(given: Given) -> Iterator[str]:
    layers = given.source.get("numLayers")
    if isinstance(layers, int) and given.params.keep_layers >= layers:
        yield f"keeping {given.params.keep_layers} of {layers} layers (source.numLayers) removes none"
    if given.recipe.get("cycles") not in (None, 1):
        yield "keepLayers is a number of layers, which cannot be reached twice: use cycles 1"


def run(work: Work) -> Outcome:
    """Measure on the corpus, keep the most influential layers, renumber them.

    Raises:
        CheckpointError: there are not that many layers.
        CorpusError: the corpus is not the one the recipe pins.
    """
    from forgekit.models.corpus import batches, encode, pad_id, read_texts
    from forgekit.models.loading import load, tokenizer
    from forgekit.models.measuring import measure_layers

    params: Params = work.params
    layers = depth(open_folder(work.source), work.fact)
    if params.keep_layers >= layers:
        raise CheckpointError(f"keeping {params.keep_layers} of {layers} layers removes none", where=str(work.source))
    words = tokenizer(work.source)
    encoded = encode(words, read_texts(work.corpus(params.calibration_corpus)), params.max_length)
    model = load(work.source, work.family, device=work.device).require_sound(work.source)
    count = -(-len(encoded) // BATCH)
    scores = measure_layers(
        model, batches(encoded, BATCH, pad_id(words)), progress=lambda done, _: work.progress(done, count)
    )
    kept = tuple(select(scores, params.keep_layers))
    surgery = CutLayers(kept=kept, layers=layers)
    perform(surgery, work.family, work.source, work.out, progress=work.progress)
    write(work.out / SIDECAR, surgery, metric="block-influence", scores=scores, texts=len(encoded), batchSize=BATCH)
    return Outcome(
        weights=True,
        files={"keep-map": work.out / SIDECAR},
        surgery=surgery,
        notes={"layersBefore": layers, "layersKept": list(kept), "texts": len(encoded)},
    )


STAGE = Stage(
    name="depth-prune",
    params=Params,
    purpose="shrink",
    needs=(FeedForward,),
    produces=frozenset({"weights", "keep-map"}),
    reproducibility="exact-here",
    problems=problems,
    corpora=lambda params: iter([params.calibration_corpus]),
    run=run,
)
