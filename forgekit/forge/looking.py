"""What the forge looks at after a stage, whatever the stage says of itself."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from forgekit.checkpoint.opening import open_folder
from forgekit.errors import CheckpointError, MachineError
from forgekit.families import Family, Towers


def tower_digest(folder: Path, towers: Towers) -> str:
    """SHA-256 over name, a zero byte and the bytes of every parameter no stage may change, in name order."""
    checkpoint = open_folder(folder)
    state = hashlib.sha256()
    for name in sorted(checkpoint.tensors):
        if name.startswith(towers.untouchable):
            state.update(name.encode() + b"\0")
            state.update(checkpoint.read(name))
    return state.hexdigest()


def reload(folder: Path, family: Family) -> dict[str, str]:
    """Load what was written with stock transformers, where it fits here, and have it read a few tokens.

    Raises:
        CheckpointError: it does not load, not every tensor finds its place, or what it computes is not finite.
    """
    from forgekit.models.loading import load as load_model

    try:
        model = load_model(folder, family).require_sound(folder)
    except MachineError as error:
        return {"verdict": "unchecked", "reason": error.what}
    import torch

    from forgekit.models.measuring import device_of

    with torch.no_grad():
        logits = model.text(input_ids=torch.arange(1, 9, device=device_of(model))[None]).logits
    if not bool(torch.isfinite(logits).all()):
        raise CheckpointError("what was written loads, and its logits hold NaN or infinities", where=str(folder))
    said = f"stock transformers places every tensor ({model.strategy.kind}) and computes finite logits"
    return {"verdict": "confirmed", "reason": said}


def measure_perplexity(
    folder: Path, family: Family, corpus: Path, *, threads: int = 1, device: str = "cpu"
) -> dict[str, Any]:
    """Perplexity of a checkpoint on a corpus, and what it was taken over."""
    from forgekit.models.corpus import batches, encode, pad_id, read_texts
    from forgekit.models.loading import load as load_model
    from forgekit.models.loading import tokenizer
    from forgekit.models.measuring import perplexity

    with fixed_threads(threads):
        words = tokenizer(folder)
        encoded = encode(words, read_texts(corpus), 2048)
        model = load_model(folder, family, device=device).require_sound(folder)
        found = perplexity(model, batches(encoded, 8, pad_id(words)))
    return {"perplexity": float(f"{found.value:.6g}"), "tokens": found.tokens, "texts": len(encoded)}


@contextlib.contextmanager
def fixed_threads(count: int) -> Iterator[None]:
    """Fixed threads and kernels for whatever torch does; nothing where torch is not installed."""
    if importlib.util.find_spec("torch") is None:
        yield
        return
    from forgekit.models.training import fixed_threads as fixed

    with fixed(count):
        yield
