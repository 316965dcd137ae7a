"""Core ML: coremltools converts and reads graphs anywhere; predictions are made by macOS alone."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgekit.errors import MachineError
from forgekit.forms import Form, folder_forms
from forgekit.runtimes import Ask, Obstacle, Runtime
from forgekit.runtimes._graphs import Greedy
from forgekit.runtimes._invariants import COMMON, TEXT

MANIFEST = "Manifest.json"
DATA = "Data/"
TOKENS = ("input_ids", "inputIds")
MASKS = ("causal_mask", "causalMask")
MADE = "model.mlpackage"
LENGTH = 64  # tokens that a graph made here takes at once; what is shorter is filled up
FAITHFUL = 1e-4  # relative error of a float32 graph that computes what the model does; 1e-6 is usual
SENTINEL = 0xDEADBEEF
"""Begins the record of each weight in a blob file: sentinel and type (uint32), size and offset in bytes (uint64).

Source: apple/coremltools, mlmodel/src/MILBlob/Blob/StorageFormat.hpp."""


class Driver(Greedy):
    """One package through coremltools. Its graph takes token ids and gives logits."""

    @staticmethod
    def warm() -> None:
        import coremltools  # noqa: F401

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        import coremltools

        self.model = coremltools.models.MLModel(str(asked["path"]), compute_units=coremltools.ComputeUnit.ALL)
        described = self.model.get_spec().description
        self.given = {part.name: part.type.multiArrayType for part in described.input}
        self.made = [part.name for part in described.output]
        return {"inputs": list(self.given), "outputs": self.made}

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
            "specification": str(spec.specificationVersion),
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

    def logits(self, ids: list[int]) -> Any:
        import numpy as np

        length = self._length(len(ids))
        whole = np.array([ids + [0] * (length - len(ids))], dtype=np.int32)
        masks = np.triu(np.full((1, 1, length, length), -np.inf, dtype=np.float32), 1)
        known = dict.fromkeys(TOKENS, whole) | dict.fromkeys(MASKS, masks)
        strange = [name for name in self.given if name not in known]
        if strange:
            raise ValueError(f"the package wants {strange[0]!r}, which is none of a language model's inputs")
        out = self.model.predict({name: known[name] for name in self.given})
        return np.asarray(out["logits" if "logits" in out else self.made[0]], dtype=np.float32)[0, : len(ids)]

    def _length(self, wanted: int) -> int:
        """Tokens to give at once: as many as there are, or as the graph was fixed to take."""
        for name in self.given.keys() & set(TOKENS):
            taken = self.given[name]
            if taken.WhichOneof("ShapeFlexibility") is None and len(taken.shape) > 1:
                if wanted > taken.shape[-1]:
                    raise ValueError(f"the graph takes {taken.shape[-1]} tokens at once, and {wanted} are asked")
                return int(taken.shape[-1])
        return wanted


class Converter:
    """coremltools' converter, in a process as confined as an engine's."""

    @staticmethod
    def warm() -> None:
        import coremltools  # noqa: F401
        import torch  # noqa: F401
        import transformers

        transformers.PreTrainedModel.from_pretrained  # noqa: B018 - the import is lazy, and this makes it

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """A float32 graph of the checkpoint's language model, with its mask given, as Transformers computes it.

        Raises:
            ValueError: the graph computes something else.
        """
        import coremltools
        import torch

        from forgekit.families import FAMILIES, Family
        from forgekit.models.loading import load
        from forgekit.models.strategy import Strategy

        torch.set_num_threads(asked["threads"])
        name = asked["family"]
        family = FAMILIES[name] if name else Family(name="unknown", facts=(), source="the artifact's own config")
        # experts in one product: a loop over those that were chosen has no graph
        strategy = Strategy("full", "cpu", "the graph is exact")
        loaded = load(Path(asked["path"]), family, strategy=strategy, attention="eager", experts="batched_mm")
        if loaded.faults:
            raise ValueError(f"Transformers does not find {next(iter(loaded.faults.values()))[0]}, or a place for it")
        model = loaded.text
        ids = torch.arange(LENGTH, dtype=torch.int32)[None] % model.config.get_text_config().vocab_size
        mask = torch.triu(torch.full((1, 1, LENGTH, LENGTH), float("-inf")), 1)
        with torch.no_grad():
            graph = torch.export.export(_explicit(model), (ids, mask)).run_decompositions({})
            _without_aliases(graph)
            right = model(input_ids=ids.long(), use_cache=False).logits
            error = float((graph.module()(ids, mask) - right).norm() / right.norm())
        if not error < FAITHFUL:
            raise ValueError(f"a graph of {LENGTH} tokens and a causal mask computes something else ({error:.1e} off)")
        made = coremltools.convert(
            graph,
            outputs=[coremltools.TensorType("logits")],
            convert_to="mlprogram",
            compute_precision=coremltools.precision.FLOAT32,
            skip_model_load=True,
        )
        made.save(str(Path(asked["scratch"], MADE)))
        return {}

    def describe(self) -> dict[str, str]:
        return {"engine": "coremltools"}


def _explicit(model: Any) -> Any:
    """The model with token ids int32 [1, n] and the mask that is added to its scores, float32 [1, 1, n, n].

    Transformers takes such a mask as it is; the one it makes itself has operations that coremltools does not know.
    """
    import torch

    class Explicit(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, causal_mask: Any) -> Any:
            at = torch.arange(input_ids.shape[1])[None]
            return self.model(input_ids=input_ids, attention_mask=causal_mask, position_ids=at, use_cache=False).logits

    return Explicit().eval()


def _without_aliases(graph: Any) -> None:
    """Names for a value that has one already: coremltools does not know the operation."""
    import torch

    for node in list(graph.graph.nodes):
        if node.target is torch.ops.aten.alias.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    graph.graph_module.recompile()


CONVERTER = Runtime(
    name="coreml_converter",
    title="coremltools",
    reads=("safetensors",),
    modules=("coremltools", "torch", "transformers"),
    install="pip install coremltools",
    driver=Converter,  # type: ignore[arg-type]
    interpreter="coreml",
)


def make(form: Form, folder: Path, ask: Ask) -> Form:
    """The checkpoint as a package, made by coremltools from Transformers' own graph of it.

    Raises:
        MachineError: coremltools does not convert it, or torch is missing. That is not held against the artifact:
            a graph can be written otherwise.
    """
    assert form.path is not None
    answer = ask(CONVERTER, {"path": str(form.path.resolve()), "family": form.family.name if form.family else ""})
    if answer.outcome != "answered":
        raise MachineError(f"{CONVERTER.title}: {answer.said}")
    shutil.move(Path(answer.found["scratch"], MADE), folder / MADE)
    return next(made for made in folder_forms(folder) if made.kind == "mlpackage")


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


def real_rotation(form: Form) -> Iterator[Obstacle]:
    """Transformers rotates DeepSeek-V2's positions as complex numbers, and coremltools converts none."""
    if form.kind == "safetensors" and form.model_type == "deepseek_v2":
        yield Obstacle(
            invariant="real-rotation",
            effect="refuse",
            text="Transformers rotates its positions as complex numbers, which coremltools does not convert",
            where=f"{form.where}/config.json#/model_type",
            fix="publish a package whose graph rotates them with sines and cosines",
        )


def elsewhere() -> str:
    return "" if sys.platform == "darwin" else "Core ML predicts on macOS only"


RUNTIME = Runtime(
    name="coreml",
    title="Core ML",
    reads=("mlpackage",),
    modules=("coremltools",),
    install="pip install coremltools; it predicts on macOS",
    invariants=(*COMMON, *TEXT, whole_package, real_rotation),
    driver=Driver,
    makes=make,
    forks=sys.platform == "linux",  # frameworks of macOS do not bear it
    elsewhere=elsewhere,
)
