"""Feed-forward neurons cut from every layer: narrower, and loadable everywhere."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forgekit.checkpoint.opening import CONFIG, Checkpoint
from forgekit.checkpoint.slices import Expected, Origin
from forgekit.errors import CheckpointError
from forgekit.families import Family, FeedForward
from forgekit.models.loading import Loaded
from forgekit.surgery import Kind, inner, listed, numbers, pattern, suffix, whole


def width(checkpoint: Checkpoint, fact: FeedForward) -> tuple[tuple[int, ...], int]:
    """(layers with a feed-forward block, ascending; neurons in each).

    Raises:
        CheckpointError: config and tensors disagree, or the layout is another family's.
    """
    where = f"{checkpoint.where}/{CONFIG}"
    neurons = whole(inner(checkpoint.config, fact.config, where), "intermediate_size", where)
    gates = pattern(fact.gate)
    layers = tuple(sorted(int(match["layer"]) for name in checkpoint.tensors if (match := gates.match(name))))
    if not layers:
        raise CheckpointError(f"no tensor is named like {fact.gate}", where=checkpoint.where)
    for layer in layers:
        for template, axis in ((fact.gate, 0), (fact.up, 0), (fact.down, -1)):
            name = template.format(layer=layer)
            shape = checkpoint[name].tensor.shape
            if shape[axis] != neurons:
                raise CheckpointError(
                    f"tensor {name!r} is {list(shape)} and the config says {neurons} neurons", where=checkpoint.where
                )
    return layers, neurons


@dataclass(frozen=True, kw_only=True)
class CutNeurons:
    """The neurons each layer kept, by their old numbers, ascending.

    Attributes:
        neurons: in each layer before.
    """

    kept: Mapping[int, tuple[int, ...]]
    neurons: int
    kind = "neurons"

    def origins(self, parent: Checkpoint, family: Family) -> Expected:
        fact = self._fact(parent, family)
        origins: dict[str, Origin] = {}
        for layer, kept in self.kept.items():
            for template in (fact.gate, fact.up):
                name = template.format(layer=layer)
                origins[name] = Origin(name, rows=kept)
            name = fact.down.format(layer=layer)
            origins[name] = Origin(name, columns=kept)
        return Expected(origins)

    def config(self, parent: Checkpoint, family: Family) -> Mapping[tuple[str, ...], Any]:
        fact = self._fact(parent, family)
        return {(*fact.config, "intermediate_size"): len(next(iter(self.kept.values())))}

    def switch_off(self, model: Loaded) -> Iterator[Any]:
        """What the lost neurons put out is zero where it enters the down projection."""
        fact = model.family.fact(FeedForward)
        assert fact is not None
        for layer, (_, down) in model.modules(suffix(fact.down)).items():
            gone = sorted(set(range(self.neurons)) - set(self.kept[layer]))

            def zero(_module: Any, args: Any, gone: list[int] = gone) -> Any:
                neurons = args[0].clone()
                neurons[..., gone] = 0
                return (neurons, *args[1:])

            yield down.register_forward_pre_hook(zero)

    def record(self) -> dict[str, Any]:
        return {"neurons": self.neurons, "kept": listed(self.kept)}

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> CutNeurons:
        return cls(kept=numbers(tree, "kept"), neurons=int(tree["neurons"]))

    def _fact(self, parent: Checkpoint, family: Family) -> FeedForward:
        fact = family.fact(FeedForward)
        if fact is None:
            raise CheckpointError(f"family {family.name!r} has no dense feed-forward block", where=parent.where)
        layers, neurons = width(parent, fact)
        if neurons != self.neurons or set(layers) != set(self.kept):
            raise CheckpointError("the cut is of another width or of other layers than the base's", where=parent.where)
        if len({len(kept) for kept in self.kept.values()}) > 1:
            raise CheckpointError("the layers keep different numbers of neurons", where=parent.where)
        return fact


SURGERY = Kind(name="neurons", read=CutNeurons.read)
