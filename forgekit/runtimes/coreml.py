"""Core ML: packages are looked at anywhere, their graphs read by coremltools; predictions are made by macOS alone."""

from __future__ import annotations

import json
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgekit.forms import Form
from forgekit.runtimes import Obstacle, Runtime
from forgekit.runtimes._invariants import COMMON

MANIFEST = "Manifest.json"
DATA = "Data/"
TOKENS = ("input_ids", "inputIds")
MASKS = ("causal_mask", "causalMask")
SENTINEL = 0xDEADBEEF
"""Begins the record of each weight in a blob file: sentinel and type (uint32), size and offset in bytes (uint64).

Source: apple/coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp."""


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

    def inspect(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """What the graph takes, gives and is made of, and that every weight it names is there; runs nothing.

        Raises:
            ValueError: it is no language model's graph, or a weight is not in the package.
        """
        import coremltools

        package = Path(asked["path"])
        if getattr(coremltools.models.utils, "_ModelPackage", None) is None:
            raise ImportError("this build of coremltools cannot open packages")
        spec = coremltools.models.utils.load_spec(str(package))
        stated = json.loads((package / MANIFEST).read_text("utf-8"))
        root = (package / DATA / stated["itemInfoEntries"][stated["rootModelIdentifier"]]["path"]).parent
        given, made = ([part.name for part in side] for side in (spec.description.input, spec.description.output))
        strange = [name for name in given if name not in TOKENS + MASKS]
        if not set(given) & set(TOKENS) or strange or not made:
            raise ValueError(f"the graph takes {', '.join(given) or 'nothing'}: a language model's takes {TOKENS[0]}")
        operations = list(_operations(spec))
        weights = list(_weights(operations, root))
        return {
            "specification": spec.specificationVersion,
            "inputs": given,
            "outputs": made,
            "operations": len(operations),
            "weights": len(weights),
            "weightBytes": sum(weights),
        }

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
        known = dict.fromkeys(TOKENS, whole) | dict.fromkeys(MASKS, masks)
        strange = [name for name in self.given if name not in known]
        if strange:
            raise ValueError(f"the package wants {strange[0]!r}, which is none of a language model's inputs")
        out = self.model.predict({name: known[name] for name in self.given})
        return np.asarray(out["logits" if "logits" in out else self.made[0]], dtype=np.float32)[0]


def _operations(spec: Any) -> Iterator[Any]:
    """Every operation of an ML program, those of inner blocks too."""
    waiting = [
        block for function in spec.mlProgram.functions.values() for block in function.block_specializations.values()
    ]
    while waiting:
        for operation in waiting.pop().operations:
            yield operation
            waiting += operation.blocks


def _weights(operations: list[Any], root: Path) -> Iterator[int]:
    """Bytes of each weight that stands in a blob file beside the model, in the folder ``root``.

    Raises:
        ValueError: the file does not hold it.
    """
    for operation in operations:
        for value in (operation.attributes[name] for name in sorted(operation.attributes)):
            if value.WhichOneof("value") == "blobFileValue":
                name, at = value.blobFileValue.fileName, value.blobFileValue.offset
                inside = root / name.removeprefix("@model_path/")
                if not inside.resolve().is_relative_to(root.resolve()):
                    raise ValueError(f"the graph reads {name}, which is outside the model's folder")
                yield _weight(inside, at, name)


def _weight(file: Path, at: int, name: str) -> int:
    try:
        with file.open("rb") as opened:
            opened.seek(at)
            mark, _, size, start = struct.unpack("<IIQQ", opened.read(24))
    except (OSError, struct.error, OverflowError) as error:
        raise ValueError(f"{name} holds no weight at byte {at:,}, where the graph reads one") from error
    if mark != SENTINEL or start + size > file.stat().st_size:
        raise ValueError(f"{name} holds no whole weight at byte {at:,}, where the graph reads one")
    return int(size)


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
    install="pip install coremltools; it predicts on macOS",
    invariants=(*COMMON, whole_package),
    driver=Driver,
    forks=False,
    elsewhere=elsewhere,
)
