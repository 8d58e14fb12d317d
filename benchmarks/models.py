"""Random models and SAEs of real shapes: speed does not depend on what the weights say."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from core.catalog import Setup
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder

TOKENIZER = Path("data/models/demo-base")  # any will do
PROMPT = "The surgeon looked at the heart of the patient and then said that"
HOOK_LAYER, K = 6, 32


def gpt2_small(*, quick: bool) -> Any:
    """GPT-2 small's shape, or a few per cent of it."""
    config = GPT2Config(bos_token_id=0, eos_token_id=0)
    if quick:
        config.n_embd, config.n_layer, config.n_head, config.vocab_size = 64, 8, 4, 8_192
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).eval()


def as_language_model(model: Any) -> LanguageModel:
    """The model as core steers it. It never ends a text, so that every run is as long as the others."""
    tokenizer = AutoTokenizer.from_pretrained(TOKENIZER, local_files_only=True)
    model.generation_config.eos_token_id = -1
    return LanguageModel("random gpt2", model, tokenizer)


def topk_sae(model: Any, *, quick: bool) -> SparseAutoencoder:
    """A random TopK SAE after block 6; 32,768 neurons."""
    d_in, d_sae = model.config.n_embd, 512 if quick else 32_768
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=-1)
    return SparseAutoencoder(
        name="random topk",
        architecture="topk",
        hook_name=f"blocks.{HOOK_LAYER}.hook_resid_post",
        W_enc=W_dec.T.contiguous(),
        W_dec=W_dec,
        b_enc=torch.zeros(d_sae),
        b_dec=torch.zeros(d_in),
        k=K,
    )


def demo_setup(name: str = "demo-base") -> Setup:
    """An embedded setup."""
    from core.catalog import find_setup

    return find_setup(name)
