"""Qwen3-VL-MoE: fused experts, stored transposed against every other family, beside a vision tower."""

from __future__ import annotations

from math import inf

from forgekit.families import (
    AttentionHeads,
    Family,
    FeedForward,
    FusedExperts,
    LoraTargets,
    RotaryPositions,
    Towers,
    TrainingDefaults,
)

FAMILY = Family(
    name="qwen3_vl_moe",
    facts=(
        AttentionHeads(
            query="model.language_model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.language_model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.language_model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.language_model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            config=("text_config",),
        ),
        FusedExperts(
            layout="qwen3-vl-moe-fused",
            stacked=(
                "model.language_model.layers.{layer}.mlp.experts.gate_up_proj",  # [experts, hidden, 2 * ffn]
                "model.language_model.layers.{layer}.mlp.experts.down_proj",  # [experts, ffn, hidden]
            ),
            router="model.language_model.layers.{layer}.mlp.gate.weight",  # [experts, hidden]
            router_module="mlp.gate",
            count_keys=("num_experts", "num_local_experts"),
            config=("text_config",),
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj")),
        RotaryPositions(config=("text_config",)),
        Towers(
            modalities=("vision",),
            config_keys=("vision_config",),
            token_keys=("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
            untouchable=("model.visual.",),
        ),
        TrainingDefaults(by_size=((inf, 200, "5e-5"),)),
    ),
    source="Qwen/Qwen3-VL-30B-A3B-Instruct: config.json, safetensors index; transformers 5.23 modeling_qwen3_vl_moe",
    without={FeedForward: "its feed-forward blocks are experts"},
)
