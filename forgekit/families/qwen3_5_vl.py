"""Qwen3.5 with its vision tower, under the architecture string older recipes use."""

from __future__ import annotations

from math import inf

from forgekit.families import (
    AttentionHeads,
    Experts,
    Family,
    FeedForward,
    LoraTargets,
    RotaryPositions,
    Towers,
    TrainingDefaults,
)

FAMILY = Family(
    name="qwen3_5_vl",
    facts=(
        AttentionHeads(
            query="model.language_model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.language_model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.language_model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.language_model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            gated=True,
            hybrid=True,
            config=("text_config",),
        ),
        FeedForward(
            gate="model.language_model.layers.{layer}.mlp.gate_proj.weight",  # [ffn, hidden]
            up="model.language_model.layers.{layer}.mlp.up_proj.weight",  # [ffn, hidden]
            down="model.language_model.layers.{layer}.mlp.down_proj.weight",  # [hidden, ffn]
            config=("text_config",),
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
        RotaryPositions(config=("text_config",)),
        Towers(
            modalities=("vision",),
            config_keys=("vision_config",),
            token_keys=("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
            untouchable=("model.visual.",),
        ),
        TrainingDefaults(
            by_size=((5, 300, "1e-4"), (15, 200, "5e-5"), (35, 150, "2e-5"), (inf, 100, "2e-5")),
        ),
    ),
    source="Qwen/Qwen3.5-4B: config.json (vision_config present); transformers 5.23 modeling_qwen3_5",
    tiny="qwen3_5",
    without={Experts: "the model is dense: it has no experts"},
)
