"""Whole experts cut from every layer; the survivors are renumbered in their old order, the router loses their rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forgekit.checkpoint.opening import CONFIG, Checkpoint
from forgekit.checkpoint.safetensors import BITS
from forgekit.checkpoint.slices import Expected, Origin
from forgekit.errors import CheckpointError
from forgekit.families import Experts, Family, FusedExperts, UnfusedExperts
from forgekit.metrics import ExpertWeights
from forgekit.models.loading import Loaded
from forgekit.surgery import Kind, inner, listed, numbers, pattern, whole

OTHER = "is the recipe's architecture that of this checkpoint?"


@dataclass(frozen=True)
class Mixture:
    """The experts of a checkpoint.

    Attributes:
        layers: numbers of the layers that have experts, ascending.
        experts: in each of them.
        top_k: experts per token.
        groups: that routing is limited to; 1 where it is not.
        top_groups: groups a token may use.
        counts: paths in the config that hold the number of experts.
    """

    checkpoint: Checkpoint
    fact: Experts
    layers: tuple[int, ...]
    experts: int
    top_k: int
    groups: int
    top_groups: int
    counts: tuple[tuple[str, ...], ...]

    def router(self, layer: int) -> str:
        return self.fact.router.format(layer=layer)

    def expert_tensors(self, layer: int, expert: int) -> tuple[str, ...]:
        """Names of one expert's own tensors; none where experts are fused."""
        if not isinstance(self.fact, UnfusedExperts):
            return ()
        templates = (self.fact.gate, self.fact.up, self.fact.down)
        return tuple(template.format(layer=layer, expert=expert) for template in templates)

    def stacked(self, layer: int) -> tuple[str, ...]:
        """Names of the layer's tensors that have one slice per expert, along their first axis."""
        fused = self.fact.stacked if isinstance(self.fact, FusedExperts) else ()
        return tuple(template.format(layer=layer) for template in (*fused, self.fact.router, *self.fact.per_expert))

    def weights(self, layer: int, expert: int) -> ExpertWeights:
        """One expert, for the metrics that look at weights."""

        def row(name: str) -> tuple[str, bytes]:
            placed = self.checkpoint[name]
            size = placed.size // self.experts
            return placed.tensor.dtype, self.checkpoint.read_part(name, expert * size, size)

        def tensors() -> Iterator[tuple[str, bytes]]:
            if isinstance(self.fact, FusedExperts):
                yield from (row(template.format(layer=layer)) for template in self.fact.stacked)
            for name in self.expert_tensors(layer, expert):
                yield self.checkpoint[name].tensor.dtype, self.checkpoint.read(name)

        return ExpertWeights(lambda: row(self.router(layer)), tensors)


def mixture(checkpoint: Checkpoint, fact: Experts) -> Mixture:
    """The experts of a checkpoint, counted in its config and in its headers.

    Raises:
        CheckpointError: config and tensors disagree, an expert is missing, or the layout is another family's.
    """
    where = f"{checkpoint.where}/{CONFIG}"
    settings = inner(checkpoint.config, fact.config, where)
    counts = tuple((*fact.config, key) for key in fact.count_keys if key in settings)
    if not counts:
        raise CheckpointError(f"the config has none of {', '.join(fact.count_keys)}", where=where, hint=OTHER)
    stated = {whole(settings, path[-1], where) for path in counts}
    if len(stated) > 1:
        said = ", ".join(f"{path[-1]} {settings[path[-1]]!r}" for path in counts)
        raise CheckpointError(f"the config gives several numbers of experts: {said}", where=where)
    routers = pattern(fact.router)
    layers = tuple(sorted(int(match["layer"]) for name in checkpoint.tensors if (match := routers.match(name))))
    if not layers:
        raise CheckpointError(
            f"no tensor is named like {fact.router}",
            where=checkpoint.where,
            hint=OTHER,
        )
    made = Mixture(
        checkpoint=checkpoint,
        fact=fact,
        layers=layers,
        experts=stated.pop(),
        top_k=whole(settings, fact.top_k_key, where),
        groups=whole(settings, fact.group_key, where, 1) if fact.group_key else 1,
        top_groups=whole(settings, fact.top_groups_key, where, 1) if fact.top_groups_key else 1,
        counts=counts,
    )
    for layer in layers:
        _check_layer(made, layer)
    _check_no_others(made)
    return made


