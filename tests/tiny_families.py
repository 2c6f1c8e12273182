"""Sizes and configs of the tiny models, one for every supported family."""

from __future__ import annotations

from typing import Any

HIDDEN_SIZE = 48
VOCABULARY = 128

COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN_SIZE,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
_GATED = {"intermediate_size": 80, "num_key_value_heads": 2, "head_dim": 12}
# Alternating attention with a window shorter than the test sequences.
_SLIDING = {"sliding_window": 6}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GATED),
    "mistral": ("MistralConfig", _GATED | _SLIDING),
    "qwen2": (
        "Qwen2Config",
        _GATED | _SLIDING | {"use_sliding_window": True, "max_window_layers": 2},
    ),
    "qwen3": ("Qwen3Config", _GATED),
    "gemma2": ("Gemma2Config", _GATED | _SLIDING),
    "gemma3": ("Gemma3TextConfig", _GATED | _SLIDING | {"sliding_window_pattern": 2}),
    "opt": ("OPTConfig", {"ffn_dim": 80, "word_embed_proj_dim": HIDDEN_SIZE}),
    "gpt_neox": ("GPTNeoXConfig", {"intermediate_size": 80, "hidden_act": "gelu"}),
    "phi3": ("Phi3Config", {"intermediate_size": 80, "num_key_value_heads": 2}),
    "olmo2": ("Olmo2Config", {"intermediate_size": 80, "num_key_value_heads": 2}),
}

# Families that no line of the code names; what matters is that they are ordinary decoders.
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "bloom": ("BloomConfig", {}),
    "falcon": ("FalconConfig", {"new_decoder_architecture": False}),
    "gemma": ("GemmaConfig", {"intermediate_size": 80, "head_dim": 12, "num_key_value_heads": 2}),
    "gpt2": ("GPT2Config", {}),
    "mixtral": (
        "MixtralConfig",
        {"intermediate_size": 40, "num_local_experts": 2, "num_key_value_heads": 2},
    ),
    "olmo3": ("Olmo3Config", {"intermediate_size": 80, "num_key_value_heads": 2}),
    "phi": ("PhiConfig", {"intermediate_size": 80}),
    "smollm3": ("SmolLM3Config", {"intermediate_size": 80, "num_key_value_heads": 2}),
    "stablelm": (
        "StableLmConfig",
        {
            "intermediate_size": 80,
            "num_key_value_heads": 2,
            "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5},
        },
    ),
    "starcoder2": ("Starcoder2Config", {"intermediate_size": 80, "num_key_value_heads": 2}),
}

_MIXTURE = {
    "intermediate_size": 80,
    "moe_intermediate_size": 24,
    "num_key_value_heads": 2,
    "head_dim": 12,
}
# Mixtures whose configs say by number which layers, here the first, have no experts.
BY_NUMBER: dict[str, tuple[str, dict[str, Any]]] = {
    "afmoe": (
        "AfmoeConfig",
        _MIXTURE | {"num_experts": 4, "num_experts_per_tok": 2, "num_dense_layers": 1},
    ),
    "ernie4_5_moe": (
        "Ernie4_5_MoeConfig",
        _MIXTURE | {"moe_num_experts": 4, "moe_k": 2, "moe_layer_start_index": 1},
    ),
    "glm4_moe": (
        "Glm4MoeConfig",
        _MIXTURE
        | {
            "n_routed_experts": 4,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
        },
    ),
}

# Layers of one kind have wider heads than those of the other.
GEMMA4 = (
    "Gemma4TextConfig",
    {
        "intermediate_size": 80,
        "num_key_value_heads": 2,
        "head_dim": 12,
        "global_head_dim": 24,
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention"] * 3,
        "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0,
    },
)
