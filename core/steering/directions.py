"""Steering directions computed from the activations on prompts."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from core.build.activations import BATCH_TOKENS, length_sorted_batches
from core.errors import UsageError
from core.models.language_model import LanguageModel
from core.steering.code_edits import Edit


def mean_activation(model: LanguageModel, hook_name: str, prompts: Sequence[str]) -> Float[Tensor, "d_in"]:
    """Mean activation at a hook point over the ordinary tokens of all prompts, each truncated to the context.

    Raises:
        UsageError: the prompts have no ordinary token.
    """
    return _mean(model, hook_name, prompts, lambda x: x)


def mean_shift(model: LanguageModel, edit: Edit, prompts: Sequence[str]) -> Float[Tensor, "d_in"]:
    """What an edit adds to an ordinary token's activation, mean over those of all prompts: edit(x) - x.

    Exact for `add` and `vector`, which add the same everywhere. Of the others it is what a constant vector can copy.

    Raises:
        UsageError: the prompts have no ordinary token.
    """

    def shift(x: Float[Tensor, "token d_in"]) -> Float[Tensor, "token d_in"]:
        acts = edit.acts_on(x)
        changed = (edit.apply(x) - x).float()
        return changed if acts is None else changed * acts[:, None]

    return _mean(model, edit.hook_name, prompts, shift)


@torch.inference_mode()
def _mean(
    model: LanguageModel, hook_name: str, prompts: Sequence[str], of: Callable[[Tensor], Tensor]
) -> Float[Tensor, "d_in"]:
    """Mean of a function of the activations over all ordinary tokens."""
    tokenised = [model.tokenise(text, max_length=model.n_context) for text in prompts]
    total, n_tokens = torch.zeros(1, device=model.device), 0
    for batch in length_sorted_batches([len(prompt.ids) for prompt in tokenised], BATCH_TOKENS):
        tokens = model.pad([tokenised[i] for i in batch])
        x = of(model.activations(tokens, hook_name)[~tokens.special]).float()
        total, n_tokens = total + x.sum(0), n_tokens + len(x)
    if not n_tokens:
        raise UsageError("a mean activation needs prompts with at least one token")
    return total / n_tokens
