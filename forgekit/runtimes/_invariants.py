"""Invariants that several engines share. Each reads headers and configs, and is silent about what it cannot see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from forgekit.checkpoint.opening import PICKLES
from forgekit.errors import CheckpointError
from forgekit.families import AttentionHeads, Experts, FusedExperts, UnfusedExperts
from forgekit.forms import TOKENIZER, Form
from forgekit.runtimes import Invariant, Obstacle

MAX_TOKENIZER = 128 << 20  # bytes; the largest published ones have a third of that
MAX_TEMPLATE = 1 << 20  # characters
MAX_DEPTH = 64  # of nested JSON in a tokenizer


def readable(form: Form) -> Iterator[Obstacle]:
    """The headers describe the files they stand in."""
    try:
        if form.kind == "gguf":
            _ = form.header
        elif form.kind in ("safetensors", "mlx"):
            if not any(name.endswith(".safetensors") for name in form.sizes) and any(
                name.endswith(PICKLES) for name in form.sizes
            ):
                pickle = next(name for name in sorted(form.sizes) if name.endswith(PICKLES))
                yield Obstacle(
                    invariant="no-pickles",
                    effect="hostile",
                    text="the weights are pickled, and a pickle can run any program when it is read",
                    where=f"{form.where}/{pickle}",
                    fix="publish safetensors",
                )
                return
            _ = form.checkpoint
            form.json("config.json")
    except CheckpointError as error:
        yield Obstacle(
            invariant="readable-headers",
            effect="hostile",
            text=error.what,
            where=error.where or form.where,
            fix=error.hint or "publish the file as its writer wrote it",
        )


def no_remote_code(form: Form) -> Iterator[Obstacle]:
    """Code that comes with weights is not run."""
    for name, key in (
        ("config.json", "auto_map"),
        ("tokenizer_config.json", "auto_map"),
        ("config.json", "model_file"),
    ):
        try:
            named = form.json(name).get(key)
        except CheckpointError:
            continue
        if named:
            first = next(iter(named.values())) if isinstance(named, Mapping) else named
            yield Obstacle(
                invariant="no-remote-code",
                effect="hostile",
                text=f"it wants to run its own code ({first})",
                where=f"{form.where}/{name}#/{key}",
                fix=f"publish it for a class that the engine has, without {key}",
            )


def tame_template(form: Form) -> Iterator[Obstacle]:
    """A chat template formats messages and reaches for nothing else."""
    if form.kind == "gguf":
        _ = form.header  # an unreadable one is told by ``readable``
    try:
        template = form.chat_template
    except CheckpointError as error:
        yield Obstacle(invariant="tame-template", effect="hostile", text=error.what, where=error.where)
        return
    if not template:
        return
    where = f"{form.where} (chat template)"
    if len(template) > MAX_TEMPLATE:
        said = f"the chat template has {len(template):,} characters"
        yield Obstacle(invariant="tame-template", effect="hostile", text=said, where=where, fix="publish the real one")
        return
    reached = _reaches(template)
    if reached:
        yield Obstacle(
            invariant="tame-template",
            effect="hostile",
            text=f"the chat template reaches for {reached!r}, by which a program can be run",
            where=where,
            fix="publish a template that only formats messages",
        )


def _reaches(template: str) -> str:
    """The first Python internal a template touches, by attribute, by item or by filter; empty where it touches none."""
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    try:
        tree = environment.parse(template)
    except (TemplateSyntaxError, RecursionError):
        return ""  # tags of another dialect; the engines' own sandboxes refuse what they cannot parse
    for node in tree.find_all(nodes.Getattr):
        if node.attr.startswith("_"):
            return str(node.attr)
    for constant in tree.find_all(nodes.Const):
        if isinstance(constant.value, str) and constant.value.startswith("__") and constant.value.endswith("__"):
            return constant.value
    return ""


def tame_tokenizer(form: Form) -> Iterator[Obstacle]:
    """A tokenizer is a table of a sane size."""
    size = form.sizes.get(TOKENIZER)
    if size is None:
        return
    where = f"{form.where}/{TOKENIZER}"
    if size > MAX_TOKENIZER:
        yield Obstacle(
            invariant="tame-tokenizer",
            effect="hostile",
            text=f"the tokenizer has {size / 2**20:,.0f} MiB, more than any real one",
            where=where,
            fix="publish the tokenizer the model was trained with",
        )
        return
    if size > 64 << 20:
        return
    text = form.text(TOKENIZER) or ""
    if _depth(text) > MAX_DEPTH:
        yield Obstacle(
            invariant="tame-tokenizer",
            effect="hostile",
            text=f"the tokenizer nests deeper than {MAX_DEPTH} levels",
            where=where,
            fix="publish the tokenizer the model was trained with",
        )


def _depth(text: str) -> int:
    """How deep brackets nest, those inside strings included only where a string is never closed."""
    deepest = depth = 0
    quoted = escaped = False
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return 0
    for letter in text[: 1 << 20]:  # a bomb of this kind nests from its beginning
        if escaped:
            escaped = False
        elif quoted:
            escaped = letter == "\\"
            quoted = letter != '"'
        elif letter == '"':
            quoted = True
        elif letter in "{[":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "}]":
            depth -= 1
    return deepest


def stored_head(form: Form) -> Iterator[Obstacle]:
    """An output head is stored, or said to be the embedding; made up it would answer at random."""
    if form.kind not in ("safetensors", "mlx"):
        return
    names = form.checkpoint.tensors
    if any(name.endswith(("lm_head.weight", "output.weight", "embed_out.weight")) for name in names):
        return
    inner = form.text_config
    tied = inner.get("tie_word_embeddings", form.config.get("tie_word_embeddings"))
    if tied is False:
        yield Obstacle(
            invariant="stored-head",
            effect="wrong",
            text="no lm_head is stored, and by the config it is not the embedding: transformers makes one up at random",
            where=f"{form.where}/config.json#/tie_word_embeddings",
            fix="store lm_head.weight, or set tie_word_embeddings where it is the embedding",
        )


def routed_within(form: Form) -> Iterator[Obstacle]:
    """A router picks no more experts than there are, and groups divide them."""
    fact = form.family.fact(Experts) if form.family else None
    if fact is None or form.kind not in ("safetensors", "mlx"):
        return
    inner = form.text_config
    counts = {key: inner[key] for key in fact.count_keys if isinstance(inner.get(key), int)}
    where = f"{form.where}/config.json"
    if len(set(counts.values())) > 1:
        said = ", ".join(f"{key} {value}" for key, value in counts.items())
        yield Obstacle(
            invariant="one-expert-count",
            effect="wrong",
            text=f"the config gives two numbers of experts ({said}), and engines read different ones",
            where=where,
            fix="keep one key, or the same number in both",
        )
    if not counts:
        return
    count = next(iter(counts.values()))
    top = inner.get(fact.top_k_key)
    if isinstance(top, int) and top > count:
        yield Obstacle(
            invariant="routed-within",
            effect="refuse",
            text=f"{top} experts are used per token and there are {count}",
            where=f"{where}#/{fact.top_k_key}",
            fix="keep at least as many experts as are used",
        )
    groups = inner.get(fact.group_key) if fact.group_key else None
    if isinstance(groups, int) and groups > 0 and count % groups:
        yield Obstacle(
            invariant="routed-within",
            effect="refuse",
            text=f"{count} experts do not divide into {groups} groups",
            where=f"{where}#/{fact.group_key}",
            fix="keep a multiple of the number of groups",
        )
    yield from _expert_shapes(form, fact, count)


def _expert_shapes(form: Form, fact: Experts, count: int) -> Iterator[Obstacle]:
    """What is stored has as many experts as the config says, in every layer."""
    if form.kind != "safetensors":
        return
    if isinstance(fact, UnfusedExperts) and fused_stack(form):
        return  # in another layout, which is a rule of its own
    for layer in layers(form):
        router = form.tensor_shape(fact.router.format(layer=layer))
        if router is not None and router[0] != count:
            yield Obstacle(
                invariant="one-expert-count",
                effect="refuse",
                text=f"the router of layer {layer} has {router[0]} rows and the config says {count} experts",
                where=fact.router.format(layer=layer),
                fix="keep as many experts in every layer as the config says",
            )
            return
        if isinstance(fact, FusedExperts):
            shapes = [(t, form.tensor_shape(t.format(layer=layer))) for t in fact.stacked]
            short = next((t for t, shape in shapes if shape is not None and shape[0] != count), None)
        elif isinstance(fact, UnfusedExperts) and router is not None:
            last = [t.format(layer=layer, expert=count - 1) for t in (fact.gate, fact.up, fact.down)]
            past = fact.gate.format(layer=layer, expert=count)
            short = next((t for t in last if form.tensor_shape(t) is None), None)
            short = short or (past if form.tensor_shape(past) is not None else None)
        else:
            short = None
        if short is not None:
            yield Obstacle(
                invariant="one-expert-count",
                effect="refuse",
                text=f"layer {layer} does not store the {count} experts that the config says",
                where=short.format(layer=layer),
                fix="store every expert, numbered from 0",
            )
            return


def layers(form: Form) -> range:
    """Numbers of the layers, no more of them than tensors are stored, whatever the config says."""
    said = form.text_config.get("num_hidden_layers")
    return range(min(said, len(form.checkpoint.tensors)) if isinstance(said, int) else 0)


def fused_stack(form: Form) -> str:
    """A tensor that holds all experts of a layer, as transformers 5 has them in memory; empty where there is none."""
    if form.kind != "safetensors":
        return ""
    return next((name for name in form.checkpoint.tensors if name.endswith("experts.gate_up_proj")), "")


def unfused_names(runtime: str, *taken: str) -> Invariant:
    """Families published with tensors per expert, saved with all of them stacked: few engines map the new names.

    Args:
        taken: families of which the engine takes both.
    """

    def unfused(form: Form) -> Iterator[Obstacle]:
        family = form.family
        if family is None or not isinstance(family.fact(Experts), UnfusedExperts) or family.name in taken:
            return
        name = fused_stack(form)
        if name:
            yield Obstacle(
                invariant="unfused-experts",
                effect="refuse",
                text=f"experts are stacked ({name}), as transformers 5 keeps them in memory; {runtime} maps the names "
                f"that {family.name} is published with, one tensor per expert",
                where=name,
                fix="save with save_original_format=True, or forge from the published layout",
            )

    return unfused


def whole_heads(form: Form) -> Iterator[Obstacle]:
    """Every layer's attention has the heads that the config says."""
    for layer, fact, found, said in _attention(form):
        if found != said:
            yield Obstacle(
                invariant="same-heads-in-every-layer",
                effect="refuse",
                text=f"the query of layer {layer} has {found} rows and the config's heads make {said}",
                where=fact.query.format(layer=layer),
                fix="cut the same heads' number from every layer, or pad: the config has one number for all",
            )
            return


