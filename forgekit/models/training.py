"""Low-rank adapters: trained with peft, kept as a small file, merged as a stream.

Training is the part whose bits depend on the machine, and its whole result is
the adapter. Merging is exact: the same adapter and base give the same bytes
everywhere. So a stranger can check a merge without repeating the training.
"""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forgekit.checkpoint.opening import CONFIG, Checkpoint, open_folder
from forgekit.checkpoint.safetensors import read_header
from forgekit.checkpoint.writing import (
    Made,
    Piece,
    copy_companions,
    copy_file,
    unchanged,
    write_file,
    write_shards,
    write_text,
)
from forgekit.errors import CheckpointError, CorpusError
from forgekit.families import Family, LoraTargets, Towers
from forgekit.models.corpus import Batch, batches
from forgekit.models.loading import Loaded, need
from forgekit.models.measuring import device_of, token_losses

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

ADAPTER = "adapter.safetensors"
SETTINGS = "adapter.json"
Loss = Literal["kl_logits", "mse_hidden", "both"]


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """How an adapter is trained.

    Attributes:
        rank, alpha, dropout, targets: of the adapter; its weight is alpha / rank.
        steps: of the optimiser, each over ``batch * accumulation`` texts.
        rate: peak learning rate.
        length: tokens a text is cut at.
        loss: against a teacher; None to learn the corpus itself.
        temperature: of both models' logits in the KL divergence.
    """

    rank: int
    alpha: int
    dropout: float
    targets: tuple[str, ...]
    steps: int
    rate: float
    batch: int
    accumulation: int = 1
    scheduler: str = "cosine"
    warmup: float = 0.03
    decay: float = 0.01
    clip: float = 1.0
    length: int = 2048
    loss: Loss | None = None
    temperature: float = 2.0
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """The losses of a training, step by step, and the module names its adapter is for."""

    losses: list[float]
    modules: tuple[str, ...]


def targets(model: Loaded, suffixes: Sequence[str]) -> list[str]:
    """Full names of the linear modules an adapter goes on: decoder layers only, never a tower.

    Raises:
        CheckpointError: a suffix names no module of the family's.
    """
    towers = model.family.fact(Towers)
    apart = {prefix.rstrip(".").rpartition(".")[2] for prefix in towers.untouchable} if towers else set()
    found: dict[str, list[str]] = {suffix: [] for suffix in suffixes}
    for name, module in model.text.named_modules():
        parts = name.split(".")
        if parts[-1] in found and "layers" in parts and apart.isdisjoint(parts) and hasattr(module, "weight"):
            found[parts[-1]].append(name)
    if empty := [suffix for suffix, names in found.items() if not names]:
        known = model.family.fact(LoraTargets)
        raise CheckpointError(
            f"no decoder layer has a module {empty[0]!r}",
            hint=f"targets of this family: {', '.join(known.modules)}" if known else "",
        )
    return [name for names in found.values() for name in names]


