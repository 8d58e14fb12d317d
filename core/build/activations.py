"""Runs prompts through the model and the SAE, and streams one entry per active (prompt, position, neuron)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder, check_fits
from core.models.tokens import TokenisedPrompt
from core.store.batch import ActivationBatch

BATCH_TOKENS = 4_096  # padded tokens in one forward pass
_ENCODE_TOKENS = 2_048  # tokens encoded at once: bounds the dense [token d_sae] block


def length_sorted_batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Batches of indices, sorted by length, of at most `batch_tokens` tokens with padding, or of one prompt."""
    batch: list[int] = []
    for i in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[i] > batch_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch


def active_neurons(sae: SparseAutoencoder, x: Float32[Tensor, "token d_in"]) -> tuple[Tensor, Tensor, Tensor]:
    """Token, neuron and activation of every non-zero post-activation, [active] each, ordered by token."""
    parts = []
    for start in range(0, len(x) or 1, _ENCODE_TOKENS):  # with no tokens: one empty part
        code = sae.select(sae.pre_activations(x[start : start + _ENCODE_TOKENS]))
        token, slot = code.values.nonzero(as_tuple=True)
        parts.append((token + start, code.neurons[token, slot], code.values[token, slot]))
    token, neuron, activation = (torch.cat(column) for column in zip(*parts, strict=True))
    return token, neuron, activation


@torch.inference_mode()
def _batch(
    model: LanguageModel, sae: SparseAutoencoder, prompts: list[TokenisedPrompt], ids: Sequence[int]
) -> ActivationBatch:
    tokens = model.pad(prompts)
    x = model.activations(tokens, sae.hook_name)
    check_fits(sae, x.shape[-1], model.name)
    ordinary = ~tokens.special
    token, neuron, activation = active_neurons(sae, x[ordinary])
    row, _ = ordinary.nonzero(as_tuple=True)
    position = (ordinary.long().cumsum(-1) - 1)[ordinary]
    n_tokens = ordinary.sum(-1)

    def column(values: Tensor) -> np.ndarray:
        return values.cpu().numpy().astype(np.int32)

    strings = model.token_strings(tokens.ids[ordinary].tolist())
    ends = np.cumsum(column(n_tokens))
    return ActivationBatch(
        prompts=np.asarray(ids, dtype=np.int32),
        n_tokens=column(n_tokens),
        tokens=[strings[end - n : end] for end, n in zip(ends, column(n_tokens), strict=True)],
        prompt=np.asarray(ids, dtype=np.int32)[column(row[token])],
        position=column(position[token]),
        neuron=column(neuron),
        activation=activation.float().cpu().numpy(),
    )


def token_activations(
    model: LanguageModel,
    sae: SparseAutoencoder,
    prompts: Sequence[str],
    *,
    prompt_ids: Sequence[int] | None = None,
    max_length: int | None = None,
    batch_tokens: int = BATCH_TOKENS,
) -> Iterator[ActivationBatch]:
    """Yields the active neurons on every ordinary (non-special) token of the prompts, batch by batch.

    Batches hold prompts of similar length, and the forward pass stops at the hook point.

    Args:
        prompt_ids: one per prompt; their indices by default.
        max_length: longer prompts are truncated to this many tokens.

    Raises:
        AutoencoderError: the SAE does not fit the model.
    """
    ids = range(len(prompts)) if prompt_ids is None else prompt_ids
    tokenised = [model.tokenise(text, max_length=max_length) for text in prompts]
    for batch in length_sorted_batches([len(prompt.ids) for prompt in tokenised], batch_tokens):
        yield _batch(model, sae, [tokenised[i] for i in batch], [ids[i] for i in batch])
