"""OLMoE: Qwen3-MoE's expert names, full multi-head attention with norms over the whole projection."""

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
    name="olmoe",
    facts=(
        AttentionHeads(
            query="model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            jointly_normed=True,
            uncuttable="queries and keys are normalised over all heads at once",
        ),
        UnfusedExperts(
            layout="mlp-experts-unfused",
            gate="model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",  # [ffn, hidden]
            up="model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",  # [ffn, hidden]
            down="model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",  # [hidden, ffn]
            router="model.layers.{layer}.mlp.gate.weight",  # [experts, hidden]
            router_module="mlp.gate",
            count_keys=("num_experts",),
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj")),
        RotaryPositions(),
        TrainingDefaults(by_size=((inf, 200, "5e-5"),)),
    ),
    source="allenai/OLMoE-1B-7B-0924: config.json, safetensors index",
    without={FeedForward: "its feed-forward blocks are experts"},
)