def train(
    model: Loaded,
    how: Recovery,
    encoded: Sequence[Sequence[int]],
    pad: int,
    folder: Path,
    *,
    teacher: Loaded | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Train an adapter and write it to ``folder``.

    Texts are taken in an order drawn from the seed. Every loss is a mean over valid tokens: padding has the
    label -100 and weighs nothing, in distillation too.

    Raises:
        CheckpointError: the loss is not a number, or a target names no module.
    """
    need("peft")
    import logging

    logging.getLogger("bitsandbytes").setLevel(
        logging.CRITICAL
    )  # peft loads it, and it reports kernels nobody asked for
    import peft
    import torch
    import transformers

    if all(len(ids) < 2 for ids in encoded):
        raise CorpusError("no text of the corpus has two tokens, so there is nothing to predict")
    torch.manual_seed(how.seed)
    names = targets(model, how.targets)
    settings = peft.LoraConfig(
        r=how.rank, lora_alpha=how.alpha, lora_dropout=how.dropout, target_modules=names, bias="none"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft 0.21 asks transformers 5 for a renamed property
        adapted = peft.get_peft_model(model.text, settings)
    learned = [value for value in adapted.parameters() if value.requires_grad]
    optimiser = torch.optim.AdamW(learned, lr=how.rate, weight_decay=how.decay)
    schedule = transformers.get_scheduler(
        how.scheduler, optimiser, num_warmup_steps=round(how.warmup * how.steps), num_training_steps=how.steps
    )
    losses = []
    supply = _endless(encoded, how, pad)
    adapted.train()
    for step in range(1, how.steps + 1):
        total = 0.0
        for _ in range(how.accumulation):
            batch = next(supply).to(device_of(model))
            loss = batch_loss(adapted, batch, how, teacher) / how.accumulation
            if not bool(loss.isfinite()):
                raise CheckpointError(
                    f"the loss of step {step} is not a number", hint="lower learningRate, or train in fp32"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            total += float(loss.detach())
        torch.nn.utils.clip_grad_norm_(learned, how.clip)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(total)
        if progress is not None:
            progress(step, how.steps)
    adapted.eval()
    write_adapter(adapted, model.family, how, folder)
    return Trained(losses=losses, modules=tuple(names))


def batch_loss(model: Any, batch: Batch, how: Recovery, teacher: Loaded | None) -> Tensor:
    """The loss of one batch, a mean over its valid tokens."""
    import torch

    hidden = how.loss in ("mse_hidden", "both")
    made = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, output_hidden_states=hidden)
    if teacher is None or how.loss is None:
        losses, valid = token_losses(made.logits, batch.labels)
        return losses.sum() / valid.sum().clamp(min=1)
    with torch.no_grad():
        taught = teacher.text(
            input_ids=batch.ids, attention_mask=batch.mask, use_cache=False, output_hidden_states=hidden
        )
    parts = []
    if how.loss in ("kl_logits", "both"):
        parts.append(kl_logits(made.logits, taught.logits, batch.mask, how.temperature))
    if hidden:
        parts.append(mse_hidden(made.hidden_states, taught.hidden_states, batch.mask))
    return torch.stack(parts).mean()


def kl_logits(student: Tensor, teacher: Tensor, mask: Tensor, temperature: float) -> Tensor:
    """``T**2 * KL(teacher || student)`` of the softened distributions, mean over valid tokens.

    Args:
        student, teacher: float[batch, length, vocabulary].
        mask: int64[batch, length].

    Source: Hinton et al., arXiv:1503.02531, section 2; the factor keeps gradients comparable across temperatures.
    """
    from torch.nn import functional

    ours = functional.log_softmax(student.float() / temperature, dim=-1)
    theirs = functional.log_softmax(teacher.float() / temperature, dim=-1)
    each = functional.kl_div(ours, theirs, reduction="none", log_target=True).sum(-1)
    return temperature**2 * (each * mask).sum() / mask.sum().clamp(min=1)


def mse_hidden(student: Sequence[Tensor], teacher: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Mean squared difference of hidden states: mean over width, over valid tokens, over layers."""
    import torch

    rows = []
    for ours, theirs in zip(student, teacher, strict=True):
        each = (ours.float() - theirs.float()).pow(2).mean(-1)
        rows.append((each * mask).sum() / mask.sum().clamp(min=1))
    return torch.stack(rows).mean()


def _endless(encoded: Sequence[Sequence[int]], how: Recovery, pad: int) -> Iterator[Batch]:
    """Batches for ever; every pass over the texts is in an order of its own, drawn from the seed."""
    import torch

    usable = [list(ids)[: how.length] for ids in encoded if len(ids) > 1]
    draw = torch.Generator().manual_seed(how.seed)
    while True:
        order = torch.randperm(len(usable), generator=draw).tolist()
        yield from batches([usable[at] for at in order], how.batch, pad)


def write_adapter(adapted: Any, family: Family, how: Recovery, folder: Path) -> None:
    """The adapter as float32 tensors, named after the checkpoint's own modules."""
    import torch

    pieces = []
    for name, value in adapted.named_parameters():
        match = re.search(r"layers\.(\d+\..+)\.(lora_[AB])\.default\.weight$", name)
        if not match or not value.requires_grad:
            continue
        data = value.detach().to("cpu", torch.float32).contiguous().numpy().astype("<f4").tobytes()
        pieces.append(
            Piece(
                f"{family.layers}{match[1]}.{match[2]}.weight",
                "F32",
                tuple(value.shape),
                (Made(partial(bytes, data), len(data)),),
            )
        )
    write_file(folder / ADAPTER, pieces)
    about = {"schema": "forgekit.adapter/1", "rank": how.rank, "alpha": how.alpha, "targets": sorted(how.targets)}
    write_text(folder / SETTINGS, json.dumps(about, indent=2) + "\n")


def merge(source: Path, adapter: Path, out: Path, *, progress: Callable[[int, int], None] | None = None) -> int:
    """Write ``source`` with an adapter added to its weights; every other byte is copied.

    Args:
        adapter: folder with the adapter's two files.

    Returns:
        Weights that were changed.

    Raises:
        CheckpointError: adapter and checkpoint do not fit together.
    """
    parent = open_folder(source)
    pairs, scale = read_adapter(adapter)
    shards: dict[str, list[Piece]] = {name: [] for name in parent.files}
    left = dict(pairs)
    total = sum(placed.size for placed in parent.tensors.values())
    for name, placed in parent.tensors.items():
        pair = left.pop(name, None)
        if pair is None:
            shards[placed.file].append(unchanged(parent, name))
            continue
        make = partial(merged, parent, name, pair, scale)
        shards[placed.file].append(Piece(name, placed.tensor.dtype, placed.tensor.shape, (Made(make, placed.size),)))
    if left:
        raise CheckpointError(f"the adapter is for {next(iter(left))!r}, which the checkpoint does not have")
    done = 0

    def step(size: int) -> None:
        nonlocal done
        done += size
        if progress is not None:
            progress(min(done, total), total)

    write_shards(out, shards, progress=step)
    copy_companions(source, out)
    copy_file(source / CONFIG, out / CONFIG)
    return len(pairs)


def read_adapter(folder: Path) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float]:
    """``parse_adapter`` of the two files in a folder.

    Raises:
        CheckpointError: they are missing, or not an adapter.
    """
    try:
        about = json.loads((folder / SETTINGS).read_text("utf-8"))
        data = (folder / ADAPTER).read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"the adapter cannot be read: {error}", where=str(folder)) from error
    return parse_adapter(data, about, str(folder / ADAPTER))


