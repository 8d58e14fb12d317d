"""Figures of what an edit did, token by token, and of the text that came out (Topic Alignment paper, 4.2 and 4.3)."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.edits import CodeOutcome
from core.embeddings import EmbeddingModel, distances_to_topic
from core.language_model import LanguageModel, TokenisedPrompt
from core.sparse_autoencoder import SparseCode

# ---- per token ----


def contamination(a: SparseCode, score: Float[Tensor, "d_sae"]) -> Float[Tensor, "token"]:
    """sum_i a'_ti (1 - score_i): activation on neurons far from the topic (the paper's product, summed).

    By its size where a neuron can be negative (AbsTopK).
    """
    return (a.values.abs() * (1 - score[a.neurons])).sum(-1)


def contamination_share(a: SparseCode, score: Float[Tensor, "d_sae"]) -> Float[Tensor, "token"]:
    """Contamination over sum_i a'_ti, 0 to 1; 0 on a token where nothing fires.

    It ranks clamp lowest by construction: clamp puts huge values on neurons of score near 1.
    """
    total = a.values.abs().sum(-1)
    return torch.where(total != 0, contamination(a, score) / torch.where(total != 0, total, 1.0), 0.0)


def reconstruction_delta(outcome: CodeOutcome) -> Float[Tensor, "token"]:
    """mse(x', x) - mse(x_sae, x), mean over d_in: below 0 is closer to the original than the SAE."""
    edited = (outcome.edited - outcome.x).pow(2).mean(-1)
    return edited - (outcome.reconstructed - outcome.x).pow(2).mean(-1)


def neurons_changed(outcome: CodeOutcome, d_sae: int) -> Tensor:
    """Number of neurons i with a'_ti != a_ti."""
    return (outcome.a.dense(d_sae) != outcome.edited_a.dense(d_sae)).sum(-1)


# ---- text ----


def perplexity(
    model: LanguageModel, prompts: Sequence[TokenisedPrompt], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """exp of the mean negative log-likelihood of each continuation's tokens, under the model without edits.

    A continuation without tokens has no perplexity: NaN.
    """
    joined = [
        TokenisedPrompt([*prompt.ids, *ids], [*prompt.special, *[False] * len(ids)])
        for prompt, ids in zip(prompts, continuations, strict=True)
    ]
    logits = model.forward(model.pad(joined)).float()
    values = []
    for row, (prompt, ids) in enumerate(zip(prompts, continuations, strict=True)):
        if not len(ids):
            values.append(float("nan"))
            continue
        first = len(prompt.ids)
        predicted = logits[row, first - 1 : first - 1 + len(ids)].log_softmax(-1)
        target = torch.tensor(list(ids), device=predicted.device)
        values.append(float(predicted.gather(-1, target[:, None]).mean().neg().exp()))
    return values


def text_distances(
    embedding_model: EmbeddingModel, texts: Sequence[str], topic: Float[np.ndarray, "align d_embedding"]
) -> Float[np.ndarray, "text"]:
    """Distance of each text from the nearest prompt of the topic, 0 to 2."""
    return distances_to_topic(embedding_model.embed(texts), topic)


def topic_percentile(
    distance: Float[np.ndarray, "text"], reference: Float[np.ndarray, "prompt"]
) -> Float[np.ndarray, "text"]:
    """Percentage of reference prompts that are closer to the topic than the text: 0 = as close as the closest."""
    return 100.0 * np.searchsorted(np.sort(reference), distance) / len(reference)


def distinct_n(tokens: Sequence[int], n: int) -> float:
    """Different n-grams over all n-grams (Li et al. 2016); NaN for a text shorter than n tokens."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repetition(tokens: Sequence[int]) -> float:
    """Share of tokens that already stood among the 16 tokens before them; NaN for an empty text."""
    repeated = [token in tokens[max(0, i - 16) : i] for i, token in enumerate(tokens)]
    return sum(repeated) / len(repeated) if repeated else float("nan")


def language_switch(text: str, prompt: str) -> float:
    """Share of the text's letters in a script that the prompt does not use, 0 to 1; NaN where either has no letter.

    A change between languages of one script, English to French, is not seen.
    """
    usual, scripts = set(_scripts(prompt)), _scripts(text)
    return sum(script not in usual for script in scripts) / len(scripts) if usual and scripts else float("nan")


def _scripts(text: str) -> list[str]:
    """The script of every letter: the first word of its Unicode name, as LATIN, CYRILLIC or HANGUL."""
    letters = [c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lo")]
    scripts = [unicodedata.name(c, "UNKNOWN").split()[0] for c in letters]
    return ["CJK" if script in ("HIRAGANA", "KATAKANA") else script for script in scripts]  # one writing system
