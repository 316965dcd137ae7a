"""The forms an artifact comes in: each set of weights that an engine could be given, seen through headers alone."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from forgekit.checkpoint import Reader, gguf
from forgekit.checkpoint.counting import SPLIT
from forgekit.checkpoint.opening import CONFIG, PICKLES, Checkpoint, opened, parse_object, read_file
from forgekit.errors import AbsentError, CheckpointError, UnknownNameError
from forgekit.families import FAMILIES, Family

if TYPE_CHECKING:
    from forgekit.sources import Source

Kind = Literal["safetensors", "gguf", "mlx", "onnx", "openvino", "mlpackage", "tensorrt", "triton"]
"""How a form of an artifact is laid out."""

TOKENIZER, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
ADAPTER = "adapter.safetensors"
TEMPLATES = ("chat_template.jinja", "chat_template.json")
SUFFIXES = {
    "safetensors": (".safetensors",),
    "mlx": (".safetensors",),
    "gguf": (".gguf",),
    "onnx": (".onnx", ".data"),
    "openvino": (".xml", ".bin"),
    "tensorrt": (".engine",),
}
HEAVY = (".safetensors", ".gguf", ".onnx", ".data", ".bin")
NAME = re.compile(r"[\w-][\w.-]{0,63}", re.ASCII)  # of a model type: it becomes part of a path in some engines
SMALL = 64 << 20  # bytes of a text file that is read whole


@dataclass(frozen=True)
class Form:
    """One set of weights.

    Attributes:
        name: path inside the artifact; empty for the checkpoint at its root.
        kind: its layout.
        sizes: bytes of its files, by path from ``name``.
        reader: gives the reader of any of them.
        where: for messages.
        path: file or folder on this machine; None where only ranges can be read.
        architecture: as the alloy states it; empty where there is no alloy.
        pre_tokenizer: llama.cpp's name of the pre-tokenizer, where the recipe states one.
    """

    name: str
    kind: Kind
    sizes: Mapping[str, int]
    reader: Callable[[str], Reader]
    where: str
    path: Path | None = None
    architecture: str = ""
    pre_tokenizer: str = ""
    _memo: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def weights(self) -> list[str]:
        """Names of the files that hold its weights; all of them, where its kind does not tell them apart."""
        ends = SUFFIXES.get(self.kind, ("",))
        return sorted(name for name in self.sizes if name.endswith(ends) and name != ADAPTER)

    @property
    def total(self) -> int:
        """Bytes of the weights."""
        return sum(self.sizes[name] for name in self.weights)

    @property
    def stamp(self) -> tuple[Any, ...]:
        """Changes when its files do: path, sizes and times of change."""
        folder = None if self.path is None else self.path if self.path.is_dir() else self.path.parent
        times = [(folder / name).stat().st_mtime_ns for name in sorted(self.sizes)] if folder else []
        return (str(self.path), *sorted(self.sizes.items()), *times)

    @cached_property
    def checkpoint(self) -> Checkpoint:
        """Raises CheckpointError: the headers do not describe the files."""
        return opened(self.sizes, self.reader, self.where)

    @cached_property
    def header(self) -> gguf.GgufHeader:
        """The GGUF header; of the first part, where there are several.

        Raises:
            CheckpointError: it does not describe its file.
        """
        name = next(iter(sorted(self.sizes)))
        return gguf.read_header(self.reader(name), self.sizes[name], f"{self.where}")

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """``config.json``; empty where the form has none, or not a readable one."""
        try:
            return self.json(CONFIG)
        except CheckpointError:
            return {}

    @property
    def text_config(self) -> Mapping[str, Any]:
        """The part of the config that describes the language model."""
        config = self.config
        if self.family is not None:
            for fact in self.family.facts:
                path = getattr(fact, "config", ())
                found: Any = config
                for key in path:
                    found = found.get(key) if isinstance(found, Mapping) else None
                if path and isinstance(found, Mapping):
                    return found
        inner = config.get("text_config")
        return inner if isinstance(inner, Mapping) else config

    @property
    def family(self) -> Family | None:
        """What is known of its architecture; None where nothing is."""
        for name in (self.architecture, self.model_type):
            if name in FAMILIES:
                try:
                    return FAMILIES[name]
                except UnknownNameError:  # pragma: no cover - it was there a moment ago
                    return None
        return None

    @property
    def model_type(self) -> str:
        """As the config states it; empty where it states none, or something that is no name."""
        stated = self.config.get("model_type")
        return stated if isinstance(stated, str) and NAME.fullmatch(stated) else ""

    @property
    def architectures(self) -> tuple[str, ...]:
        named = self.config.get("architectures")
        return tuple(map(str, named)) if isinstance(named, list) else ()

    @cached_property
    def precision(self) -> str:
        """How its weights are stored: ``BF16``, ``Q4_K_M``, ``mlx-4bit``, and so on."""
        if self.kind == "gguf":
            stated = self.header.metadata.get("general.file_type")
            if isinstance(stated, int) and stated in gguf.FILE_TYPES:
                return gguf.FILE_TYPES[stated]
            return max(_bytes_by_type(self.header).items(), key=lambda item: item[1], default=("unknown", 0))[0]
        if self.kind == "mlx":
            bits = self.config.get("quantization", {}).get("bits")
            return f"mlx-{bits}bit"
        if self.kind == "safetensors":
            quantised = self.config.get("quantization_config")
            if isinstance(quantised, Mapping):
                bits = "4bit" if quantised.get("load_in_4bit") else "8bit" if quantised.get("load_in_8bit") else ""
                return "-".join(filter(None, (str(quantised.get("quant_method", "quantised")), bits)))
            by_type: dict[str, int] = {}
            for placed in self.checkpoint.tensors.values():
                by_type[placed.tensor.dtype] = by_type.get(placed.tensor.dtype, 0) + placed.size
            return max(by_type.items(), key=lambda item: item[1], default=("unknown", 0))[0]
        return self.kind

    @property
    def quantised(self) -> bool:
        """Whether its weights hold less than the 16-bit numbers they were made from."""
        return self.precision not in ("F32", "F16", "BF16", "onnx")

    @cached_property
    def elements(self) -> int:
        """Weights, counted."""
        if self.kind == "gguf":
            return sum(tensor.count for tensor in self.header.tensors)
        if self.kind in ("safetensors", "mlx"):
            return sum(placed.tensor.count for placed in self.checkpoint.tensors.values())
        return 0

    @property
    def vocabulary(self) -> int | None:
        """Number of token ids; None where no header says."""
        if self.kind == "gguf":
            stated = self.header.metadata.get("tokenizer.ggml.tokens")
            return stated if isinstance(stated, int) else len(stated) if isinstance(stated, list) else None
        stated = self.text_config.get("vocab_size", self.config.get("vocab_size"))
        return stated if isinstance(stated, int) else None

    def text(self, name: str) -> str | None:
        """A small text file; None where the form has none of that name.

        Raises:
            CheckpointError: it is larger than a text should be.
        """
        if name not in self.sizes:
            return None
        if self.sizes[name] > SMALL:
            raise CheckpointError(f"the file has {self.sizes[name]:,} bytes", where=f"{self.where}/{name}")
        return self.reader(name)(0, self.sizes[name]).decode("utf-8", "replace")

    def json(self, name: str) -> dict[str, Any]:
        """A small JSON object; empty where the form has no such file.

        Raises:
            CheckpointError: it is not one.
        """
        if name not in self._memo:
            text = self.text(name)
            self._memo[name] = {} if text is None else parse_object(text, f"{self.where}/{name}")
        found: dict[str, Any] = self._memo[name]
        return found

    @property
    def chat_template(self) -> str:
        """The chat template that comes with it; empty where none does."""
        if self.kind == "gguf":
            return str(self.header.metadata.get("tokenizer.chat_template") or "")
        for name in TEMPLATES:
            text = self.text(name)
            if text:
                return text
        found = self.json(TOKENIZER_CONFIG).get("chat_template")
        return found if isinstance(found, str) else json.dumps(found) if found else ""

    def tensor_shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor of a checkpoint; None where there is none of that name."""
        placed = self.checkpoint.tensors.get(name)
        return placed.tensor.shape if placed else None


