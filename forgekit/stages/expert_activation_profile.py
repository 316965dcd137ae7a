"""Measure, on a calibration corpus, how much each expert matters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from forgekit import importance
from forgekit.alloy.node import Whole
from forgekit.checkpoint.opening import open_folder
from forgekit.digest import sha256_file
from forgekit.families import Experts
from forgekit.metrics import METRICS
from forgekit.stages import Outcome, Stage, StageParams, Work
from forgekit.surgery.experts import mixture

BATCH = 8  # texts; part of what makes the bits of a profile, so it is fixed and written down


class Params(StageParams):
    calibration_corpus: str
    metric: str = "activation_count"
    max_length: Annotated[int, Whole(ge=128)] = 2048
    device: str | None = None
    importance_output: str | None = None


def run(work: Work) -> Outcome:
    """Run the corpus through the model with a hook on every router, and keep the sums.

    Raises:
        CheckpointError: no router was hooked, or the checkpoint is not one of the family's.
        CorpusError: the corpus is not the one the recipe pins.
    """
    metric = METRICS[work.params.metric]
    made = mixture(open_folder(work.source), work.fact)
    path = work.corpus(work.params.calibration_corpus)
    about = {
        "model": work.recipe.get("source", {}).get("baseModel"),
        "model_hash": work.source_hash,
        "calibration_corpus": work.params.calibration_corpus,
        "calibration_corpus_sha256": sha256_file(path).hex,
        "num_hidden_layers": max(made.layers) + 1,
        "num_experts": made.experts,
        "num_experts_per_tok": made.top_k,
    }
    output = work.out / f"importance.{metric.name}.json"
    if metric.weigh is not None:
        weigh = metric.weigh
        rows = {n: {"weights": [weigh(made.weights(n, e)) for e in range(made.experts)]} for n in made.layers}
        importance.write(output, metric=metric, sums=rows, about=about)
        return Outcome(weights=False, files={"importance": output}, notes={"metric": metric.name})

    from forgekit.models.corpus import batches, encode, pad_id, read_texts
    from forgekit.models.loading import load, tokenizer
    from forgekit.models.measuring import profile_experts

    words = tokenizer(work.source)
    encoded = encode(words, read_texts(path), work.params.max_length)
    model = load(work.source, work.family, device=work.params.device or work.device).require_sound(work.source)
    count = -(-len(encoded) // BATCH)
    profile = profile_experts(
        model,
        work.fact,
        metric,
        batches(encoded, BATCH, pad_id(words)),
        experts=made.experts,
        progress=lambda done, _: work.progress(done, count),
    )
    about |= {
        "calibration_examples": len(encoded),
        "calibration_tokens": profile.tokens,
        "max_length": work.params.max_length,
        "batch_size": BATCH,
        "dtype": str(next(model.text.parameters()).dtype).removeprefix("torch."),
        "load_strategy": model.strategy.kind,
    }
    importance.write(output, metric=metric, sums=profile.sums, about=about)
    return Outcome(
        weights=False,
        files={"importance": output},
        notes={
            "metric": metric.name,
            "calibrationExamples": len(encoded),
            "calibrationTokens": profile.tokens,
            "routersHooked": profile.hooks,
            "loadStrategy": {"kind": model.strategy.kind, "reason": model.strategy.reason},
        },
    )


def names(params: Params) -> Iterator[tuple[str, str]]:
    yield "metric", params.metric


STAGE = Stage(
    name="expert-activation-profile",
    params=Params,
    purpose="measure",
    needs=(Experts,),
    produces=frozenset({"importance"}),
    reproducibility="statistical",
    names=names,
    corpora=lambda params: iter([params.calibration_corpus]),
    run=run,
)
