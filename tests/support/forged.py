"""The forged part of the embedded catalog: an artifact per family and per kind of stage, made by this project's forge.

Weights are not kept: whoever has forgekit can make every base here to the same
bytes, and forge the rest again. Run ``make catalog`` to do that.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from forgekit import alloy, digest, tiny
from forgekit.families import FAMILIES
from forgekit.forge.executor import Settings, forge
from forgekit.forge.record import is_weight
from forgekit.sources import FileRecord
from forgekit.sources.pins import PIN_NAME, Pin

CORPUS = "calibration/words.jsonl"
EPOCH = "1780000000"
PROFILE = "expert-activation-profile"


def corpus(texts: int = 24) -> bytes:
    """Texts of 6 to 40 words, drawn by a hash so that they are the same everywhere."""
    lines = []
    for number in range(texts):
        drawn = hashlib.shake_256(f"corpus:{number}".encode()).digest(41)
        words = [tiny.WORDS[byte % len(tiny.WORDS)] for byte in drawn[1 : 7 + drawn[0] % 35]]
        lines.append(json.dumps({"text": " ".join(words)}) + "\n")
    return "".join(lines).encode()


def cut_experts(metric: str, keep: int = 6) -> list[dict[str, Any]]:
    """A profile where the metric needs one, and the cut."""
    prune = {"type": "expert-prune", "metric": metric, "keepExpertsPerLayer": keep, "originalExpertsPerLayer": 8}
    if metric in ("aimer", "router_l2"):
        return [prune]
    return [{"type": PROFILE, "calibrationCorpus": "words", "metric": metric}, prune]


def heads(strategy: str, level: float = 0.25, **more: Any) -> dict[str, Any]:
    needs = {"calibrationCorpus": "words"} if strategy in ("entropy", "gradient", "activation-magnitude") else {}
    return {"type": "prune", "strategy": strategy, "level": level, **needs, **more}


TRAIN = {"type": "train", "dataset": "words", "steps": 4, "learningRate": "1e-3", "sequenceLength": 128}
LORA = {
    "type": "lora",
    "rank": 4,
    "quantize": False,
    "dataset": "words",
    "steps": 3,
    "mergeAfter": True,
    "learningRate": "1e-3",
}
DISTIL = {
    "type": "compensation-lora",
    "teacher": "base",
    "calibrationCorpus": "words",
    "steps": 3,
    "loraRank": 4,
    "loraAlpha": 8,
    "learningRate": "1e-3",
}
VISION = {"type": "modality", "modality": "vision", "encoderModel": "its own"}
RECIPES: dict[str, tuple[str, list[dict[str, Any]], dict[str, Any]]] = {
    "qwen3-moe-counted": (
        "qwen3_moe",
        [*cut_experts("activation_count"), {"type": "package", "format": "safetensors"}],
        {},
    ),
    "olmoe-reap": ("olmoe", cut_experts("reap"), {"perplexity": True}),
    "mixtral-aimer": ("mixtral", cut_experts("aimer"), {}),
    "phimoe-gates": ("phimoe", cut_experts("gate_sum"), {}),
    "granitemoe-man": ("granitemoe", cut_experts("man"), {}),
    "deepseek-v2-router": ("deepseek_v2", cut_experts("router_l2"), {}),
    "qwen3-5-moe-ean": ("qwen3_5_moe", [VISION, *cut_experts("ean")], {}),
    "qwen3-vl-moe-msan": ("qwen3_vl_moe", cut_experts("msan"), {}),
    "qwen2-padded": ("qwen2", [heads("activation-magnitude"), TRAIN], {"cycles": 2, "perplexity": True}),
    "qwen3-narrow": (
        "qwen3",
        [{"type": "ffn-prune", "level": 0.3, "calibrationCorpus": "words"}, LORA],
        {},
    ),
    "qwen3-everywhere": (
        "qwen3",
        [
            heads("magnitude"),
            {"type": "quant", "format": "gguf", "quantTypes": ["Q8_0"]},
            *({"type": "validate-runtime", "runtime": name} for name in ("transformers", "llama_cpp", "mlx")),
            {"type": "publish", "org": "forgekit"},
        ],
        {"runtimes": ["transformers", "llama_cpp", "mlx"]},
    ),
    "qwen3-5-entropy": ("qwen3_5", [heads("entropy"), DISTIL], {}),
    "qwen2-5-vl-gradient": ("qwen2_5_vl", [VISION, heads("gradient")], {}),
    "qwen3-vl-shallow": (
        "qwen3_vl",
        [
            {"type": "context-extend", "method": "linear", "targetLength": 1024},
            {"type": "depth-prune", "keepLayers": 1, "calibrationCorpus": "words"},
        ],
        {},
    ),
    "qwen3-5-vl-sliced": (
        "qwen3_5_vl",
        [{"type": "source-config", "contextLength": 512}, heads("magnitude", defragMode="slice")],
        {},
    ),
    "qwen2-5-omni-random": (
        "qwen2_5_omni",
        [{"type": "modality", "modality": "multimodal", "encoderModel": "its own"}, heads("random")],
        {},
    ),
    "qwen3-moe-compact": (
        "qwen3_moe",
        [
            {"type": PROFILE, "calibrationCorpus": "words", "metric": "activation_magnitude"},
            {"type": "compact"},
            {"type": "quant", "format": "safetensors", "quantTypes": ["f16"]},
            {"type": "eval", "benchmarks": [{"name": "forgekit_mini"}], "maxNewTokens": 8},
            {"type": "publish", "org": "forgekit"},
        ],
        {},
    ),
}


def recipe(name: str) -> dict[str, Any]:
    """The recipe of one artifact."""
    family, stages, more = RECIPES[name]
    pinned = digest.sha256(corpus()).hex
    tree: dict[str, Any] = {
        "name": name,
        "version": "1.0.0",
        "description": f"A tiny random {family}, forged: {', '.join(stage['type'] for stage in stages)}.",
        "author": "forgekit",
        "license": "apache-2.0",
        "domains": ["llm-forge"],
        "source": {
            "baseModel": f"tiny:{family}",
            "architecture": family,
            "revision": tiny.fingerprint(FAMILIES[family]).hex,
        },
        "calibrationCorpora": [{"id": "words", "path": CORPUS, "sha256": pinned, "examples": 24}],
        "stages": stages,
        "cycles": more.get("cycles", 1),
    }
    if more.get("runtimes"):
        tree["target"] = {"runtimes": more["runtimes"]}
    if more.get("perplexity"):
        tree["perplexityCorpus"] = {"name": "words", "path": CORPUS, "contentHash": f"sha256:{pinned}"}
    return tree


def write_recipe(name: str, folder: Path) -> Path:
    """A recipe and its corpus in a folder."""
    (folder / CORPUS).parent.mkdir(parents=True, exist_ok=True)
    (folder / CORPUS).write_bytes(corpus())
    path = folder / "recipe.json"
    path.write_bytes(alloy.write(recipe(name)))
    return path


def build(root: Path) -> None:
    """Forge every artifact and put all but its weights into the catalog."""
    os.environ["SOURCE_DATE_EPOCH"] = EPOCH
    for name in RECIPES:
        with tempfile.TemporaryDirectory() as scratch:
            path = write_recipe(name, Path(scratch) / "recipe")
            made = forge(alloy.read_file(path), Path(scratch) / "out", Settings(offline=True))
            shutil.copyfile(path, made.folder / "recipe.json")
            _enter(root / "minis" / name, made.folder, made.alloy.name)
        print(f"{name:<22} {made.model_hash}")  # noqa: T201 - a tool run by hand


def _enter(folder: Path, made: Path, alloy_name: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    records = []
    for path in sorted(made.rglob("*")):
        place = path.relative_to(made).as_posix()
        if not path.is_file():
            continue
        records.append(_record(place, path.read_bytes()))
        if not is_weight(place) and not place.startswith("tokenizer"):
            (folder / place).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, folder / place)
    revision = hashlib.sha1(repr(records).encode(), usedforsecurity=False).hexdigest()
    pin = Pin(
        repo=f"minis/{folder.name}",
        revision=revision,
        alloy=alloy_name,
        alloy_hash=digest.sha256((made / alloy_name).read_bytes()),
        files=tuple(records),
    )
    (folder / PIN_NAME).write_bytes(pin.render())


def _record(path: str, content: bytes) -> FileRecord:
    return FileRecord(path=path, size=len(content), sha256=digest.sha256(content).hex, told_by="")


if __name__ == "__main__":
    build(Path(sys.argv[1]))