def parse_adapter(
    data: bytes, about: Mapping[str, Any], where: str
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], float]:
    """(A [rank, in] and B [out, rank], float64, by the weight they are added to; alpha / rank).

    Raises:
        CheckpointError: the bytes are not an adapter.
    """
    import numpy as np

    try:
        scale = about["alpha"] / about["rank"]
    except (KeyError, TypeError, ZeroDivisionError) as error:
        raise CheckpointError("the adapter states no rank and alpha", where=where) from error
    header = read_header(lambda start, size: data[start : start + size], len(data), where)
    base = 8 + int.from_bytes(data[:8], "little")
    halves: dict[str, dict[str, Any]] = {}
    for tensor in header:
        stem, _, half = tensor.name.removesuffix(".weight").rpartition(".")
        if half not in ("lora_A", "lora_B") or tensor.dtype != "F32" or len(tensor.shape) != 2:
            raise CheckpointError(f"tensor {tensor.name!r} is no half of a float32 adapter", where=where)
        values = np.frombuffer(data, "<f4", tensor.count, base + tensor.start)
        halves.setdefault(f"{stem}.weight", {})[half] = values.reshape(tensor.shape).astype("f8")
    try:
        return {name: (both["lora_A"], both["lora_B"]) for name, both in halves.items()}, scale
    except KeyError as error:
        raise CheckpointError(f"the adapter lacks a half: {error}", where=where) from error


def merged(parent: Checkpoint, name: str, pair: tuple[np.ndarray, np.ndarray], scale: float) -> bytes:
    """``W + scale * B @ A`` in the weight's own dtype.

    The product is added rank by rank, element by element in float64, and rounded once to the nearest even: no
    matrix library is asked, so the bits are the same on every machine.

    Raises:
        CheckpointError: shapes do not fit, or the dtype cannot be added to.
    """
    import numpy as np

    a, b = pair
    placed = parent[name]
    if placed.tensor.shape != (b.shape[0], a.shape[1]) or a.shape[0] != b.shape[1]:
        raise CheckpointError(
            f"the adapter for {name!r} is {list(b.shape)} times {list(a.shape)} and the weight is "
            f"{list(placed.tensor.shape)}",
            where=parent.where,
        )
    weight = to_float64(parent.read(name), placed.tensor.dtype, name).reshape(placed.tensor.shape)
    for rank in range(a.shape[0]):
        weight += np.multiply.outer(b[:, rank] * scale, a[rank])
    return from_float64(weight, placed.tensor.dtype)


def to_float64(data: bytes, dtype: str, name: str) -> np.ndarray:
    """Values of a tensor, exactly.

    Raises:
        CheckpointError: the dtype is not one of 16- or 32-bit floating point.
    """
    import numpy as np

    if dtype == "BF16":
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4").astype("f8")
    if dtype in ("F16", "F32"):
        return np.frombuffer(data, "<f2" if dtype == "F16" else "<f4").astype("f8")
    raise CheckpointError(f"tensor {name!r} is {dtype}, which cannot be added to")


def from_float64(values: np.ndarray, dtype: str) -> bytes:
    """The nearest values of a dtype; ties go to the even one."""
    import numpy as np

    with np.errstate(over="ignore"):  # too large a value becomes infinite, which whoever asked will look for
        if dtype == "F16":
            return values.astype("<f2").tobytes()
        single = np.ascontiguousarray(values.astype("<f4"))
    if dtype == "F32":
        return single.tobytes()
    # round to odd first, so that rounding twice equals rounding once
    exact = single.astype("f8")
    bits = single.view("<u4").copy()
    inexact = exact != values
    away = inexact & (np.abs(exact) > np.abs(values))
    bits -= away.astype("<u4")
    bits |= inexact.astype("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return bytes(rounded.astype("<u2").tobytes())


@contextlib.contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Arithmetic on so many threads, with deterministic kernels, and everything as it was afterwards."""
    import torch

    before, strict = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(strict)


def untouched(family: Family, names: Mapping[str, Any]) -> list[str]:
    """Names of the tensors that no stage may change, of those there are."""
    towers = family.fact(Towers)
    return sorted(name for name in names if towers and name.startswith(towers.untouchable))
