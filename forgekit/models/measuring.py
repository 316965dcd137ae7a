"""What a model does with a corpus, measured with hooks: experts, heads, neurons, layers, perplexity."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forgekit.errors import CheckpointError
from forgekit.families import AttentionHeads, Experts, FeedForward
from forgekit.metrics import Metric, Routing
from forgekit.models.corpus import Batch
from forgekit.models.loading import Loaded
from forgekit.surgery import suffix

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Perplexity:
    """``exp`` of the mean loss over the tokens that were predicted.

    Attributes:
        loss: nats per token.
        tokens: predicted; the first of each text is not.
    """

    loss: float
    tokens: int

    @property
    def value(self) -> float:
        import math

        return math.exp(self.loss)


def perplexity(model: Loaded, data: Iterable[Batch], *, progress: Progress | None = None) -> Perplexity:
    """Next-token loss over a corpus, each valid token counted once, padding never."""
    import torch

    total, tokens = 0.0, 0
    with torch.no_grad():
        for number, batch in enumerate(data, 1):
            here = batch.to(device_of(model))
            logits = model.text(input_ids=here.ids, attention_mask=here.mask, use_cache=False).logits
            losses, valid = token_losses(logits, here.labels)
            total += float(losses.double().sum())
            tokens += int(valid.sum())
            if progress is not None:
                progress(number, 0)
    if not tokens:
        raise CheckpointError("the corpus has no token to predict", hint="texts need at least two tokens")
    return Perplexity(total / tokens, tokens)


def token_losses(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(loss of each next token, float32[n]; whether it counts, bool[n]); what does not count has loss 0."""
    import torch
    from torch.nn import functional

    ahead = labels[:, 1:].reshape(-1)
    valid = ahead != -100
    flat = logits[:, :-1].reshape(-1, logits.shape[-1]).float()
    return functional.cross_entropy(flat, ahead, reduction="none", ignore_index=-100), valid.to(torch.bool)


@dataclass(frozen=True)
class Profile:
    """Sums per expert of every layer, by name, and the tokens they were taken over."""

    sums: Mapping[int, Mapping[str, list[float]]]
    tokens: int
    hooks: int


@dataclass
class _Watcher:
    """Takes a metric's sums of what routers choose, layer by layer."""

    metric: Metric
    experts: int
    sums: dict[int, dict[str, Tensor]]
    valid: Tensor | None = None  # bool[tokens] of the batch that is running

    def take(self, layer: int, gates: Tensor, chosen: Tensor, norms: Tensor | None) -> None:
        import torch

        assert self.metric.observe is not None
        routing = Routing(
            self.experts,
            chosen.reshape(-1, chosen.shape[-1])[self.valid],
            gates.reshape(-1, gates.shape[-1])[self.valid].to(torch.float64),
            None if norms is None else norms[self.valid],
        )
        for name, value in self.metric.observe(routing).items():
            so_far = self.sums[layer].get(name)
            self.sums[layer][name] = value if so_far is None else so_far + value

    def of_router(self, layer: int) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, out: Any) -> None:
            _, gates, chosen = out
            self.take(layer, gates, chosen, None)

        return hook

    def of_experts(self, layer: int) -> Callable[..., None]:
        def hook(module: Any, args: Any, kwargs: Any, _out: Any) -> None:
            hidden, chosen, gates = (*args, *kwargs.values())[:3]
            self.take(layer, gates, chosen, output_norms(module, hidden, chosen))

        return hook


def profile_experts(
    model: Loaded,
    fact: Experts,
    metric: Metric,
    data: Iterable[Batch],
    *,
    experts: int,
    progress: Progress | None = None,
) -> Profile:
    """Run a corpus through the model and take the metric's sums of every router's choices; padding counts nowhere.

    Raises:
        CheckpointError: no router was found, so nothing would be measured; or a layer was never reached.
    """
    import torch

    routers = model.modules(fact.router_module)
    if not routers:
        kind = type(model.text).__name__
        raise CheckpointError(
            f"no module is named layers.N.{fact.router_module} in {kind}: nothing would be measured",
            hint="state the router's module in the family's file",
        )
    runners = model.modules(fact.experts_module) if metric.needs == "outputs" else {}
    if metric.needs == "outputs" and set(runners) != set(routers):
        raise CheckpointError(f"not every router has a module {fact.experts_module} beside it")
    watcher = _Watcher(metric, experts, {layer: {} for layer in routers})
    tokens = 0
    with contextlib.ExitStack() as stack:
        for layer, (_, router) in routers.items():
            if metric.needs == "outputs":
                handle = runners[layer][1].register_forward_hook(watcher.of_experts(layer), with_kwargs=True)
            else:
                handle = router.register_forward_hook(watcher.of_router(layer))
            stack.callback(handle.remove)
        stack.enter_context(torch.no_grad())
        for number, batch in enumerate(data, 1):
            here = batch.to(device_of(model))
            watcher.valid = here.mask.reshape(-1).bool()
            tokens += int(here.mask.sum())
            headless(model)(input_ids=here.ids, attention_mask=here.mask, use_cache=False)
            if progress is not None:
                progress(number, 0)
    if silent := [layer for layer, found in watcher.sums.items() if not found]:
        raise CheckpointError(f"the router of layer {silent[0]} was never called: nothing was measured there")
    listed = {n: {name: value.tolist() for name, value in found.items()} for n, found in watcher.sums.items()}
    return Profile(sums=listed, tokens=tokens, hooks=len(routers))


