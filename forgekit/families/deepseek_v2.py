"""DeepSeek-V2: routed experts beside shared ones, dense first layers, latent attention."""

from __future__ import annotations

from math import inf

from forgekit.families import (
    AlwaysOn,
    AttentionHeads,
    Family,
    FeedForward,
    LoraTargets,
    RotaryPositions,
    TrainingDefaults,
    UnfusedExperts,
)

FAMILY = Family(
    name="deepseek_v2",
    facts=(
        UnfusedExperts(
            layout="deepseek-routed-shared",
            gate="model.layers.{layer}.mlp.experts.{expert}.gate_proj.weight",  # [ffn, hidden]
            up="model.layers.{layer}.mlp.experts.{expert}.up_proj.weight",  # [ffn, hidden]
            down="model.layers.{layer}.mlp.experts.{expert}.down_proj.weight",  # [hidden, ffn]
            router="model.layers.{layer}.mlp.gate.weight",  # [experts, hidden]
            router_module="mlp.gate",
            count_keys=("n_routed_experts",),
            group_key="n_group",
            top_groups_key="topk_group",
        ),
        AlwaysOn(
            tensors=(
                "model.layers.{layer}.mlp.shared_experts.gate_proj.weight",  # [shared * ffn, hidden]
                "model.layers.{layer}.mlp.shared_experts.up_proj.weight",  # [shared * ffn, hidden]
                "model.layers.{layer}.mlp.shared_experts.down_proj.weight",  # [hidden, shared * ffn]
            ),
            dense_layers_key="first_k_dense_replace",
        ),
        LoraTargets(modules=("q_proj", "q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj")),
        RotaryPositions(),
        TrainingDefaults(by_size=((inf, 200, "5e-5"),)),
    ),
    source="deepseek-ai/DeepSeek-V2-Lite: config.json, safetensors index; transformers 5.23 modeling_deepseek_v2",
    without={
        AttentionHeads: "latent attention shares one compressed key-value state between all heads",
        FeedForward: "its feed-forward blocks are experts",
    },
)
