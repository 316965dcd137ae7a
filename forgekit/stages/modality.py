"""Assert a modality beside text: its towers and token ids are there, and stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from forgekit.alloy.node import Whole
from forgekit.checkpoint.opening import CONFIG, open_folder
from forgekit.errors import CheckpointError
from forgekit.families import Towers
from forgekit.stages import Given, Outcome, Stage, StageParams, Work


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
    params = given.params
    if params.modality not in given.fact.modalities:
        yield f"modality {params.modality!r} is not one of {', '.join(given.fact.modalities)}"
    if not params.freeze_encoder:
        yield "freezeEncoder false would change the towers, which no stage may"


def run(work: Work) -> Outcome:
    """Hold the checkpoint against what the family's modalities need.

    Raises:
        CheckpointError: a tower, its config or a token id is missing.
    """
    source = open_folder(work.source)
    where = f"{work.source}/{CONFIG}"
    fact: Towers = work.fact
    for path in fact.config_keys:
        if not isinstance(dotted(source.config, path), Mapping):
            raise CheckpointError(f"the config has no {path}, so the model has no such tower", where=where)
    homes = [source.config, *(value for value in source.config.values() if isinstance(value, Mapping))]
    ids = {}
    for key in fact.token_keys:
        found = next((home[key] for home in homes if isinstance(home.get(key), int)), None)
        if found is None:
            raise CheckpointError(
                f"the config states no {key}, so text cannot say where the modality goes", where=where
            )
        ids[key] = found
    towers = {prefix: sum(name.startswith(prefix) for name in source.tensors) for prefix in fact.untouchable}
    if empty := [prefix for prefix, count in towers.items() if not count]:
        raise CheckpointError(f"no tensor is named {empty[0]}…: the tower's weights are missing", where=source.where)
    return Outcome(weights=False, notes={"tokens": ids, "towerTensors": towers})


def dotted(tree: Mapping[str, Any], path: str) -> Any:
    found: Any = tree
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


STAGE = Stage(
    name="modality",
    params=Params,
    purpose="extend",
    needs=(Towers,),
    reproducibility="exact",
    problems=problems,
    repeats=False,
    run=run,
)
