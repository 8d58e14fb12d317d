"""Steering directions computed from the activations on prompts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from core.build.activations import BATCH_TOKENS, length_sorted_batches
from core.errors import UsageError
from core.models.language_model import LanguageModel


@torch.inference_mode()
def mean_activation(model: LanguageModel, hook_name: str, prompts: Sequence[str]) -> Float[Tensor, "d_in"]:
    """Mean activation at a hook point over the ordinary tokens of all prompts, each truncated to the context.

    Raises:
        UsageError: the prompts have no ordinary token.
    """
    tokenised = [model.tokenise(text, max_length=model.n_context) for text in prompts]
    total, n_tokens = torch.zeros(1, device=model.device), 0
    for batch in length_sorted_batches([len(prompt.ids) for prompt in tokenised], BATCH_TOKENS):
        tokens = model.pad([tokenised[i] for i in batch])
        x = model.activations(tokens, hook_name)[~tokens.special].float()
        total, n_tokens = total + x.sum(0), n_tokens + len(x)
    if not n_tokens:
        raise UsageError("a mean activation needs prompts with at least one token")
    return total / n_tokens
