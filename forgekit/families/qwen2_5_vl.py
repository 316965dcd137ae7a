"""Qwen2.5-VL: the Qwen2.5 decoder beside a vision tower; on disk the decoder has no language_model prefix."""

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
    name="qwen2_5_vl",
    facts=(
        AttentionHeads(
            query="model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            uncuttable="transformers refuses a hidden size that the number of heads does not divide",
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
        Towers(
            modalities=("vision",),
            config_keys=("vision_config",),
            token_keys=("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id"),
            untouchable=("visual.",),
        ),
        TrainingDefaults(
            by_size=((5, 300, "1e-4"), (15, 200, "5e-5"), (35, 150, "2e-5"), (inf, 100, "2e-5")),
        ),
    ),
    source="Qwen/Qwen2.5-VL-7B-Instruct: config.json, safetensors index; transformers 5.23 modeling_qwen2_5_vl",
    without={Experts: "the model is dense: it has no experts"},
)
