"""Attention heads cut out (slice), or zeroed where they stand (pad)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from forgekit.checkpoint.opening import CONFIG, Checkpoint
from forgekit.checkpoint.slices import Expected, Origin
from forgekit.errors import CheckpointError
from forgekit.families import AttentionHeads, Family
from forgekit.models.loading import Loaded
from forgekit.surgery import Kind, inner, listed, numbers, pattern, suffix, whole


@dataclass(frozen=True)
class Attention:
    """The heads of a checkpoint.

    Attributes:
        layers: numbers of the layers whose attention has separate heads, ascending.
        heads: query heads in each.
        kv_heads: key-value heads in each.
        head_dim: width of one.
    """

    fact: AttentionHeads
    layers: tuple[int, ...]
    heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads per key-value head."""
        return self.heads // self.kv_heads

    def dead_groups(self, gone: tuple[int, ...]) -> tuple[int, ...]:
        """Key-value heads none of whose query heads is left."""
        dead = set(gone)
        return tuple(g for g in range(self.kv_heads) if all(g * self.group + i in dead for i in range(self.group)))


def attention(checkpoint: Checkpoint, fact: AttentionHeads) -> Attention:
    """The heads of a checkpoint, counted in its config and in its headers.

    Raises:
        CheckpointError: config and tensors disagree, or the layout is another family's.
    """
    where = f"{checkpoint.where}/{CONFIG}"
    settings = inner(checkpoint.config, fact.config, where)
    heads = whole(settings, "num_attention_heads", where)
    kv_heads = whole(settings, "num_key_value_heads", where, heads)
    hidden = whole(settings, "hidden_size", where)
    head_dim = whole(settings, "head_dim", where, hidden // heads)
    queries = pattern(fact.query)
    layers = tuple(sorted(int(match["layer"]) for name in checkpoint.tensors if (match := queries.match(name))))
    if not layers:
        raise CheckpointError(
            f"no tensor is named like {fact.query}",
            where=checkpoint.where,
            hint="is the recipe's architecture that of this checkpoint?",
        )
    if heads % kv_heads:
        raise CheckpointError(f"{heads} heads do not divide into {kv_heads} groups", where=where)
    wide = 2 if fact.gated else 1
    for layer in layers:
        for template, rows in (
            (fact.query, heads * head_dim * wide),
            (fact.key, kv_heads * head_dim),
            (fact.value, kv_heads * head_dim),
        ):
            name = template.format(layer=layer)
            shape = checkpoint[name].tensor.shape
            if len(shape) != 2 or shape[0] != rows:
                raise CheckpointError(
                    f"tensor {name!r} is {list(shape)} and the config says {rows} rows", where=checkpoint.where
                )
        name = fact.output.format(layer=layer)
        if checkpoint[name].tensor.shape[-1] != heads * head_dim:
            shape = checkpoint[name].tensor.shape
            raise CheckpointError(
                f"tensor {name!r} is {list(shape)} and the config says {heads * head_dim} columns",
                where=checkpoint.where,
            )
    return Attention(fact, layers, heads, kv_heads, head_dim)


@dataclass(frozen=True, kw_only=True)
class CutHeads:
    """The query heads that are gone from each layer, ascending.

    Attributes:
        heads: query heads in each layer before.
        mode: ``pad``: zeroed, all shapes stay; ``slice``: cut out of the tensors.
    """

    gone: Mapping[int, tuple[int, ...]]
    heads: int
    mode: str = "pad"
    kind = "heads"

    def origins(self, parent: Checkpoint, family: Family) -> Expected:
        made = self._attention(parent, family)
        fact = made.fact
        origins: dict[str, Origin] = {}
        for layer in made.layers:
            gone = self.gone.get(layer, ())
            dead = made.dead_groups(gone)
            wide = made.head_dim * (2 if fact.gated else 1)
            for template, units, width, lost in (
                (fact.query, made.heads, wide, gone),
                (fact.key, made.kv_heads, made.head_dim, dead),
                (fact.value, made.kv_heads, made.head_dim, dead),
            ):
                if fact.jointly_normed and template != fact.value:
                    continue
                for name in (template, template.removesuffix("weight") + "bias"):
                    if name.format(layer=layer) in parent.tensors:
                        full = name.format(layer=layer)
                        origins[full] = self._rows(full, units, width, lost)
            output = fact.output.format(layer=layer)
            columns = _units(gone, made.head_dim)
            if self.mode == "pad":
                origins[output] = Origin(output, zero_columns=columns)
            else:
                kept = tuple(sorted(set(range(made.heads * made.head_dim)) - set(columns)))
                origins[output] = Origin(output, columns=kept)
        return Expected(origins)

    def _rows(self, name: str, units: int, width: int, lost: tuple[int, ...]) -> Origin:
        rows = _units(lost, width)
        if self.mode == "pad":
            return Origin(name, zero_rows=rows)
        return Origin(name, rows=tuple(sorted(set(range(units * width)) - set(rows))))

    def config(self, parent: Checkpoint, family: Family) -> Mapping[tuple[str, ...], Any]:
        if self.mode == "pad":
            return {}
        made = self._attention(parent, family)
        gone = next(iter(self.gone.values()))
        path = made.fact.config
        return {
            (*path, "num_attention_heads"): made.heads - len(gone),
            (*path, "num_key_value_heads"): made.kv_heads - len(made.dead_groups(gone)),
            (*path, "head_dim"): made.head_dim,
        }

    def switch_off(self, model: Loaded) -> Iterator[Any]:
        """What the lost heads put out is zero where it enters the output projection."""
        fact = model.family.fact(AttentionHeads)
        assert fact is not None
        for layer, (_, output) in model.modules(suffix(fact.output)).items():
            gone = list(self.gone.get(layer, ()))

            def zero(_module: Any, args: Any, gone: list[int] = gone) -> Any:
                heads = args[0].clone().unflatten(-1, (self.heads, -1))
                heads[..., gone, :] = 0
                return (heads.flatten(-2), *args[1:])

            yield output.register_forward_pre_hook(zero)

    def record(self) -> dict[str, Any]:
        return {"mode": self.mode, "heads": self.heads, "gone": listed(self.gone)}

    @classmethod
    def read(cls, tree: Mapping[str, Any]) -> CutHeads:
        mode = str(tree["mode"])
        if mode not in ("pad", "slice"):
            raise ValueError(f"mode {mode!r} is neither pad nor slice")
        return cls(gone=numbers(tree, "gone"), heads=int(tree["heads"]), mode=mode)

    def _attention(self, parent: Checkpoint, family: Family) -> Attention:
        fact = family.fact(AttentionHeads)
        if fact is None:
            raise CheckpointError(f"family {family.name!r} has no separate heads to cut", where=parent.where)
        made = attention(parent, fact)
        if made.heads != self.heads or not set(self.gone) <= set(made.layers):
            raise CheckpointError(
                f"the cut is of {self.heads} heads in layers {sorted(self.gone)}, "
                f"the base has {made.heads} in layers {list(made.layers)}",
                where=parent.where,
            )
        for layer, gone in self.gone.items():
            if any(not 0 <= head < made.heads for head in gone) or len(set(gone)) == made.heads:
                raise CheckpointError(f"layer {layer} cannot lose heads {list(gone)}", where=parent.where)
        if self.mode == "slice":
            if fact.uncuttable:
                raise CheckpointError(
                    f"heads of {family.name!r} cannot be cut out: {fact.uncuttable}",
                    where=parent.where,
                    hint="use defragMode pad, which keeps every shape",
                )
            _check_sliceable(made, self.gone, parent.where)
        return made


def _check_sliceable(made: Attention, gone: Mapping[int, tuple[int, ...]], where: str) -> None:
    """One number of heads must describe every layer, and every group of a layer."""
    shapes = set()
    for layer in made.layers:
        lost = set(gone.get(layer, ()))
        dead = made.dead_groups(tuple(lost))
        left = {
            made.group - len(lost & set(range(g * made.group, (g + 1) * made.group)))
            for g in range(made.kv_heads)
            if g not in dead
        }
        if len(left) > 1:
            raise CheckpointError(f"the groups of layer {layer} would keep different numbers of heads", where=where)
        shapes.add((made.heads - len(lost), made.kv_heads - len(dead)))
    if len(shapes) > 1:
        said = ", ".join(f"{heads} heads in {groups} groups" for heads, groups in sorted(shapes))
        raise CheckpointError(
            f"layers would have different numbers of heads ({said}) and a config has room for one",
            where=where,
            hint="use defragMode pad, which keeps every shape",
        )


def _units(numbers_: tuple[int, ...], width: int) -> tuple[int, ...]:
    """The rows of whole units."""
    return tuple(unit * width + row for unit in sorted(numbers_) for row in range(width))


SURGERY = Kind(name="heads", read=CutHeads.read)
