"""Core ML: packages are looked at anywhere; predictions are made by macOS alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from forgekit.runtimes import Obstacle, Runtime
from forgekit.runtimes._form import Form
from forgekit.runtimes._invariants import COMMON

MANIFEST = "Manifest.json"
DATA = "Data/"


class Driver:
    """One package through coremltools. Its graph takes token ids and gives logits."""

    @staticmethod
    def warm() -> None:
        import coremltools  # noqa: F401

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        import coremltools

        self.model = coremltools.models.MLModel(str(asked["path"]), compute_units=coremltools.ComputeUnit.ALL)
        described = self.model.get_spec().description
        self.given = [part.name for part in described.input]
        self.made = [part.name for part in described.output]
        return {"inputs": self.given, "outputs": self.made}

    def describe(self) -> dict[str, str]:
        import platform

        import coremltools

        return {"engine": "coremltools", "version": coremltools.__version__, "device": platform.processor() or "mac"}

    def encode(self, text: str) -> list[int] | None:  # noqa: ARG002 - a package has no tokenizer
        return None

    def generate(self, ids: list[int], count: int) -> list[int]:
        made: list[int] = []
        for _ in range(count):
            made.append(int(self.logits(ids + made)[-1].argmax()))
        return made

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        whole = np.array([ids], dtype=np.int32)
        masks = np.triu(np.full((1, 1, len(ids), len(ids)), -np.inf, dtype=np.float16), 1)
        known = {"input_ids": whole, "inputIds": whole, "causal_mask": masks, "causalMask": masks}
        strange = [name for name in self.given if name not in known]
        if strange:
            raise ValueError(f"the package wants {strange[0]!r}, which is none of a language model's inputs")
        out = self.model.predict({name: known[name] for name in self.given})
        return np.asarray(out["logits" if "logits" in out else self.made[0]], dtype=np.float32)[0]


def whole_package(form: Form) -> Iterator[Obstacle]:
    """A package's manifest lists what it holds, and the model among it."""
    if form.kind != "mlpackage":
        return
    where = f"{form.where}/{MANIFEST}"
    try:
        stated = json.loads(form.text(MANIFEST) or "")
        entries = stated["itemInfoEntries"]
        paths = {key: str(entry["path"]) for key, entry in entries.items()}
        root = paths[stated["rootModelIdentifier"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        yield _broken(where, "the package has no manifest that names its model")
        return
    for path in paths.values():
        if not any(name == DATA + path or name.startswith(f"{DATA}{path}/") for name in form.sizes):
            yield _broken(where, f"the manifest lists {path}, which is not in the package")
            return
    if not form.sizes.get(DATA + root):
        yield _broken(where, f"the model itself, {root}, is empty or not in the package")


def _broken(where: str, text: str) -> Obstacle:
    return Obstacle(
        invariant="whole-package", effect="refuse", text=text, where=where, fix="publish what coremltools saved, whole"
    )


def elsewhere() -> str:
    return "" if sys.platform == "darwin" else "Core ML predicts on macOS only"


RUNTIME = Runtime(
    name="coreml",
    title="Core ML",
    reads=("mlpackage",),
    modules=("coremltools",),
    install="on macOS: pip install coremltools",
    invariants=(*COMMON, whole_package),
    driver=Driver,
    forks=False,
    elsewhere=elsewhere,
)