def output_norms(module: Any, hidden: Tensor, chosen: Tensor) -> Tensor:
    """L2 norm of each chosen expert's own output, float64[tokens, k].

    The module is run again with every choice as a token of its own, of weight one: its own arithmetic is measured.
    """
    import torch

    run = type(module).forward  # not through __call__, which would run this hook again
    flat = hidden.reshape(-1, hidden.shape[-1])
    picks = chosen.reshape(flat.shape[0], -1)
    rows = flat.repeat_interleave(picks.shape[1], dim=0)
    ones = torch.ones((len(rows), 1), dtype=flat.dtype, device=flat.device)
    outputs: Tensor = run(module, rows, picks.reshape(-1, 1), ones)
    norms: Tensor = torch.linalg.vector_norm(outputs.double(), dim=-1)
    return norms.reshape(picks.shape)


@dataclass(frozen=True, slots=True)
class HeadActivity:
    """What the heads of one layer did with one batch.

    Attributes:
        outputs: float32[tokens, heads, head_dim], what each head gave to the output projection; padding left out.
        gradients: of the loss, in the same shape; None unless asked for.
        attention: float32[batch, heads, queries, keys], rows that sum to one; None unless asked for.
        mask: bool[batch, queries], which queries are tokens.
    """

    outputs: Tensor
    gradients: Tensor | None
    attention: Tensor | None
    mask: Tensor


@dataclass
class _HeadWatcher:
    """Holds what enters each output projection, and the attention weights, of the batch that is running."""

    heads: int
    gradients: bool
    held: dict[int, Any]
    maps: dict[int, Any]

    def of_output(self, layer: int) -> Callable[..., Any]:
        def hook(_module: Any, args: Any) -> Any:
            given = args[0]
            if self.gradients:
                given = given if given.requires_grad else given.detach().requires_grad_()
                given.retain_grad()
            self.held[layer] = given
            return (given, *args[1:])

        return hook

    def of_attention(self, layer: int) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, out: Any) -> None:
            self.maps[layer] = out[1]

        return hook

    def activity(self, layer: int, mask: Tensor) -> HeadActivity:
        given = self.held[layer]
        return HeadActivity(
            outputs=given.detach().float().unflatten(-1, (self.heads, -1))[mask],
            gradients=given.grad.float().unflatten(-1, (self.heads, -1))[mask] if self.gradients else None,
            attention=self.maps[layer].detach().float() if layer in self.maps else None,
            mask=mask,
        )


def measure_heads(
    model: Loaded,
    fact: AttentionHeads,
    observe: Callable[[HeadActivity], Tensor],
    data: Iterable[Batch],
    *,
    heads: int,
    gradients: bool,
    attention: bool,
    progress: Progress | None = None,
) -> dict[int, list[float]]:
    """Mean over all valid tokens of what ``observe`` sums per head.

    Raises:
        CheckpointError: no attention module was found, or a layer was never reached.
    """
    import torch

    outputs = model.modules(suffix(fact.output))
    if not outputs:
        raise CheckpointError(f"no module is named layers.N.{suffix(fact.output)}: nothing would be measured")
    blocks = model.modules(suffix(fact.output).rpartition(".")[0])
    watcher = _HeadWatcher(heads, gradients, {}, {})
    sums: dict[int, Tensor] = {}
    tokens = 0
    with contextlib.ExitStack() as stack:
        for layer, (_, module) in outputs.items():
            stack.callback(module.register_forward_pre_hook(watcher.of_output(layer)).remove)
            if attention:
                stack.callback(blocks[layer][1].register_forward_hook(watcher.of_attention(layer)).remove)
        stack.enter_context(torch.enable_grad() if gradients else torch.no_grad())
        for number, batch in enumerate(data, 1):
            here = batch.to(device_of(model))
            made = model.text(input_ids=here.ids, attention_mask=here.mask, use_cache=False)
            if gradients:
                _backward(model, made.logits, here)
            mask = here.mask.bool()
            for layer in watcher.held:
                found = observe(watcher.activity(layer, mask)).double()
                sums[layer] = sums[layer] + found if layer in sums else found
            tokens += int(mask.sum())
            watcher.held.clear()
            watcher.maps.clear()
            if progress is not None:
                progress(number, 0)
    if silent := sorted(set(outputs) - set(sums)):
        raise CheckpointError(f"the attention of layer {silent[0]} was never called: nothing was measured there")
    return {layer: (total / tokens).tolist() for layer, total in sums.items()}