def _check_layer(made: Mixture, layer: int) -> None:
    checkpoint = made.checkpoint
    for name in made.stacked(layer):
        placed = checkpoint[name]
        if not placed.tensor.shape or placed.tensor.shape[0] != made.experts:
            raise CheckpointError(
                f"tensor {name!r} is {list(placed.tensor.shape)} and the config says {made.experts} experts",
                where=f"{checkpoint.where}/{placed.file}",
            )
        if BITS[placed.tensor.dtype] % 8:
            raise CheckpointError(f"tensor {name!r} is packed below a byte and cannot be sliced", where=placed.file)
    dtypes: dict[str, str] = {}
    for expert in range(made.experts):
        for name in made.expert_tensors(layer, expert):
            dtypes[checkpoint[name].tensor.dtype] = name  # a missing expert is an error that names its tensor
    if len(dtypes) > 1:
        said = ", ".join(f"{name!r} {dtype}" for dtype, name in dtypes.items())
        raise CheckpointError(f"experts of one layer have several dtypes: {said}", where=checkpoint.where)


def _check_no_others(made: Mixture) -> None:
    """No expert beyond the ones the config counts."""
    if not isinstance(made.fact, UnfusedExperts):
        return
    gates = pattern(made.fact.gate)
    for name in made.checkpoint.tensors:
        match = gates.match(name)
        if match and (int(match["expert"]) >= made.experts or int(match["layer"]) not in made.layers):
            raise CheckpointError(
                f"tensor {name!r} is an expert beyond the {made.experts} that config and router know of",
                where=made.checkpoint.where,
            )


@dataclass(frozen=True, kw_only=True)
class DroppedExperts:
    """The experts each layer kept, by their old numbers, ascending.

    Attributes:
        experts: in each layer before.
    """

    kept: Mapping[int, tuple[int, ...]]
    experts: int
    kind = "experts"

    def origins(self, parent: Checkpoint, family: Family) -> Expected:
        made = self._mixture(parent, family)
        origins: dict[str, Origin] = {}
        gone: set[str] = set()
        for layer in made.layers:
            kept = self.kept[layer]
            origins.update({name: Origin(name, rows=tuple(kept)) for name in made.stacked(layer)})
            for new, old in enumerate(kept):
                pairs = zip(made.expert_tensors(layer, new), made.expert_tensors(layer, old), strict=True)
                origins.update({name: Origin(origin) for name, origin in pairs})
            for expert in range(made.experts):
                if expert not in kept:
                    gone.update(made.expert_tensors(layer, expert))
        return Expected(origins, frozenset(gone))

    def config(self, parent: Checkpoint, family: Family) -> Mapping[tuple[str, ...], Any]:
        keep = len(next(iter(self.kept.values())))
        return dict.fromkeys(self._mixture(parent, family).counts, keep)

    def switch_off(self, model: Loaded) -> Iterator[Any]:
        """Inside each router, what its linear layer puts out for dropped experts becomes minus infinity."""
        import torch
        from torch.overrides import TorchFunctionMode

        fact = model.family.fact(Experts)
        assert fact is not None
        experts = self.experts

        class Masked(TorchFunctionMode):
            def __init__(self, gone: list[int]) -> None:
                super().__init__()
                self.gone = gone

            def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                out = func(*args, **(kwargs or {}))
                if func is torch.nn.functional.linear and out.shape[-1] == experts:
                    out = out.clone()
                    out[..., self.gone] = float("-inf")
                return out

        stack: list[Any] = []

        def enter(mode: Any) -> Any:
            return lambda *_: stack.append(mode.__enter__())

        def leave() -> Any:
            return lambda *_: stack.pop().__exit__(None, None, None)

        for layer, (_, router) in model.modules(fact.router_module).items():
            mode = Masked(sorted(set(range(experts)) - set(self.kept[layer])))
            yield router.register_forward_pre_hook(enter(mode))
            yield router.register_forward_hook(leave(), always_call=True)

    def record(self) -> dict[str, Any]:
        return {"experts": self.experts, "kept": listed(self.kept)}

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> DroppedExperts:
        return cls(kept=numbers(tree, "kept"), experts=int(tree["experts"]))

    def _mixture(self, parent: Checkpoint, family: Family) -> Mixture:
        fact = family.fact(Experts)
        if fact is None:
            raise CheckpointError(f"family {family.name!r} has no experts to cut", where=parent.where)
        made = mixture(parent, fact)
        if made.experts != self.experts or set(made.layers) != set(self.kept):
            raise CheckpointError(
                f"the cut is of {self.experts} experts in layers {sorted(self.kept)}, "
                f"the base has {made.experts} in layers {list(made.layers)}",
                where=parent.where,
            )
        for layer, kept in self.kept.items():
            if list(kept) != sorted(set(kept)) or not kept or kept[-1] >= made.experts:
                raise CheckpointError(
                    f"layer {layer} keeps {list(kept)}, which is no set of experts", where=parent.where
                )
        if len({len(kept) for kept in self.kept.values()}) > 1:
            raise CheckpointError("the layers keep different numbers of experts", where=parent.where)
        return made


SURGERY = Kind(name="experts", read=DroppedExperts.read)
