"""Random models and SAEs of real shapes: speed does not depend on what the weights say."""

from typing import Any

import torch
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel

from core.catalog import DEFAULT_SETUP, Setup, embedded_gguf, find_setup
from core.models.gguf import dequantised
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder

PROMPT = "The surgeon looked at the heart of the patient and then said that"
HOOK_LAYER, K = 6, 32


def gpt2_small(*, quick: bool) -> Any:
    """GPT-2 small's shape, or a few per cent of it."""
    config = GPT2Config(bos_token_id=0, eos_token_id=0)  # its vocabulary is a little larger than the tokenizer's below
    if quick:
        config.n_embd, config.n_layer, config.n_head = 64, 8, 4
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).eval()


def as_language_model(model: Any) -> LanguageModel:
    """The model as core steers it. It never ends a text, so that every run is as long as the others."""
    tokenizer = AutoTokenizer.from_pretrained(embedded_model_folder(), local_files_only=True)  # any will do
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


def embedded_setup() -> Setup:
    """The setup that the app opens with."""
    return find_setup(DEFAULT_SETUP)


def embedded_model_folder() -> str:
    """The embedded model as an ordinary folder, which other libraries load, too; dequantised the first time."""
    return str(dequantised(embedded_gguf()))
