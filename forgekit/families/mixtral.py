"""Mixtral: experts named w1 (gate), w3 (up) and w2 (down) under block_sparse_moe."""

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
    name="mixtral",
    facts=(
        AttentionHeads(
            query="model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            square_in=("llama_cpp", "mlx"),  # they read hidden_size / num_attention_heads
        ),
        UnfusedExperts(
            layout="block_sparse_moe-unfused",
            gate="model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",  # [ffn, hidden]
            up="model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",  # [ffn, hidden]
            down="model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",  # [hidden, ffn]
            router="model.layers.{layer}.block_sparse_moe.gate.weight",  # [experts, hidden]
            router_module="mlp.gate",  # transformers 5 renames block_sparse_moe in memory
            count_keys=("num_local_experts",),
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj")),
        RotaryPositions(states_head_dim=True),  # transformers 5.23 multiplies a head_dim that its config leaves None
        TrainingDefaults(by_size=((inf, 200, "5e-5"),)),
    ),
    source="mistralai/Mixtral-8x7B-v0.1: config.json, safetensors index",
    without={FeedForward: "its feed-forward blocks are experts"},
)
