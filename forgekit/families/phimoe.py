"""Phi-3.5-MoE: Mixtral's names on disk; the router is a sparse mixer of its own and attention has biases."""

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
    name="phimoe",
    facts=(
        AttentionHeads(
            query="model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            square_in=("llama_cpp", "mlx"),  # they read hidden_size / num_attention_heads
            biased=True,
        ),
        UnfusedExperts(
            layout="block_sparse_moe-unfused",
            gate="model.layers.{layer}.block_sparse_moe.experts.{expert}.w1.weight",  # [ffn, hidden]
            up="model.layers.{layer}.block_sparse_moe.experts.{expert}.w3.weight",  # [ffn, hidden]
            down="model.layers.{layer}.block_sparse_moe.experts.{expert}.w2.weight",  # [hidden, ffn]
            router="model.layers.{layer}.block_sparse_moe.gate.weight",  # [experts, hidden]
            router_module="mlp.router",
            count_keys=("num_local_experts",),
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj")),
        RotaryPositions(methods=("ntk",)),  # transformers 5.23 validates any scaling as longrope
        TrainingDefaults(by_size=((inf, 200, "5e-5"),)),
    ),
    source="microsoft/Phi-3.5-MoE-instruct: config.json, safetensors index; transformers 5.23 modeling_phimoe",
    without={FeedForward: "its feed-forward blocks are experts"},
)
