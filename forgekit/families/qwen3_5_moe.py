"""Qwen3.5-MoE: fused experts and one shared expert; every fourth layer attends fully; a vision tower."""

from __future__ import annotations

from math import inf

from forgekit.families import (
    AlwaysOn,
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
    name="qwen3_5_moe",
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
        FusedExperts(
            layout="mlp-experts-fused",
            stacked=(
                "model.language_model.layers.{layer}.mlp.experts.gate_up_proj",  # [experts, 2 * ffn, hidden]
                "model.language_model.layers.{layer}.mlp.experts.down_proj",  # [experts, hidden, ffn]
            ),
            router="model.language_model.layers.{layer}.mlp.gate.weight",  # [experts, hidden]
            router_module="mlp.gate",
            count_keys=("num_experts", "num_local_experts"),
            config=("text_config",),
        ),
        AlwaysOn(
            tensors=(
                "model.language_model.layers.{layer}.mlp.shared_expert.gate_proj.weight",  # [shared ffn, hidden]
                "model.language_model.layers.{layer}.mlp.shared_expert.up_proj.weight",  # [shared ffn, hidden]
                "model.language_model.layers.{layer}.mlp.shared_expert.down_proj.weight",  # [hidden, shared ffn]
                "model.language_model.layers.{layer}.mlp.shared_expert_gate.weight",  # [1, hidden]
            ),
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
    source="Qwen/Qwen3.5-35B-A3B: config.json, safetensors index; transformers 5.23 modeling_qwen3_5_moe",
    without={FeedForward: "its feed-forward blocks are experts"},
)
