"""Small honest things to test with: alloys, checkpoints, samples."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from forgekit import alloy, digest
from forgekit.benchmarks._evalplus import load
from forgekit.benchmarks.forgekit_mini import MINI

WEIGHTS = "model.safetensors"


def an_alloy(**changes: Any) -> dict[str, Any]:
    """A complete alloy of a small mixture-of-experts model, with ``changes`` to its root fields."""
    tree: dict[str, Any] = {
        "name": "ember",
        "version": "1.0.0",
        "source": {
            "baseModel": "forgekit/base",
            "architecture": "qwen3_moe",
            "revision": "1" * 40,
            "numLayers": 2,
            "numExpertsPerLayer": 8,
            "numActivatedExperts": 2,
        },
        "stages": [
            {"type": "expert-activation-profile", "calibrationCorpus": "embers"},
            {
                "type": "expert-prune",
                "metric": "activation_count",
                "keepExpertsPerLayer": 6,
                "originalExpertsPerLayer": 8,
                "prunePct": 25.0,
            },
        ],
        "results": {"benchmarks": [], "integrity": {"trustLevel": "self-attested"}},
    }
    return copy.deepcopy(tree | changes)


def write_alloy(folder: Path, tree: Mapping[str, Any], name: str = "ember.alloy.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(alloy.write(dict(tree)))
    return path


def splitmix(seed: int) -> Iterator[int]:
    """64-bit numbers that are the same on every machine (SplitMix64, Steele et al. 2014)."""
    mask = (1 << 64) - 1
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & mask
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        yield z ^ (z >> 31)


def tensor_bytes(name: str, shape: tuple[int, ...], seed: int = 0) -> bytes:
    """bf16 values in (-0.5, 0.5), drawn by name and seed."""
    start = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "little")
    numbers = splitmix(start)
    made = bytearray()
    for _ in range(math.prod(shape)):
        number = next(numbers)
        # sign, exponents 118 to 125, seven bits of mantissa
        made += ((number & 1) << 15 | (118 + (number >> 1) % 8) << 7 | (number >> 8) & 0x7F).to_bytes(2, "little")
    return bytes(made)


Tensors = dict[str, tuple[tuple[int, ...], bytes]]


def write_safetensors(path: Path, tensors: Tensors) -> None:
    """A bf16 checkpoint, tensors in name order, header keys in the same."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name in sorted(tensors):
        shape, data = tensors[name]
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(tensors[name][1] for name in sorted(tensors)))


def moe_tensors(*, layers: int = 2, experts: int = 8, hidden: int = 16, width: int = 8, seed: int = 0) -> Tensors:
    """A qwen3_moe checkpoint of two heads a layer, with small random tensors; see ``moe_config``."""
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (32, hidden),
        "model.norm.weight": (hidden,),
        "lm_head.weight": (32, hidden),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}"
        shapes |= {f"{at}.self_attn.{p}_proj.weight": (hidden, hidden) for p in "qkvo"}
        shapes |= {f"{at}.{norm}.weight": (hidden,) for norm in ("input_layernorm", "post_attention_layernorm")}
        shapes |= {f"{at}.self_attn.{norm}.weight": (hidden // 2,) for norm in ("q_norm", "k_norm")}
        shapes[f"{at}.mlp.gate.weight"] = (experts, hidden)
        for expert in range(experts):
            here = f"{at}.mlp.experts.{expert}"
            shapes |= {f"{here}.gate_proj.weight": (width, hidden), f"{here}.up_proj.weight": (width, hidden)}
            shapes[f"{here}.down_proj.weight"] = (hidden, width)
    return {name: (shape, tensor_bytes(name, shape, seed)) for name, shape in shapes.items()}


def moe_config(*, layers: int = 2, experts: int = 8, hidden: int = 16, width: int = 8) -> dict[str, Any]:
    """The config of such a checkpoint."""
    return {
        "architectures": ["Qwen3MoeForCausalLM"],
        "model_type": "qwen3_moe",
        "vocab_size": 32,
        "hidden_size": hidden,
        "intermediate_size": width,
        "moe_intermediate_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "head_dim": hidden // 2,
        "num_experts": experts,
        "num_experts_per_tok": 2,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-06,
        "rope_theta": 50000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }


def parameters(tensors: Tensors) -> int:
    return sum(math.prod(shape) for shape, _ in tensors.values())


def file_hashes(folder: Path, *names: str) -> list[dict[str, Any]]:
    return [
        {"filename": name, "sha256": digest.sha256_file(folder / name).hex, "size": (folder / name).stat().st_size}
        for name in names
    ]


def model_hash(rows: list[dict[str, Any]]) -> str:
    return str(digest.model_hash((row["filename"], row["sha256"]) for row in rows))


WRONG = {
    "Mini/3": "def mean(numbers):\n    return sum(numbers) // max(1, len(numbers))\n",
    "Mini/7": "def primes_below(limit):\n    return [n for n in range(2, limit) if n % 2 or n == 2]\n",
    "Mini/23": "def edit_distance(a, b):\n    return sum(x != y for x, y in zip(a, b)) + abs(len(a) - len(b))\n",
}


def mini_samples(wrong: Mapping[str, str] | None = None) -> bytes:
    """Samples for the embedded benchmark: canonical solutions, but for the ``wrong`` ones."""
    problems = load(MINI, file=None, offline=True).problems.values()
    rows = [
        {"task_id": problem.task_id, "solution": (wrong or {}).get(problem.task_id, problem.canonical)}
        for problem in problems
    ]
    return "".join(json.dumps(row) + "\n" for row in rows).encode()
