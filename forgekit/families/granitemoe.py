"""GraniteMoE: fused experts, router under block_sparse_moe.router.layer."""

from __future__ import annotations

from math import inf

from forgekit.families import (
    AttentionHeads,
    Family,
    FeedForward,
    FusedExperts,
    LoraTargets,
    RotaryPositions,
    TrainingDefaults,
)

FAMILY = Family(
    name="granitemoe",
    facts=(
        AttentionHeads(
            query="model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            square_in=("llama_cpp", "mlx"),  # they read hidden_size / num_attention_heads
        ),
        FusedExperts(
            layout="granite-moe-fused",
            stacked=(
                "model.layers.{layer}.block_sparse_moe.input_linear.weight",  # [experts, 2 * ffn, hidden]
                "model.layers.{layer}.block_sparse_moe.output_linear.weight",  # [experts, hidden, ffn]
            ),
            router="model.layers.{layer}.block_sparse_moe.router.layer.weight",  # [experts, hidden]
            router_module="block_sparse_moe.router",
            count_keys=("num_local_experts",),
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj")),
        RotaryPositions(),
        TrainingDefaults(by_size=((inf, 200, "5e-5"),)),
    ),
    source="ibm-granite/granite-3.0-3b-a800m-base: config.json, safetensors index; transformers 5.23",
    without={FeedForward: "its feed-forward blocks are experts"},
)
