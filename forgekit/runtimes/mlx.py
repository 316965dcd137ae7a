"""MLX, through mlx-lm. Runs on Linux processors as well as on Apple silicon."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from forgekit.forms import Form
from forgekit.runtimes import Obstacle, Runtime
from forgekit.runtimes._invariants import COMMON, TEXT, square_heads, unfused_names, whole_heads


class Driver:
    """Loads with mlx-lm's own table of models; no Python file of the artifact is run."""

    @staticmethod
    def warm() -> None:
        import mlx_lm.utils  # noqa: F401

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        import mlx.core as mx
        from mlx_lm import utils

        if asked["device"] == "cpu":
            mx.set_default_device(mx.cpu)
        folder = Path(asked["path"])
        with _widened() if asked["exact"] else contextlib.nullcontext():
            self.model, _ = utils.load_model(folder, lazy=False, strict=True)
        self.words = None
        if asked.get("texts") and (folder / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            self.words = Tokenizer.from_file(str(folder / "tokenizer.json"))
        if asked["exact"]:
            self.model.set_dtype(mx.float32)
        return {}

    def describe(self) -> dict[str, str]:
        from importlib.metadata import version

        import mlx.core as mx

        return {
            "engine": "mlx-lm",
            "version": version("mlx-lm"),
            "mlx": version("mlx"),
            "device": "cpu" if mx.default_device() == mx.cpu else "gpu",
        }

    def encode(self, text: str) -> list[int] | None:
        return list(self.words.encode(text, add_special_tokens=False).ids) if self.words is not None else None

    def generate(self, ids: list[int], count: int) -> list[int]:
        import mlx.core as mx
        from mlx_lm.models.cache import make_prompt_cache

        cache_ = make_prompt_cache(self.model)
        made: list[int] = []
        given = ids
        for _ in range(count):
            chosen: Any = mx.argmax(self.model(mx.array([given]), cache=cache_)[0, -1]).item()
            made.append(int(chosen))
            given = made[-1:]
        return made

    def logits(self, ids: list[int]) -> Any:
        import mlx.core as mx
        import numpy as np

        return np.array(self.model(mx.array([ids]))[0].astype(mx.float32))


@contextlib.contextmanager
def _widened() -> Iterator[None]:
    """Weights become float32 as they are read: mlx-lm computes with some while loading.

    The norms of Qwen 3.5 are stored less one, and adding it in bfloat16 costs 0.2 % in every norm.
    """
    import mlx.core as mx

    load = mx.load

    def widened(*args: Any, **kwargs: Any) -> Any:
        found: Any = load(*args, **kwargs)
        if not isinstance(found, dict):
            return found
        return {
            name: array.astype(mx.float32) if mx.issubdtype(array.dtype, mx.floating) else array
            for name, array in found.items()
        }

    mx.load = widened
    try:
        yield
    finally:
        mx.load = load


@cache
def _models() -> Path | None:
    """Folder of mlx-lm's model files; None where it is not installed in this interpreter."""
    spec = importlib.util.find_spec("mlx_lm")
    places = spec.submodule_search_locations if spec else None
    return Path(next(iter(places))) / "models" if places else None


@cache
def _remapped() -> Mapping[str, str]:
    """Model types that mlx-lm loads with the file of another."""
    models = _models()
    if models is None:
        return {}
    table = (models.parent / "utils.py").read_text("utf-8").split("MODEL_REMAPPING = {", 1)[-1].split("}", 1)[0]
    return dict(re.findall(r'"([\w.-]+)":\s*"([\w.-]+)"', table))


def _source(form: Form) -> str | None:
    """The file mlx-lm has for the form's model type; empty where it has none, None where mlx-lm is not here."""
    models = _models()
    if models is None:
        return None
    return _text(_remapped().get(form.model_type, form.model_type))


@cache
def _text(name: str) -> str:
    """A model file's text, followed by those it takes parts from."""
    models = _models()
    file = models / f"{name}.py" if models else None
    if file is None or not file.is_file():
        return ""
    text = file.read_text("utf-8")
    return text + "".join(
        (file.parent / f"{other}.py").read_text("utf-8")
        for other in re.findall(r"^from \.(\w+) import", text, re.MULTILINE)
        if (file.parent / f"{other}.py").is_file()
    )


def known_type(form: Form) -> Iterator[Obstacle]:
    """mlx-lm has one file per model type."""
    if _source(form) == "":
        yield Obstacle(
            invariant="known-architecture",
            effect="refuse",
            text=f"mlx-lm has no model type {form.model_type!r}",
            where=f"{form.where}/config.json#/model_type",
            fix="publish for another runtime",
        )


def stated_fields(form: Form) -> Iterator[Obstacle]:
    """A field that mlx-lm's model has no default for stands in the config under just that name."""
    text = _source(form)
    if not text:
        return
    tree = ast.parse(text.replace("from __future__ import annotations", ""))
    kind = next((n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == "ModelArgs"), None)
    if kind is None or any(isinstance(n, ast.FunctionDef) and n.name == "from_dict" for n in kind.body):
        return  # one that reads the config in a way of its own
    needed = [
        line.target.id
        for line in kind.body
        if isinstance(line, ast.AnnAssign) and line.value is None and isinstance(line.target, ast.Name)
    ]
    missing = [name for name in needed if name not in form.config and name not in form.text_config]
    if missing:
        yield Obstacle(
            invariant="stated-fields",
            effect="refuse",
            text=f"mlx-lm's {form.model_type} wants {', '.join(missing[:3])}, and the config does not state "
            + ("it" if len(missing) == 1 else "them"),
            where=f"{form.where}/config.json",
            fix="keep the keys of the base's config beside the ones that transformers 5 writes",
        )


def stated_theta(form: Form) -> Iterator[Obstacle]:
    """Where mlx-lm reads rope_theta only, a config that states it in rope_parameters alone gets a default."""
    text = _source(form)
    inner = form.text_config
    stated = inner.get("rope_parameters")
    if not text or "rope_parameters" in text or not isinstance(stated, Mapping):
        return
    theta = stated.get("rope_theta")
    if theta is not None and inner.get("rope_theta") is None:
        yield Obstacle(
            invariant="stated-theta",
            effect="wrong",
            text=f"mlx-lm's {form.model_type} reads rope_theta, which the config states in rope_parameters only "
            f"({theta}): it takes a default and answers wrongly",
            where=f"{form.where}/config.json#/rope_parameters",
            fix="state rope_theta beside rope_parameters",
        )


def scaled_latents(form: Form) -> Iterator[Obstacle]:
    """mlx-lm's DeepSeek-V2 takes its attention scale from rope_scaling, and fails where there is none."""
    if form.model_type == "deepseek_v2" and not isinstance(form.config.get("rope_scaling"), Mapping):
        yield Obstacle(
            invariant="stated-fields",
            effect="refuse",
            text="mlx-lm's deepseek_v2 reads the attention scale from rope_scaling, and the config has none",
            where=f"{form.where}/config.json#/rope_scaling",
            fix="keep rope_scaling of the base's config",
        )


def named_shards(form: Form) -> Iterator[Obstacle]:
    """mlx-lm opens files called model*.safetensors and no others."""
    named = [name for name in form.sizes if name.endswith(".safetensors")]
    if named and not any(name.startswith("model") for name in named):
        yield Obstacle(
            invariant="named-shards",
            effect="refuse",
            text=f"mlx-lm opens model*.safetensors, and the weights are called {named[0]}",
            where=form.where,
            fix="name the shards model*.safetensors",
        )


def no_other_quantisation(form: Form) -> Iterator[Obstacle]:
    """Weights that another library packed mean nothing to mlx-lm."""
    if form.kind == "safetensors" and form.precision.startswith("bitsandbytes"):
        yield Obstacle(
            invariant="quantisation",
            effect="refuse",
            text="mlx-lm does not read weights that bitsandbytes packed",
            where=f"{form.where}/config.json#/quantization_config",
            fix="quantise with mlx-lm",
        )


RUNTIME = Runtime(
    name="mlx",
    title="MLX",
    reads=("mlx", "safetensors"),
    modules=("mlx", "mlx_lm"),
    install='pip install "forgekit[runtimes]"',
    invariants=(
        *COMMON,
        *TEXT,
        whole_heads,
        square_heads("mlx"),
        unfused_names("mlx"),
        known_type,
        stated_fields,
        stated_theta,
        scaled_latents,
        named_shards,
        no_other_quantisation,
    ),
    driver=Driver,
    forks=False,  # its scheduler has threads from the import on
    widens=4,
)
