"""Whole decoder layers cut out; the rest move up."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forgekit.checkpoint.opening import CONFIG, Checkpoint
from forgekit.checkpoint.slices import Expected, Origin
from forgekit.errors import CheckpointError
from forgekit.families import Family, FeedForward
from forgekit.models.loading import Loaded
from forgekit.surgery import Kind, inner, whole


def depth(checkpoint: Checkpoint, fact: FeedForward) -> int:
    """Decoder layers, as the config counts them.

    Raises:
        CheckpointError: it does not.
    """
    where = f"{checkpoint.where}/{CONFIG}"
    return whole(inner(checkpoint.config, fact.config, where), "num_hidden_layers", where)


@dataclass(frozen=True, kw_only=True)
class CutLayers:
    """The layers that stayed, by their old numbers, ascending.

    Attributes:
        layers: before.
    """

    kept: tuple[int, ...]
    layers: int
    kind = "layers"

    def origins(self, parent: Checkpoint, family: Family) -> Expected:
        self._fact(parent, family)
        named = re.compile(re.escape(family.layers) + r"(\d+)\.(.+)\Z")
        origins: dict[str, Origin] = {}
        gone: set[str] = set()
        new = {old: at for at, old in enumerate(self.kept)}
        for name in parent.tensors:
            match = named.match(name)
            if not match:
                continue
            if int(match[1]) in new:
                origins[f"{family.layers}{new[int(match[1])]}.{match[2]}"] = Origin(name)
            else:
                gone.add(name)
        return Expected(origins, frozenset(gone))

    def config(self, parent: Checkpoint, family: Family) -> Mapping[tuple[str, ...], Any]:
        fact = self._fact(parent, family)
        settings = inner(parent.config, fact.config, f"{parent.where}/{CONFIG}")
        changes: dict[tuple[str, ...], Any] = {(*fact.config, "num_hidden_layers"): len(self.kept)}
        kinds = settings.get("layer_types")
        if isinstance(kinds, list) and len(kinds) == self.layers:
            changes[(*fact.config, "layer_types")] = [kinds[old] for old in self.kept]
        elif "full_attention_interval" in settings:
            raise CheckpointError(
                "the config gives the kinds of layers by an interval, which no longer holds when some are cut",
                where=f"{parent.where}/{CONFIG}",
                hint="list them under layer_types",
            )
        window = settings.get("max_window_layers")
        if type(window) is int:
            changes[(*fact.config, "max_window_layers")] = sum(old < window for old in self.kept)
        return changes

    def switch_off(self, model: Loaded) -> Iterator[Any]:
        """The lost layers pass their input on."""

        def pass_on(_module: Any, args: Any, kwargs: Any, out: Any) -> Any:
            given = args[0] if args else kwargs["hidden_states"]
            return (given, *out[1:]) if isinstance(out, tuple) else given

        for layer, (_, module) in model.modules("").items():
            if layer not in self.kept:
                yield module.register_forward_hook(pass_on, with_kwargs=True)

    def record(self) -> dict[str, Any]:
        return {"layers": self.layers, "kept": list(self.kept)}

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> CutLayers:
        return cls(kept=tuple(map(int, tree["kept"])), layers=int(tree["layers"]))

    def _fact(self, parent: Checkpoint, family: Family) -> FeedForward:
        fact = family.fact(FeedForward)
        if fact is None:
            raise CheckpointError(f"layers of family {family.name!r} are not all alike", where=parent.where)
        if depth(parent, fact) != self.layers:
            raise CheckpointError(
                f"the cut is of {self.layers} layers and the base has {depth(parent, fact)}", where=parent.where
            )
        if not self.kept or list(self.kept) != sorted(set(self.kept)) or self.kept[-1] >= self.layers:
            raise CheckpointError(f"{list(self.kept)} is no set of its layers", where=parent.where)
        return fact


SURGERY = Kind(name="layers", read=CutLayers.read)
