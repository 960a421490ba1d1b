"""One tiny model of each architecture, with the traits that make exports go wrong switched on and within reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARY = 384
CONTEXT = 64
WINDOW = 8
"""Sliding window of mistral and gemma2."""
LONGROPE_SWITCH = 16
"""Longest sequence for which phi3 takes the short rotary factors."""

_COMMON: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.15,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
_GATED: dict[str, Any] = {**_COMMON, "intermediate_size": 56, "num_key_value_heads": 2}


def _gpt2():
    from transformers import GPT2Config

    return GPT2Config(**_COMMON)


def _gpt_neox():
    from transformers import GPTNeoXConfig

    return GPTNeoXConfig(**_COMMON, intermediate_size=56, rotary_pct=0.5, tie_word_embeddings=False)


def _opt():
    from transformers import OPTConfig

    return OPTConfig(**_COMMON, ffn_dim=56, word_embed_proj_dim=32, init_std=0.15)


def _llama():
    from transformers import LlamaConfig

    return LlamaConfig(**_GATED, tie_word_embeddings=True)


def _mistral():
    from transformers import MistralConfig

    return MistralConfig(**_GATED, sliding_window=WINDOW)


def _qwen2():
    from transformers import Qwen2Config

    return Qwen2Config(**_GATED, tie_word_embeddings=True)


def _qwen3():
    from transformers import Qwen3Config

    return Qwen3Config(**_GATED, head_dim=16, tie_word_embeddings=True)  # like the real ones: not hidden_size / heads


def _phi3():
    from transformers import Phi3Config

    factors = {"short_factor": [1.0, 1.1, 1.2, 1.3], "long_factor": [1.5, 2.0, 3.0, 4.0]}
    return Phi3Config(
        **_GATED, original_max_position_embeddings=LONGROPE_SWITCH, rope_scaling={"type": "longrope", **factors}
    )


def _gemma2():
    from transformers import Gemma2Config

    return Gemma2Config(
        **_GATED,
        head_dim=8,
        query_pre_attn_scalar=16,
        sliding_window=WINDOW,
        attn_logit_softcapping=2.0,
        final_logit_softcapping=4.0,
    )


TINY: dict[str, Callable[[], Any]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "phi3": _phi3,
    "gemma2": _gemma2,
}


def tiny_model(name: str, *, fresh: bool = False):
    """A seeded model. Norms and biases are random too, unless ``fresh``: then they are all ones and all zeros."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(TINY[name]()).eval()
        if not fresh:
            with torch.no_grad():
                for parameter in model.parameters():
                    if parameter.ndim == 1:
                        parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return model


def tiny_tokenizer():
    """A byte-level BPE tokenizer of at most :data:`VOCABULARY` tokens; token 0 begins, ends and pads."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the quick brown fox jumps over the lazy dog and then the other dog"] * 2, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, pad_token=end)


def save_tiny(name: str, folder: Path, *, fresh: bool = False) -> Path:
    """Save the model and its tokenizer as Hugging Face does; returns the folder."""
    tiny_model(name, fresh=fresh).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
