"""Qwen2 and Qwen2.5: dense, grouped-query attention with biases; head_dim is hidden size over heads."""

from __future__ import annotations

from math import inf

from forgekit.families import (
    AttentionHeads,
    Experts,
    Family,
    FeedForward,
    LoraTargets,
    RotaryPositions,
    TrainingDefaults,
)

FAMILY = Family(
    name="qwen2",
    facts=(
        AttentionHeads(
            query="model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            square_in=("llama_cpp", "mlx", "vllm"),  # they read hidden_size / num_attention_heads
            biased=True,
        ),
        FeedForward(
            gate="model.layers.{layer}.mlp.gate_proj.weight",  # [ffn, hidden]
            up="model.layers.{layer}.mlp.up_proj.weight",  # [ffn, hidden]
            down="model.layers.{layer}.mlp.down_proj.weight",  # [hidden, ffn]
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
        RotaryPositions(),
        TrainingDefaults(
            by_size=((5, 300, "1e-4"), (15, 200, "5e-5"), (35, 150, "2e-5"), (inf, 100, "2e-5")),
        ),
    ),
    source="Qwen/Qwen2.5-7B: config.json, safetensors index; transformers 5.23 modeling_qwen2",
    without={Experts: "the model is dense: it has no experts"},
)
