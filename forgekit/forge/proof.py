"""The surgery proof: what was cut is gone, and nothing else has changed.

A checkpoint that loads and generates proves nothing: loaders fill gaps with
random numbers. Three things are shown instead: stock transformers places every
tensor; the logits are those of the base with the cut parts switched off; and
every byte that should not have moved is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forgekit.checkpoint.opening import Checkpoint, open_folder, parse_object
from forgekit.checkpoint.patching import set_values
from forgekit.checkpoint.slices import compare
from forgekit.errors import CheckpointError, MachineError
from forgekit.families import Family
from forgekit.models.loading import Loaded, load
from forgekit.models.strategy import HEADROOM, memory
from forgekit.surgery import Surgery

PROBE = ((5, 17, 230, 77, 141, 8, 99, 402), (300, 12, 12, 45, 219, 7, 388, 64))
"""Token ids, taken modulo the vocabulary; two rows of eight."""
TOLERANCE = 1e-3
"""Largest difference of a logit, against the root mean square of the reference's: what a sum in float32 may move.
A wrong expert moves it by about 1."""
WIDE = 2 << 30  # bytes up to which the proof is computed in float64


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What was shown of one surgery. Each part is ``confirmed``, ``refuted`` or ``unchecked``, with its reason."""

    loads: str
    loads_why: str
    logits: str
    logits_why: str
    bytes: str
    bytes_why: str
    figures: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refuted(self) -> list[str]:
        parts = ((self.loads, self.loads_why), (self.logits, self.logits_why), (self.bytes, self.bytes_why))
        return [why for verdict, why in parts if verdict == "refuted"]

    def record(self) -> dict[str, Any]:
        """As it stands in the alloy."""
        rows = {
            "loads": {"verdict": self.loads, "reason": self.loads_why},
            "logits": {"verdict": self.logits, "reason": self.logits_why},
            "bytes": {"verdict": self.bytes, "reason": self.bytes_why},
        }
        return {**rows, **self.figures}


def prove(base: Path, made: Path, family: Family, surgery: Surgery) -> Proof:
    """Show that ``made`` is ``base`` with exactly this cut."""
    bytes_verdict, bytes_why = _bytes(base, made, family, surgery)
    figures: dict[str, Any] = {}
    try:
        loads, loads_why, logits, logits_why = _behaviour(base, made, family, surgery, figures)
    except MachineError as error:
        loads = logits = "unchecked"
        loads_why = logits_why = error.what
    return Proof(
        loads=loads,
        loads_why=loads_why,
        logits=logits,
        logits_why=logits_why,
        bytes=bytes_verdict,
        bytes_why=bytes_why,
        figures=figures,
    )


def _bytes(base: Path, made: Path, family: Family, surgery: Surgery) -> tuple[str, str]:
    parent, child = open_folder(base), open_folder(made)
    found = compare(parent, child, surgery.origins(parent, family))
    if found.differences:
        return "refuted", found.differences[0]
    if child.config != _patched(parent, surgery.config(parent, family)):
        return "refuted", "config.json differs from the base's in more than the cut changes"
    return "confirmed", f"{found.tensors} tensors, {found.bytes:,} bytes, are where the cut says they come from"


def _patched(parent: Checkpoint, changes: Mapping[tuple[str, ...], Any]) -> Any:
    text = set_values(parent.config_text, changes, parent.where)
    return parse_object(text, parent.where)


def _behaviour(
    base: Path, made: Path, family: Family, surgery: Surgery, figures: dict[str, Any]
) -> tuple[str, str, str, str]:
    size = max(open_folder(base).total, 1)
    room = memory("cpu").host
    dtype = "float64" if size <= WIDE else "float32"
    needed = size * (4 if dtype == "float64" else 2) * HEADROOM
    if room is not None and needed > room:
        raise MachineError(f"the proof needs {needed / 1e9:.1f} GB of memory and {room / 1e9:.1f} GB are free")
    try:
        cut = load(made, family, dtype=dtype, experts="eager", attention="eager")
    except CheckpointError as error:
        return "refuted", error.what, "refuted", "the checkpoint does not load, so it computes nothing"
    if cut.faults:
        said = "; ".join(f"{len(names)} {kind}, such as {names[0]}" for kind, names in cut.faults.items())
        loads, loads_why = "refuted", f"stock transformers reports {said}"
    else:
        loads, loads_why = "confirmed", "stock transformers places every tensor: none missing, unexpected or mismatched"
    try:
        ours = logits(cut)
    except RuntimeError as error:
        return loads, loads_why, "refuted", f"the checkpoint loads and does not run: {str(error).splitlines()[0]}"
    del cut
    reference = load(base, family, dtype=dtype, experts="eager", attention="eager").require_sound(base)
    with switched_off(reference, surgery):
        wanted = logits(reference)
    scale = float(wanted.pow(2).mean().sqrt())
    apart = float((ours - wanted).abs().max()) if bool(ours.isfinite().all()) else float("inf")
    figures["largestLogitDifference"] = float(f"{apart:.3g}")
    figures["logitScale"] = float(f"{scale:.3g}")
    what = f"on {sum(map(len, PROBE))} probe tokens in {dtype}"
    if apart <= TOLERANCE * scale:
        return loads, loads_why, "confirmed", f"logits are those of the base with the cut parts switched off, {what}"
    why = (
        f"logits differ by {apart:.3g} from those of the base with the cut parts switched off (rms {scale:.3g}), {what}"
    )
    return loads, loads_why, "refuted", why


def logits(model: Loaded) -> Any:
    """Logits of the probe tokens, float64[rows, tokens, vocabulary]."""
    import torch

    limit = model.text.get_input_embeddings().weight.shape[0]
    ids = torch.tensor(PROBE) % limit
    with torch.no_grad():
        return model.text(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.double()


@contextlib.contextmanager
def switched_off(model: Loaded, surgery: Surgery) -> Iterator[None]:
    """The model with the parts that a surgery removed made ineffective, and nothing else."""
    handles: list[Any] = []
    try:
        handles += surgery.switch_off(model)
        yield
    finally:
        for handle in handles:
            handle.remove()
