"""Qwen3-MoE: every expert has its own three tensors; no shared expert."""

from __future__ import annotations

from math import inf

from forgekit.families import (
    AttentionHeads,
    Family,
    FeedForward,
    LoraTargets,
    RotaryPositions,
    TrainingDefaults,
    UnfusedExperts,
)

FAMILY = Family(
    name="qwen3_moe",
    facts=(
        AttentionHeads(
            query="model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
        ),
        UnfusedExperts(
            layout="mlp-experts-unfused",
            gate="model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",  # [ffn, hidden]
            up="model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",  # [ffn, hidden]
            down="model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",  # [hidden, ffn]
            router="model.layers.{layer}.mlp.gate.weight",  # [experts, hidden]
            router_module="mlp.gate",
            count_keys=("num_experts", "num_local_experts"),
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj")),
        RotaryPositions(),
        TrainingDefaults(by_size=((inf, 200, "5e-5"),)),
    ),
    source="Qwen/Qwen3-30B-A3B: config.json, safetensors index; transformers 5.23 writes num_local_experts",
    without={FeedForward: "its feed-forward blocks are experts"},
)