def _backward(model: Loaded, logits: Tensor, batch: Batch) -> None:
    losses, valid = token_losses(logits, batch.labels)
    model.text.zero_grad(set_to_none=True)
    (losses.sum() / valid.sum().clamp(min=1)).backward()  # type: ignore[no-untyped-call]


def measure_neurons(
    model: Loaded, fact: FeedForward, data: Iterable[Batch], *, progress: Progress | None = None
) -> dict[int, list[float]]:
    """Importance of each feed-forward neuron: L2 norm over texts of its mean magnitude over a text's tokens.

    Source: Minitron, arXiv:2407.14679, section 2.2 (mean over the sequence, L2 over the batch), on the input of the
    down projection.
    """
    import torch

    sums: dict[int, Tensor] = {}
    mask: dict[str, Tensor] = {}

    def watch(layer: int) -> Callable[..., None]:
        def hook(_module: Any, args: Any) -> None:
            valid = mask["now"].to(torch.float64)
            mean = (args[0].double().abs() * valid[..., None]).sum(1) / valid.sum(1).clamp(min=1)[:, None]
            squares = mean.pow(2).sum(0)
            sums[layer] = sums[layer] + squares if layer in sums else squares

        return hook

    downs = model.modules(suffix(fact.down))
    if not downs:
        raise CheckpointError(f"no module is named layers.N.{suffix(fact.down)}: nothing would be measured")
    with contextlib.ExitStack() as stack:
        for layer, (_, module) in downs.items():
            stack.callback(module.register_forward_pre_hook(watch(layer)).remove)
        _run(model, data, mask, progress)
    return {layer: total.sqrt().tolist() for layer, total in sums.items()}


def measure_layers(model: Loaded, data: Iterable[Batch], *, progress: Progress | None = None) -> list[float]:
    """How much each decoder layer turns what passes through it: 1 - mean cosine of its input and output.

    Source: block influence, ShortGPT, arXiv:2403.03853, section 3.1.
    """
    import torch

    sums: dict[int, float] = {}
    mask: dict[str, Tensor] = {}
    tokens = 0

    def watch(layer: int) -> Callable[..., None]:
        def hook(_module: Any, args: Any, kwargs: Any, out: Any) -> None:
            before = args[0] if args else kwargs["hidden_states"]
            after = out[0] if isinstance(out, tuple) else out
            cosine = torch.cosine_similarity(before.double(), after.double(), dim=-1)
            sums[layer] = sums.get(layer, 0.0) + float((1 - cosine)[mask["now"]].sum())

        return hook

    layers = model.modules("")
    with contextlib.ExitStack() as stack:
        for layer, (_, module) in layers.items():
            stack.callback(module.register_forward_hook(watch(layer), with_kwargs=True).remove)
        tokens = _run(model, data, mask, progress)
    return [sums[layer] / tokens for layer in sorted(sums)]


def _run(model: Loaded, data: Iterable[Batch], mask: dict[str, Tensor], progress: Progress | None) -> int:
    import torch

    tokens = 0
    with torch.no_grad():
        for number, batch in enumerate(data, 1):
            here = batch.to(device_of(model))
            mask["now"] = here.mask.bool()
            tokens += int(here.mask.sum())
            headless(model)(input_ids=here.ids, attention_mask=here.mask, use_cache=False)
            if progress is not None:
                progress(number, 0)
    return tokens


def headless(model: Loaded) -> Any:
    """The model without the projection to the vocabulary, which measuring layers does not need."""
    inner = getattr(model.text, "model", None)
    return inner if inner is not None and callable(getattr(inner, "forward", None)) else model.text


def device_of(model: Loaded) -> Any:
    return next(model.text.parameters()).device


def first_batches(data: Iterator[Batch], limit: int) -> Iterator[Batch]:
    """At most ``limit`` of them."""
    for _, batch in zip(range(limit), data, strict=False):
        yield batch


__all__ = [
    "HeadActivity",
    "Perplexity",
    "Profile",
    "device_of",
    "first_batches",
    "headless",
    "measure_heads",
    "measure_layers",
    "measure_neurons",
    "output_norms",
    "perplexity",
    "profile_experts",
    "token_losses",
]
