"""Transformers: the reference that other engines are held against, in float32 on a processor."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgekit.errors import CheckpointError
from forgekit.forms import TOKENIZER, Form
from forgekit.runtimes import LACKS, Obstacle, Runtime
from forgekit.runtimes._invariants import COMMON, TEXT, whole_heads


class Driver:
    """Loads with the class the config names, and keeps what the loader said about every tensor."""

    @staticmethod
    def warm() -> None:
        import torch  # noqa: F401
        import transformers

        transformers.PreTrainedModel.from_pretrained  # noqa: B018 - the import is lazy, and this makes it

    def load(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        from forgekit.families import FAMILIES, Family
        from forgekit.models.loading import load, tokenizer
        from forgekit.models.strategy import Strategy

        torch.set_num_threads(asked["threads"])
        folder = Path(asked["path"])
        name = asked["family"]
        family = FAMILIES[name] if name else Family(name="unknown", facts=(), source="the artifact's own config")
        device = asked["device"]
        strategy = None
        if asked["precision"].startswith("bitsandbytes"):
            strategy = Strategy("full", device, "as it was saved")
        elif device == "cpu":
            strategy = Strategy("full", device, "the reference is exact")
        model = load(folder, family, device=device, strategy=strategy, attention="eager" if device == "cpu" else None)
        self.model, self.device = model.text, device
        self.words, notes = None, {}
        if asked.get("texts"):
            try:
                self.words = tokenizer(folder)
            except CheckpointError as error:  # prompts are then made of ids
                if (folder / TOKENIZER).is_file():
                    lacks = isinstance(error.__cause__, ImportError)
                    notes["tokenizer"] = f"{LACKS[0]}: {error.what}" if lacks else error.what
        return {"faults": {kind: list(names) for kind, names in model.faults.items()}, **notes}

    def describe(self) -> dict[str, str]:
        import torch
        import transformers

        device = torch.cuda.get_device_name() if self.device == "cuda" else "cpu"
        return {
            "engine": "transformers",
            "version": transformers.__version__,
            "torch": torch.__version__,
            "device": device,
        }

    def encode(self, text: str) -> list[int] | None:
        return list(self.words(text, add_special_tokens=False)["input_ids"]) if self.words is not None else None

    def decode(self, ids: list[int]) -> str | None:
        return str(self.words.decode(ids)) if self.words is not None else None

    def generate(self, ids: list[int], count: int) -> list[int]:
        import torch

        made: list[int] = []
        given, cache = torch.tensor([ids], device=self.device), None
        with torch.no_grad():
            for _ in range(count):
                out = self.model(input_ids=given, past_key_values=cache, use_cache=True)
                cache = out.past_key_values
                made.append(int(out.logits[0, -1].argmax()))
                given = torch.tensor([[made[-1]]], device=self.device)
        return made

    def logits(self, ids: list[int]) -> Any:
        import torch

        with torch.no_grad():
            out = self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=False)
        return out.logits[0].float().cpu().numpy()


def known_type(form: Form) -> Iterator[Obstacle]:
    """Every model type has a folder of its own in transformers."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations or not form.model_type:
        return
    models = Path(next(iter(spec.submodule_search_locations))) / "models"
    stems = {form.model_type, form.model_type.replace("-", "_"), form.model_type.split("_text")[0]}
    if models.is_dir() and not any((models / stem).is_dir() for stem in stems):
        yield Obstacle(
            invariant="known-architecture",
            effect="refuse",
            text=f"the installed transformers has no model type {form.model_type!r}",
            where="config.json#/model_type",
            fix="name a model type that transformers has, or a newer transformers",
        )


RUNTIME = Runtime(
    name="transformers",
    title="Transformers",
    reads=("safetensors",),
    modules=("torch", "transformers"),
    install='pip install torch, then pip install "forgekit[forge]"',
    invariants=(*COMMON, *TEXT, known_type, whole_heads),
    driver=Driver,
    widens=4,
)
