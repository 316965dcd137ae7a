"""Qwen2.5-Omni: a Qwen2.5 thinker with vision and audio towers, a talker and a vocoder."""

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
    name="qwen2_5_omni",
    facts=(
        AttentionHeads(
            query="thinker.model.layers.{layer}.self_attn.q_proj.weight",  # [heads * head_dim, hidden]
            key="thinker.model.layers.{layer}.self_attn.k_proj.weight",  # [kv_heads * head_dim, hidden]
            value="thinker.model.layers.{layer}.self_attn.v_proj.weight",  # [kv_heads * head_dim, hidden]
            output="thinker.model.layers.{layer}.self_attn.o_proj.weight",  # [hidden, heads * head_dim]
            square_in=("llama_cpp", "mlx", "vllm"),  # they read hidden_size / num_attention_heads
            biased=True,
            config=("thinker_config", "text_config"),
        ),
        FeedForward(
            gate="thinker.model.layers.{layer}.mlp.gate_proj.weight",  # [ffn, hidden]
            up="thinker.model.layers.{layer}.mlp.up_proj.weight",  # [ffn, hidden]
            down="thinker.model.layers.{layer}.mlp.down_proj.weight",  # [hidden, ffn]
            config=("thinker_config", "text_config"),
        ),
        LoraTargets(modules=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")),
        RotaryPositions(config=("thinker_config", "text_config")),
        Towers(
            modalities=("vision", "audio", "multimodal"),
            config_keys=(
                "thinker_config.vision_config",
                "thinker_config.audio_config",
                "talker_config",
                "token2wav_config",
            ),
            token_keys=(
                "image_token_index",
                "video_token_index",
                "audio_token_index",
                "vision_start_token_id",
                "audio_start_token_id",
            ),
            untouchable=("thinker.visual.", "thinker.audio_tower.", "talker.", "token2wav."),
        ),
        TrainingDefaults(by_size=((inf, 200, "5e-5"),)),
    ),
    source="Qwen/Qwen2.5-Omni-7B: config.json, safetensors index; transformers 5.23 modeling_qwen2_5_omni",
    text_module="thinker",
    without={Experts: "the model is dense: it has no experts"},
)
