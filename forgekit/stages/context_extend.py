"""Rescale rotary positions to a longer context."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from forgekit.alloy.node import Whole
from forgekit.checkpoint.opening import CONFIG, open_folder
from forgekit.checkpoint.patching import set_values
from forgekit.checkpoint.writing import COMPANIONS, copy_companions, link_or_copy, write_index, write_text
from forgekit.errors import CheckpointError, MachineError
from forgekit.families import RotaryPositions
from forgekit.stages import Given, Outcome, Stage, StageParams, Work
from forgekit.surgery import inner, whole

BEYOND = 8  # tokens generated past the old length


class Params(StageParams):
    target_length: Annotated[int, Whole(ge=1024)]
    method: Literal["yarn", "ntk", "linear", "dynamic-ntk"]
    training_dataset: str | None = None
    training_steps: Annotated[int, Whole()] | None = None


def problems(given: Given) -> Iterator[str]:
    if given.params.method not in given.fact.methods:
        yield f"method {given.params.method!r} is not one of {', '.join(given.fact.methods)}"
    native = given.source.get("contextLength")
    if isinstance(native, int) and given.params.target_length <= native:
        yield f"targetLength {given.params.target_length} does not exceed the base's contextLength {native}"


def run(work: Work) -> Outcome:
    """Patch the config, keep the weights, and generate past the old length.

    Raises:
        CheckpointError: the config states no length or base, the new length is not longer, or the model does not
            follow the new positions.
    """
    params: Params = work.params
    source = open_folder(work.source)
    where = f"{work.source}/{CONFIG}"
    settings = inner(source.config, work.fact.config, where)
    native = whole(settings, "max_position_embeddings", where)
    if params.target_length <= native:
        raise CheckpointError(f"targetLength {params.target_length} does not exceed the model's {native}", where=where)
    changes = rescaled(settings, work.fact, params.method, native=native, target=params.target_length, where=where)
    text = set_values(source.config_text, changes, where)
    for name in source.files:
        link_or_copy(work.source / name, work.out / name)
    if len(source.files) > 1:
        size = sum(placed.size for placed in source.tensors.values())
        write_index(work.out, {name: placed.file for name, placed in source.tensors.items()}, size)
    copy_companions(work.source, work.out, COMPANIONS)
    write_text(work.out / CONFIG, text)
    checked = _generates(work, native)
    return Outcome(
        weights=True,
        notes={"method": params.method, "from": native, "to": params.target_length, "generation": checked},
    )


def rescaled(
    settings: Mapping[str, Any], fact: RotaryPositions, method: str, *, native: int, target: int, where: str
) -> dict[tuple[str | int, ...], Any]:
    """What changes in a config, by path.

    yarn, linear and dynamic scaling are transformers' own, by their factor. ntk raises the base once:
    theta' = theta * factor ** (d / (d - 2)), d being the rotated width of a head.

    Source: YaRN, arXiv:2309.00071; the NTK-aware rule is its section 3.1, equation 16.
    """
    factor = target / native
    place = "rope_parameters" if isinstance(settings.get("rope_parameters"), Mapping) else "rope_scaling"
    now = settings.get(place)
    now = dict(now) if isinstance(now, Mapping) else {}
    changes: dict[tuple[str | int, ...], Any] = {(*fact.config, "max_position_embeddings"): target}
    if fact.states_head_dim and method != "ntk" and settings.get("head_dim") is None:
        heads = whole(settings, "num_attention_heads", where)
        changes[*fact.config, "head_dim"] = whole(settings, "hidden_size", where) // heads
    if method == "ntk":
        theta = settings.get("rope_theta", now.get("rope_theta"))
        if not isinstance(theta, int | float) or isinstance(theta, bool):
            raise CheckpointError("the config states no rope_theta, so there is no base to raise", where=where)
        rotated = _rotated(settings, now, where)
        if rotated <= 2:
            raise CheckpointError("heads rotate too few dimensions for the rule", where=where)
        raised = theta * factor ** (rotated / (rotated - 2))
        at = (*fact.config, "rope_theta") if "rope_theta" in settings else (*fact.config, place, "rope_theta")
        changes[at] = raised
        return changes
    kind = {"yarn": "yarn", "linear": "linear", "dynamic-ntk": "dynamic"}[method]
    scaling = now | {"rope_type": kind, "factor": factor}
    if "type" in now:
        scaling["type"] = kind
    if kind != "linear":
        scaling["original_max_position_embeddings"] = native
    changes[*fact.config, place] = scaling
    return changes


def _rotated(settings: Mapping[str, Any], now: Mapping[str, Any], where: str) -> float:
    if "qk_rope_head_dim" in settings:
        return whole(settings, "qk_rope_head_dim", where)
    hidden, heads = whole(settings, "hidden_size", where), whole(settings, "num_attention_heads", where)
    share = settings.get("partial_rotary_factor", now.get("partial_rotary_factor", 1.0))
    return whole(settings, "head_dim", where, hidden // heads) * float(share)


def _generates(work: Work, native: int) -> str:
    """Generate past the old length, where the model fits this machine."""
    from forgekit.models.loading import load

    try:
        model = load(work.out, work.family, device=work.device).require_sound(work.out)
        if model.strategy.kind != "full":
            return f"unchecked: {model.strategy.reason}"
    except MachineError as error:
        return f"unchecked: {error.what}"
    import torch

    limit = model.text.get_input_embeddings().weight.shape[0]
    ids = (torch.arange(native + 1) * 7 % limit)[None].to(next(model.text.parameters()).device)
    with torch.no_grad():
        for _ in range(BEYOND):
            last = model.text(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[:, -1]
            if not bool(last.isfinite().all()):
                raise CheckpointError(f"the model puts out no numbers at position {ids.shape[1]}", where=str(work.out))
            ids = torch.cat([ids, last.argmax(-1, keepdim=True)], dim=1)
    return f"{BEYOND} tokens generated at positions {native + 1} to {native + BEYOND}"


STAGE = Stage(
    name="context-extend",
    params=Params,
    purpose="extend",
    needs=(RotaryPositions,),
    produces=frozenset({"weights"}),
    reproducibility="exact",
    problems=problems,
    repeats=False,
    run=run,
)