def square_heads(runtime: str) -> Invariant:
    """Loaders that take hidden / heads for the width of a head, whatever ``head_dim`` says."""

    def square(form: Form) -> Iterator[Obstacle]:
        inner = form.text_config
        heads, hidden = inner.get("num_attention_heads"), inner.get("hidden_size")
        if not isinstance(heads, int) or not isinstance(hidden, int) or heads < 1:
            return
        for layer, fact, found, _ in _attention(form):
            wide = 2 if fact.gated else 1
            if runtime in fact.square_in and found != hidden * wide:
                yield Obstacle(
                    invariant="square-attention",
                    effect="refuse",
                    text=f"{runtime} takes hidden_size / num_attention_heads for the width of a head, so the query "
                    f"must have {hidden * wide} rows; layer {layer} has {found}",
                    where=fact.query.format(layer=layer),
                    fix="forge with defragMode pad, which keeps the shapes and zeroes the heads",
                )
                return

    return square


def _attention(form: Form) -> Iterator[tuple[int, AttentionHeads, int, int]]:
    """(layer, fact, rows of the query, rows that the config's heads make) of each attention layer."""
    fact = form.family.fact(AttentionHeads) if form.family else None
    if fact is None or form.kind != "safetensors":
        return
    inner = form.text_config
    heads, hidden = inner.get("num_attention_heads"), inner.get("hidden_size")
    if not isinstance(heads, int) or not isinstance(hidden, int) or heads < 1:
        return
    head_dim = inner.get("head_dim")
    width = head_dim if isinstance(head_dim, int) else hidden // heads
    for layer in layers(form):
        shape = form.tensor_shape(fact.query.format(layer=layer))
        if shape is not None:
            yield layer, fact, shape[0], heads * width * (2 if fact.gated else 1)


