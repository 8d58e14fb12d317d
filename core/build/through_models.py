"""The models that a build runs its prompts through: language model, SAE and embedding model."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float32

from core.catalog import Setup, gguf_of
from core.progress import Progress
from core.store.batch import ActivationBatch

if TYPE_CHECKING:
    from core.models.embeddings import EmbeddingModel
    from core.models.language_model import LanguageModel
    from core.models.sparse_autoencoder import SparseAutoencoder

LENS_TOKENS = 10  # promoted tokens kept for each neuron, and as many suppressed ones
_LENS_NEURONS = 1_024  # neurons at once: bounds the [neuron vocabulary] block


class Pipeline(Protocol):
    """The models that a build needs; tests and Ray workers can bring others."""

    def load(self) -> None:
        """Loads the language model and the SAE."""

    def activations(self, texts: Sequence[str], ids: Sequence[int]) -> Iterator[ActivationBatch]:
        """Yields the active neurons on some prompts, given their texts and ids."""

    def describe(self) -> dict[str, str]:
        """Facts about the model and the SAE for the store's `meta`."""

    def lens(self) -> tuple[list[list[str]], list[list[str]]]:
        """For each neuron, the tokens that its decoder row promotes and those that it suppresses."""

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "prompt d_embedding"]:
        """Unit-normalised sentence embeddings."""


class ModelPipeline:
    """The setup's own language model, SAE and embedding model, each loaded when first used."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @cached_property
    def _models(self) -> tuple["LanguageModel", "SparseAutoencoder"]:
        from core.models.sparse_autoencoder import load_setup

        return load_setup(self.setup)

    @cached_property
    def _embedding_model(self) -> "EmbeddingModel":
        from core.models.embeddings import load_embedding_model

        return load_embedding_model(self.setup.embedding_model)

    def load(self) -> None:
        _ = self._models

    def activations(self, texts: Sequence[str], ids: Sequence[int]) -> Iterator[ActivationBatch]:
        from core.build.activations import token_activations

        return token_activations(*self._models, texts, prompt_ids=ids, max_length=self.setup.context_size)

    def describe(self) -> dict[str, str]:
        model, sae = self._models
        return {
            "hook_name": sae.hook_name,
            "n_layers": str(model.n_layers),
            "d_in": str(sae.d_in),
            "architecture": sae.architecture,
        }

    def lens(self) -> tuple[list[list[str]], list[list[str]]]:
        return logit_lens(*self._models)

    def embed(self, texts: Sequence[str]) -> Float32[np.ndarray, "prompt d_embedding"]:
        return self._embedding_model.embed(texts)


def prepare_model(setup: Setup, progress: Progress) -> None:
    """Dequantises the setup's model if it is a GGUF file, so that the first page that needs it need not wait."""
    if (file := gguf_of(setup.model)) is not None:
        from core.models.gguf import dequantised

        dequantised(file, progress)


def logit_lens(
    model: "LanguageModel", sae: "SparseAutoencoder", n_tokens: int = LENS_TOKENS
) -> tuple[list[list[str]], list[list[str]]]:
    """Logit lens: the `n_tokens` tokens whose logits each neuron's decoder row raises most, and those it lowers most.

    The lists are empty at a hook point inside attention, because the unembedding reads only the residual stream.
    """
    if "hook_z" in sae.hook_name or sae.d_in != model.d_model:
        return [[] for _ in range(sae.d_sae)], [[] for _ in range(sae.d_sae)]
    promoted: list[list[str]] = []
    suppressed: list[list[str]] = []
    for rows in sae.W_dec.split(_LENS_NEURONS):
        logits = model.unembed(rows)
        for found, sign in ((promoted, 1), (suppressed, -1)):
            top = (sign * logits).topk(min(n_tokens, logits.shape[-1])).indices
            words = iter(model.token_strings(top.flatten().tolist()))
            found += [[next(words) for _ in row] for row in top]
    return promoted, suppressed