def _bytes_by_type(header: gguf.GgufHeader) -> dict[str, int]:
    found: dict[str, int] = {}
    for tensor in header.tensors:
        found[tensor.dtype] = found.get(tensor.dtype, 0) + (tensor.end or tensor.start) - tensor.start
    return found


def forms(
    sizes: Mapping[str, int],
    reader: Callable[[str], Reader],
    where: str,
    *,
    root: Path | None = None,
    alloy: Mapping[str, Any] | None = None,
) -> list[Form]:
    """Every form of an artifact, the checkpoint at its root first.

    Args:
        sizes: bytes of every file of the artifact, by path.
        reader: gives the reader of any of them.
        root: its folder, where it is on this machine.
        alloy: its alloy's tree, for what the architecture is called there.
    """
    from forgekit.alloy.pointer import objects

    tree = dict(alloy or {})
    source = tree.get("source")
    architecture = str(source.get("architecture") or "") if isinstance(source, Mapping) else ""
    pre = next(
        (str(stage["preTokenizer"]) for _, stage in objects(tree, "/stages") if stage.get("preTokenizer")),
        "",
    )

    def make(name: str, kind: Kind, files: Mapping[str, int], base: str) -> Form:
        def inside(path: str) -> Reader:
            return reader(base + path)

        return Form(
            name=name,
            kind=kind,
            sizes=files,
            reader=inside,
            where=f"{where}/{name}" if name else where,
            path=None if root is None else root / name if name else root,
            architecture=architecture,
            pre_tokenizer=pre,
        )

    found = [make(name, kind, files, base) for name, kind, files, base in _found(sizes)]
    return [form if form.kind != "safetensors" else _told_apart(form) for form in found]


