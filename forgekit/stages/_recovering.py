"""What the stages that train have in common: corpus in, adapter out, merged as a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from forgekit.errors import MachineError
from forgekit.stages import Outcome, Work

if TYPE_CHECKING:
    from forgekit.models.training import Recovery

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def recover(
    work: Work,
    how: Recovery,
    corpus: str,
    *,
    teacher: str | None = None,
    teacher_bits: int | None = None,
    student_bits: int | None = None,
    precision: str | None = None,
    merge: bool = True,
) -> Outcome:
    """Train an adapter on a corpus, and merge it.

    Raises:
        CheckpointError: the model cannot be loaded or trained.
        CorpusError: the corpus is not the one the recipe pins.
        MachineError: a library or device is missing.
    """
    from forgekit.models import training
    from forgekit.models.corpus import encode, pad_id, read_texts
    from forgekit.models.loading import tokenizer

    words = tokenizer(work.source)
    encoded = encode(words, read_texts(work.corpus(corpus)), how.length)
    dtype = DTYPES[precision] if precision else None
    if dtype == "float16" and work.device == "cpu":
        raise MachineError("training in fp16 needs a GPU", hint="use precision bf16 or fp32")
    student = _load(work, work.source, student_bits, dtype)
    taught = _load(work, work.model(teacher), teacher_bits, dtype) if teacher else None
    trained = training.train(student, how, encoded, pad_id(words), work.out, teacher=taught, progress=work.progress)
    notes: dict[str, Any] = {
        "texts": len(encoded),
        "steps": how.steps,
        "learningRate": how.rate,
        "rank": how.rank,
        "alpha": how.alpha,
        "firstLoss": _rounded(trained.losses[:1]),
        "lastLoss": _rounded(trained.losses[-1:]),
        "loadStrategy": {"kind": student.strategy.kind, "reason": student.strategy.reason},
    }
    if teacher:
        notes |= {"teacher": teacher, "loss": how.loss, "kdTemperature": how.temperature}
    del student, taught
    files = {"adapter": work.out / training.ADAPTER}
    if not merge:
        return Outcome(weights=False, files=files, notes=notes | {"merged": False})
    changed = training.merge(work.source, work.out, work.out, progress=work.progress)
    return Outcome(weights=True, files=files, notes=notes | {"merged": True, "weightsChanged": changed})


def _load(work: Work, folder: Any, bits: int | None, dtype: str | None) -> Any:
    from forgekit.models.loading import load
    from forgekit.models.strategy import Strategy

    strategy = None
    if bits is not None:
        strategy = Strategy(
            "4-bit" if bits == 4 else "8-bit",
            "cuda" if work.device == "cuda" else "cpu",
            f"the recipe asks for {bits} bits",
        )
    return load(folder, work.family, device=work.device, strategy=strategy, dtype=dtype).require_sound(folder)


def _rounded(values: Sequence[float]) -> float | None:
    return round(values[0], 6) if values else None


def billions(work: Work) -> float:
    """Parameters of the checkpoint, from its headers."""
    from forgekit.checkpoint.opening import open_folder

    return sum(placed.tensor.count for placed in open_folder(work.source).tensors.values()) / 1e9
