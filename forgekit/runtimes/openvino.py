"""OpenVINO, on graphs in its own form (IR) and on ONNX ones that take token ids and give logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from forgekit.forms import Form
from forgekit.runtimes import Obstacle, Runtime
from forgekit.runtimes._graphs import GraphDriver, logits_among
from forgekit.runtimes._invariants import COMMON
from forgekit.runtimes.onnxruntime import graph, text_alone, whole_data


class Driver(GraphDriver):
    """One graph on the processor, in float32: by default OpenVINO rounds to bfloat16 on processors that have it."""

    @staticmethod
    def warm() -> None:
        import openvino  # noqa: F401

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        import openvino

        folder = Path(asked["path"])
        names = [path.name for path in folder.iterdir()]
        name = own_graph(names) or graph(names)
        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": asked["threads"]}
        compiled = openvino.Core().compile_model(str(folder / name), "CPU", settings)
        self.request = compiled.create_infer_request()
        self.ports = {port.get_any_name(): port for port in compiled.inputs}
        self.made = [port.get_any_name() for port in compiled.outputs]
        self.read_tokenizer(folder)
        return {"inputs": list(self.ports)}

    def describe(self) -> dict[str, str]:
        import openvino

        return {"engine": "openvino", "version": openvino.get_version(), "device": "CPU"}

    def inputs(self) -> Iterator[tuple[str, list[int | None], Any]]:
        for name, port in self.ports.items():
            shape = [size.get_length() if size.is_static else None for size in port.partial_shape]
            yield name, shape, port.element_type.to_dtype()

    def run(self, given: Mapping[str, Any]) -> Any:
        self.request.reset_state()  # graphs of text generation keep what they have read
        self.request.infer(dict(given))
        return self.request.get_tensor(logits_among(self.made)).data


def own_graph(names: Iterable[str]) -> str:
    """The graph among a folder's files: ``openvino_model.xml``, else the first; empty where none is."""
    found = sorted(name for name in names if name.endswith(".xml"))
    return "openvino_model.xml" if "openvino_model.xml" in found else next(iter(found), "")


def whole_weights(form: Form) -> Iterator[Obstacle]:
    """A graph in OpenVINO's form keeps its weights in a file of the same name."""
    if form.kind != "openvino":
        return
    name = own_graph(form.sizes).removesuffix(".xml") + ".bin"
    if not form.sizes.get(name):
        yield Obstacle(
            invariant="whole-data",
            effect="refuse",
            text=f"the graph's weights, {name}, are empty or not beside it",
            where=f"{form.where}/{name}",
            fix=f"publish {name} as well",
        )


RUNTIME = Runtime(
    name="openvino",
    title="OpenVINO",
    reads=("openvino", "onnx"),
    modules=("openvino",),
    install="pip install openvino",
    invariants=(*COMMON, whole_data, text_alone, whole_weights),
    driver=Driver,
    forks=False,  # its thread pools begin with the import
)