def gguf_rows(form: Form) -> Iterator[Obstacle]:
    """Attention shapes that llama.cpp computes from a GGUF file's own counts."""
    if form.kind != "gguf":
        return
    metadata = form.header.metadata
    name = metadata.get("general.architecture")
    hidden, heads = metadata.get(f"{name}.embedding_length"), metadata.get(f"{name}.attention.head_count")
    length = metadata.get(f"{name}.attention.key_length")
    if not isinstance(hidden, int) or not isinstance(heads, int) or heads < 1:
        return
    width = length if isinstance(length, int) else hidden // heads
    for tensor in form.header.tensors:
        if tensor.name.endswith("attn_q.weight") and tensor.shape[0] % (heads * width):
            yield Obstacle(
                invariant="square-attention",
                effect="refuse",
                text=f"{tensor.name} has {tensor.shape[0]} rows and {heads} heads of {width} make {heads * width}",
                where=form.where,
                fix="forge with defragMode pad, or state attention.key_length",
            )
            return


def names_a_class(form: Form) -> Iterator[Obstacle]:
    """A config says what the model is."""
    if form.kind in ("safetensors", "mlx") and not form.model_type:
        yield Obstacle(
            invariant="known-architecture",
            effect="refuse",
            text="the config names no model_type",
            where=f"{form.where}/config.json",
            fix="keep the model_type of the base",
        )


COMMON: tuple[Invariant, ...] = (readable, no_remote_code, tame_template, tame_tokenizer)
TEXT: tuple[Invariant, ...] = (names_a_class, stored_head, routed_within)
