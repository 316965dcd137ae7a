"""ONNX Runtime, on graphs that take token ids and give logits, with or without a cache of keys and values."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgekit.forms import Form
from forgekit.runtimes import Obstacle, Runtime
from forgekit.runtimes._graphs import GraphDriver, logits_among
from forgekit.runtimes._invariants import COMMON

TYPES = {"int64": "int64", "int32": "int32", "float": "float32", "float16": "float16", "bool": "bool"}  # NumPy's names


class Driver(GraphDriver):
    """One graph on the processor, or on a GPU."""

    @staticmethod
    def warm() -> None:
        import onnxruntime  # noqa: F401

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = asked["threads"]
        options.use_deterministic_compute = True
        wanted = "CUDAExecutionProvider" if asked["device"] == "cuda" else "CPUExecutionProvider"
        folder = Path(asked["path"])
        name = graph(path.name for path in folder.iterdir())
        self.session = onnxruntime.InferenceSession(str(folder / name), options, providers=[wanted])
        self.read_tokenizer(folder)
        return {"inputs": [given.name for given in self.session.get_inputs()]}

    def describe(self) -> dict[str, str]:
        import onnxruntime

        device = self.session.get_providers()[0]
        return {"engine": "onnxruntime", "version": onnxruntime.__version__, "device": device}

    def inputs(self) -> Iterator[tuple[str, list[int | None], Any]]:
        for given in self.session.get_inputs():
            shape = [size if isinstance(size, int) else None for size in given.shape]
            kind = given.type.removeprefix("tensor(").removesuffix(")")
            if kind not in TYPES:  # nobody's fault but ours: a lack, not a refusal
                raise ImportError(f"NumPy has no {kind}, which the graph takes as {given.name}")
            yield given.name, shape, TYPES[kind]

    def run(self, given: Mapping[str, Any]) -> Any:
        names = [made.name for made in self.session.get_outputs()]
        return self.session.run([logits_among(names)], dict(given))[0]


def graph(names: Any) -> str:
    """The graph among a folder's files: ``model.onnx``, else the first."""
    found = sorted(name for name in names if name.endswith(".onnx"))
    return "model.onnx" if "model.onnx" in found else found[0]


def whole_data(form: Form) -> Iterator[Obstacle]:
    """A graph too small to hold the weights keeps them in files beside it."""
    if form.kind != "onnx":
        return
    name = graph(form.sizes)
    beside = [other for other in form.sizes if (other.startswith(name) and other != name) or other.endswith(".data")]
    if form.sizes[name] < 1 << 20 and not beside and form.config:
        yield Obstacle(
            invariant="whole-data",
            effect="refuse",
            text=f"{name} has {form.sizes[name]:,} bytes and no weights stand beside it",
            where=f"{form.where}/{name}",
            fix=f"publish {name}.data as well",
        )


def text_alone(form: Form) -> Iterator[Obstacle]:
    """An exported model says in its own words what it takes."""
    try:
        stated = json.loads(form.text("export.json") or "{}")
    except ValueError:
        return
    task = stated.get("task") if isinstance(stated, dict) else None
    if isinstance(task, str) and "text" not in task and "causal" not in task:
        yield Obstacle(
            invariant="known-architecture",
            effect="refuse",
            text=f"the graph was exported for {task!r}, not for text",
            where=f"{form.where}/export.json",
            fix="export the language model",
        )


RUNTIME = Runtime(
    name="onnxruntime",
    title="ONNX Runtime",
    reads=("onnx",),
    modules=("onnxruntime",),
    install='pip install "forgekit[runtimes]"',
    invariants=(*COMMON, whole_data, text_alone),
    driver=Driver,
    forks=False,  # its thread pools begin with the import
)
