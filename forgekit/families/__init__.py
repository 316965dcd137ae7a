"""Model families: where each keeps the tensors that stages act on.

A family is one file that states facts; a stage names the facts it needs; the
plan joins the two. Tensor names are those of the Hub checkpoint, with
``{layer}`` and ``{expert}`` for indices; shapes are in the comments beside them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from forgekit.registry import Registry


@dataclass(frozen=True, kw_only=True, slots=True)
class AttentionHeads:
    """Separate query, key, value and output projections, cut along whole heads.

    Attributes:
        query, key, value: weights [heads * head_dim, hidden]; ``key`` and ``value`` have the KV heads.
        output: weight [hidden, heads * head_dim].
        biased: whether query, key and value carry a bias of the same leading size.
        gated: whether each query head's rows hold a gate of the same size too (twice head_dim per head).
        hybrid: whether only the layers that ``layer_types`` calls full_attention have these tensors.
        jointly_normed: whether queries and keys are normalised over all heads at once, so that one head's rows
            touch every other head.
        square_in: runtimes whose loaders take hidden / heads for the width of a head, so that heads cannot be cut out.
        uncuttable: why heads can never be cut out of this family, only zeroed; empty where they can.
        config: path of keys from the config's root to the object that holds the counts.
    """

    query: str
    key: str
    value: str
    output: str
    biased: bool = False
    gated: bool = False
    hybrid: bool = False
    jointly_normed: bool = False
    square_in: tuple[str, ...] = ()
    uncuttable: str = ""
    config: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class FeedForward:
    """A gated feed-forward block: gate and up [ffn, hidden], down [hidden, ffn]."""

    gate: str
    up: str
    down: str
    config: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Experts:
    """Routed experts and the router that picks them.

    Attributes:
        layout: published id of the layout, as in a stage's ``expertTensorLayout``.
        router: weight [experts, hidden]; row e belongs to expert e.
        router_module: path of the module whose forward makes the routing decision, under one decoder layer.
        count_keys: config keys that hold the number of experts; every one present is patched.
        top_k_key: config key of the experts used per token.
        group_key: config key of the number of groups that routing is limited to; None where it is not.
        top_groups_key: config key of the groups a token may use.
        per_expert: further tensors with one row per expert.
        config: path of keys from the config's root to the object that holds the counts.
    """

    layout: str
    router: str
    router_module: str
    count_keys: tuple[str, ...]
    top_k_key: str = "num_experts_per_tok"
    group_key: str | None = None
    top_groups_key: str | None = None
    per_expert: tuple[str, ...] = ()
    config: tuple[str, ...] = ()

    @property
    def experts_module(self) -> str:
        """Path of the module that runs the experts, beside the router's."""
        return self.router_module.rpartition(".")[0] + ".experts"


@dataclass(frozen=True, kw_only=True, slots=True)
class UnfusedExperts(Experts):
    """Every expert has tensors of its own: dropping one drops names, the rest are renumbered."""

    gate: str
    up: str
    down: str

    @property
    def tensors_per_expert(self) -> int:
        return 3


@dataclass(frozen=True, kw_only=True, slots=True)
class FusedExperts(Experts):
    """All experts of a layer share tensors, stacked along axis 0: dropping one slices."""

    stacked: tuple[str, ...]

    @property
    def tensors_per_expert(self) -> int:
        return 0


@dataclass(frozen=True, kw_only=True, slots=True)
class AlwaysOn:
    """Parts of a mixture-of-experts model that routing does not touch and pruning must not.

    Attributes:
        tensors: templates of the shared experts' tensors.
        dense_layers_key: config key of the number of leading layers without experts; None where every layer has them.
    """

    tensors: tuple[str, ...] = ()
    dense_layers_key: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraTargets:
    """Linear modules that a low-rank adapter may be put on, by suffix."""

    modules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class RotaryPositions:
    """Rotary position embedding with a base that can be rescaled to a longer context.

    Attributes:
        methods: ways of rescaling that transformers computes for this family.
        states_head_dim: whether the config must state ``head_dim`` before transformers can rescale.
    """

    methods: tuple[str, ...] = ("yarn", "ntk", "linear", "dynamic-ntk")
    states_head_dim: bool = False
    config: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Towers:
    """Modalities beside text, and the parameters no stage may change.

    Attributes:
        modalities: what the model takes in or gives out beside text.
        config_keys: objects that must stand in the config, as dotted paths.
        token_keys: config keys of the token ids that mark a modality's place in the text.
        untouchable: tensor name prefixes on disk.
    """

    modalities: tuple[str, ...]
    config_keys: tuple[str, ...]
    token_keys: tuple[str, ...]
    untouchable: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Population:
    """Membership in a set of models that are combined; no single architecture states it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionPipeline:
    """A computer-vision pipeline; no language model states it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingDefaults:
    """What a family trains with where a recipe does not say.

    Attributes:
        by_size: (billions of parameters below which the row holds, steps, learning rate), ascending.
        unknown_size: billions assumed where the size is not known.
    """

    by_size: tuple[tuple[float, int, str], ...]
    unknown_size: float = 7.0

    def for_size(self, billions: float | None) -> tuple[int, str]:
        """(steps, learning rate) for a model of ``billions`` parameters."""
        size = self.unknown_size if billions is None else billions
        for below, steps, rate in self.by_size:
            if size < below:
                return steps, rate
        raise AssertionError("the last row of by_size must be unbounded")


F = TypeVar("F")


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """One architecture string, and the facts that stages need of it.

    Attributes:
        name: the architecture string an alloy's ``source.architecture`` carries.
        facts: at most one of each kind.
        source: where the facts were read.
        without: for facts a reader might expect and that are absent, why they are.
        text_module: attribute of the loaded model that takes text and gives logits; the model itself where empty.
        tiny: table of its tiny checkpoint in ``families/_tiny``; its own name where empty.
    """

    name: str
    facts: tuple[object, ...]
    source: str
    without: Mapping[type, str] = field(default_factory=dict)
    tiny: str = ""
    text_module: str = ""

    def fact(self, kind: type[F]) -> F | None:
        return next((fact for fact in self.facts if isinstance(fact, kind)), None)

    @property
    def layers(self) -> str:
        """What names of tensors in decoder layers begin with on disk, up to the layer's number."""
        for fact in self.facts:
            template = getattr(fact, "query", None) or getattr(fact, "router", None)
            if template:
                return str(template).split("{layer}", 1)[0]
        return "model.layers."


FAMILIES = Registry("family", "forgekit.families", Family)
