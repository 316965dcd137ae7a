"""The same on CUDA, on forge nodes (``-m gpu``): every mini forged again, and a mixture of several gigabytes."""

from __future__ import annotations

import json
import math

import pytest

from forgekit import alloy, tiny
from forgekit.checkpoint.opening import open_folder
from forgekit.checkpoint.writing import Made, Piece, cut_anew, write_shards, write_text
from forgekit.families import FAMILIES, Experts
from forgekit.forge.reforge import again
from forgekit.sources.catalog import Catalog
from tests.support.forged import RECIPES
from tests.support.models import a_recipe, forge_it
from tests.support.running import EMBEDDED


def no_gpu() -> str:
    """Why there is no GPU to run on; empty where there is one."""
    try:
        import torch
    except ImportError:
        return "torch is not installed"
    return "" if torch.cuda.is_available() else "there is no CUDA device here"


pytestmark = [
    pytest.mark.tier2,
    pytest.mark.gpu,
    pytest.mark.skipif(bool(no_gpu()), reason=f"unchecked: {no_gpu()}"),
    pytest.mark.xdist_group("gpu"),
]


@pytest.mark.parametrize("name", RECIPES)
def test_a_mini_forged_on_the_gpu_is_the_published_one_or_within_its_class(name, tmp_path):
    from forgekit.forge.executor import Settings

    entry = Catalog(EMBEDDED).entry(f"minis/{name}")

    found, _ = again(
        entry.alloy(), entry, beside=entry.root, folder=tmp_path, settings=Settings(offline=True, device="cuda")
    )

    stages = {row["type"] for row in alloy.read_file(entry.root / f"{name}.alloy.json").tree["stages"]}
    exact = not stages & {"train", "lora", "compensation-lora", "expert-activation-profile", "prune", "ffn-prune"}
    assert found.grade == "bitwise" if exact else found.holds is not False, found


def test_a_mixture_of_several_gigabytes_is_profiled_and_cut(tmp_path):
    """Eight layers of 64 experts: 4.2 GB in bfloat16."""
    layers, experts, hidden, ffn = 8, 64, 2048, 640
    fact = FAMILIES["qwen3_moe"].fact(Experts)
    shapes = {
        "model.embed_tokens.weight": (512, hidden),
        "lm_head.weight": (512, hidden),
        "model.norm.weight": (hidden,),
    }
    for layer in range(layers):
        at = f"model.layers.{layer}."
        shapes |= {at + norm: (hidden,) for norm in ("input_layernorm.weight", "post_attention_layernorm.weight")}
        shapes |= {f"{at}self_attn.{part}.weight": (rows, hidden) for part, rows in (("q_proj", 2048), ("k_proj", 512))}
        shapes |= {f"{at}self_attn.v_proj.weight": (512, hidden), f"{at}self_attn.o_proj.weight": (hidden, 2048)}
        shapes |= {f"{at}self_attn.{norm}.weight": (128,) for norm in ("q_norm", "k_norm")}
        shapes[fact.router.format(layer=layer)] = (experts, hidden)
        for expert in range(experts):
            for template, shape in ((fact.gate, (ffn, hidden)), (fact.up, (ffn, hidden)), (fact.down, (hidden, ffn))):
                shapes[template.format(layer=layer, expert=expert)] = shape
    base = tmp_path / "base"
    base.mkdir()
    pieces = [
        Piece(n, "BF16", s, (Made(lambda n=n, s=s: tiny.values(n, s), 2 * math.prod(s)),)) for n, s in shapes.items()
    ]
    write_shards(base, cut_anew(pieces, 1 << 30), durable=False)
    config = tiny.config(FAMILIES["qwen3_moe"]) | {
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": experts,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": ffn,
    }
    write_text(base / "config.json", json.dumps(config, indent=2))
    for name, text in tiny.tokenizer().items():
        write_text(base / name, text)
    stages = [
        {"type": "expert-activation-profile", "calibrationCorpus": "words", "metric": "reap"},
        {"type": "expert-prune", "metric": "reap", "keepExpertsPerLayer": 48},
    ]

    made = forge_it(a_recipe("qwen3_moe", stages, tmp_path / "recipe"), tmp_path / "out", base=base, device="cuda")

    assert open_folder(base).total > 4_000_000_000
    assert made.stages[1]["proof"]["bytes"]["verdict"] == "confirmed"
    assert made.stages[0]["loadStrategy"]["kind"] == "full"