def _told_apart(form: Form) -> Form:
    """A folder of safetensors that mlx-lm quantised is mlx's own form."""
    if isinstance(form.config.get("quantization"), Mapping) and "bits" in form.config["quantization"]:
        return Form(
            **{name: getattr(form, name) for name in form.__dataclass_fields__ if name != "_memo"} | {"kind": "mlx"}
        )
    return form


def _found(sizes: Mapping[str, int]) -> Iterator[tuple[str, Kind, Mapping[str, int], str]]:
    """(name, kind, its files, what their paths begin with) of each form."""
    folders: dict[str, dict[str, int]] = {}
    for path, size in sizes.items():
        folder, _, name = path.rpartition("/")
        folders.setdefault(folder, {})[name] = size
    for folder in sorted(folders):
        files = folders[folder]
        base = f"{folder}/" if folder else ""
        for kind in _kinds(files, root=not folder):
            yield folder, kind, files, base
        split: dict[str, dict[str, int]] = {}
        for name in sorted(files):
            if name.endswith(".gguf") and not name.startswith("mmproj"):
                split.setdefault(SPLIT.sub("", name), {})[name] = files[name]
        for parts in split.values():
            yield base + next(iter(parts)), "gguf", parts, base
    packages = sorted({path.split(".mlpackage/", 1)[0] + ".mlpackage" for path in sizes if ".mlpackage/" in path})
    for package in packages:
        prefix = package + "/"
        inside = {path.removeprefix(prefix): size for path, size in sizes.items() if path.startswith(prefix)}
        yield package, "mlpackage", inside, prefix


def _kinds(files: Mapping[str, int], *, root: bool) -> Iterator[Kind]:
    """What a folder is, by the names in it."""
    if CONFIG in files:
        weights = any(name.endswith(".safetensors") and name != ADAPTER for name in files)
        pickled = any(name.endswith(PICKLES) and not _of_a_graph(name, files) for name in files)
        if weights or pickled or (root and not _others(files)):
            yield "safetensors"
        if any(name.endswith(".engine") for name in files):
            yield "tensorrt"
    if any(name.endswith(".onnx") for name in files):
        yield "onnx"
    if "openvino_model.xml" in files or any(_of_a_graph(name, files) for name in files):
        yield "openvino"
    if "config.pbtxt" in files:
        yield "triton"


def _of_a_graph(name: str, files: Mapping[str, int]) -> bool:
    """Whether a file holds the weights of a graph of OpenVINO, which stands beside it."""
    return name.endswith(".bin") and name.removesuffix(".bin") + ".xml" in files


def _others(files: Mapping[str, int]) -> bool:
    return any(name.endswith((".gguf", ".onnx", ".engine", ".xml")) for name in files)


def folder_forms(root: Path, alloy: Mapping[str, Any] | None = None) -> list[Form]:
    """The forms of an artifact in a folder, or of a single GGUF file.

    Raises:
        CheckpointError: there is no such folder or file.
    """
    if root.is_file():
        single = root.name
        return forms(
            {single: root.stat().st_size}, lambda _: _ranges(root), str(root.parent), root=root.parent, alloy=alloy
        )
    if not root.is_dir():
        raise CheckpointError("there is no such folder", where=str(root))
    sizes = {
        path.relative_to(root).as_posix(): path.stat().st_size
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }

    def reader(name: str) -> Reader:
        return lambda start, size: read_file(root / name, start, size)

    return forms(sizes, reader, str(root), root=root, alloy=alloy)


def _ranges(path: Path) -> Reader:
    return lambda start, size: read_file(path, start, size)


def source_forms(source: Source) -> list[Form]:
    """The forms of an artifact wherever it is. Files that are only listed are seen through ranged reads."""
    root = getattr(source, "root", None)
    listing = source.listing()
    sizes = {path: record.size for path, record in listing.items() if record.size is not None}
    try:
        alloy: Mapping[str, Any] = source.alloy().tree
    except AbsentError:
        alloy = {}

    def reader(path: str) -> Reader:
        return lambda start, size: source.read_range(path, start, size)

    found = forms(sizes, reader, source.where("").rstrip("/"), root=root, alloy=alloy)
    return [form if _is_here(form) else replace(form, path=None) for form in found]


def _is_here(form: Form) -> bool:
    if form.path is None:
        return False
    folder = form.path if form.path.is_dir() else form.path.parent
    return all((folder / name).is_file() for name in form.sizes if name.endswith(HEAVY))
