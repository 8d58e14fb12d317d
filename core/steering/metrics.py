"""Figures of what an edit did, token by token, and of the text that came out (Topic Alignment paper, 4.2 and 4.3)."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from core.models.codes import SparseCode
from core.models.embeddings import EmbeddingModel, distances_to_topic
from core.models.language_model import LanguageModel
from core.models.tokens import TokenisedPrompt
from core.steering.code_edits import CodeOutcome

_LOGITS_AT_ONCE = 2**27  # logits in one forward pass: bounds the [text token vocabulary] block

# ---- per token ----


def contamination(a: SparseCode, score: Float[Tensor, "d_sae"]) -> Float[Tensor, "token"]:
    """Activation on neurons far from the topic, sum_i a'_ti (1 - score_i): the product of section 4.2, summed.

    Negative activations (AbsTopK only) count by their magnitude.
    """
    return (a.values.abs() * (1 - score[a.neurons])).sum(-1)


def contamination_share(a: SparseCode, score: Float[Tensor, "d_sae"]) -> Float[Tensor, "token"]:
    """Contamination divided by sum_i a'_ti, 0 to 1; 0 on a token where no neuron fires.

    It ranks clamp lowest by construction, because clamp puts huge values on neurons with scores near 1.
    """
    total = a.values.abs().sum(-1)
    return torch.where(total != 0, contamination(a, score) / torch.where(total != 0, total, 1.0), 0.0)


def reconstruction_delta(outcome: CodeOutcome) -> Float[Tensor, "token"]:
    """mse(x', x) - mse(x_sae, x), mean over d_in: below 0, the edit is closer to the original x than x_sae is."""
    edited = (outcome.edited - outcome.x).pow(2).mean(-1)
    return edited - (outcome.reconstructed - outcome.x).pow(2).mean(-1)


def neurons_changed(outcome: CodeOutcome, d_sae: int) -> Tensor:
    """Number of neurons i with a'_ti != a_ti on each token, [token]."""
    return (outcome.a.dense(d_sae) != outcome.edited_a.dense(d_sae)).sum(-1)


# ---- text ----


def _continuation_log_probabilities(
    model: LanguageModel,
    prompts: Sequence[TokenisedPrompt],
    continuations: Sequence[Sequence[int]],
) -> Iterator[Float[Tensor, "token vocabulary"]]:
    """For each text, the log-probabilities that the unedited model gives at each token of the continuation."""
    texts = [
        TokenisedPrompt([*prompt.ids, *ids], [*prompt.special, *[False] * len(ids)])
        for prompt, ids in zip(prompts, continuations, strict=True)
    ]
    longest = max((len(text.ids) for text in texts), default=1)
    at_once = max(1, _LOGITS_AT_ONCE // (longest * model.model.config.get_text_config().vocab_size))
    for start in range(0, len(texts), at_once):
        part = slice(start, start + at_once)
        tokens = model.pad(texts[part])
        lengths = torch.tensor([len(prompt.ids) for prompt in prompts[part]], device=model.device)
        logits = model.forward(tokens)
        for row, ids in enumerate(continuations[part]):
            first = int(lengths[row])
            yield logits[row, first - 1 : first - 1 + len(ids)].float().log_softmax(-1)


def perplexity(
    model: LanguageModel, prompts: Sequence[TokenisedPrompt], continuations: Sequence[Sequence[int]]
) -> list[float]:
    """exp of the mean negative log-likelihood of each continuation's tokens, under the unedited model.

    A continuation without tokens has no perplexity: NaN.
    """
    values = []
    predictions = _continuation_log_probabilities(model, prompts, continuations)
    for predicted, ids in zip(predictions, continuations, strict=True):
        target = torch.tensor(list(ids), dtype=torch.long, device=predicted.device)
        values.append(float(predicted.gather(-1, target[:, None]).mean().neg().exp()))  # the mean of nothing is NaN
    return values


def text_distances(
    embedding_model: EmbeddingModel, texts: Sequence[str], topic: Float[np.ndarray, "align d_embedding"]
) -> Float[np.ndarray, "text"]:
    """Distance of each text from the nearest prompt of the topic, 0 to 2."""
    return distances_to_topic(embedding_model.embed(texts), topic)


def topic_percentile(
    distance: Float[np.ndarray, "text"], reference: Float[np.ndarray, "prompt"]
) -> Float[np.ndarray, "text"]:
    """Percentage of reference prompts that are closer to the topic than each text; 0: as close as the closest."""
    return 100.0 * np.searchsorted(np.sort(reference), distance) / len(reference)


def distinct_n(tokens: Sequence[int], n: int) -> float:
    """Number of different n-grams over the number of all n-grams (Li et al. 2016); NaN below n tokens."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def repetition(tokens: Sequence[int]) -> float:
    """Share of tokens that also occur among the 16 tokens before them; NaN for an empty text."""
    repeated = [token in tokens[max(0, i - 16) : i] for i, token in enumerate(tokens)]
    return sum(repeated) / len(repeated) if repeated else float("nan")


def language_switch(text: str, prompt: str) -> float:
    """Share of the text's letters in a script that the prompt does not use, 0 to 1; NaN if either has no letters.

    A switch between languages of one script, such as English to French, is not detected.
    """
    usual, scripts = set(_scripts(prompt)), _scripts(text)
    return sum(script not in usual for script in scripts) / len(scripts) if usual and scripts else float("nan")


def _scripts(text: str) -> list[str]:
    """The script of every letter: the first word of its Unicode name, such as LATIN, CYRILLIC or HANGUL."""
    letters = [c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) in ("Lu", "Ll", "Lt", "Lo")]
    scripts = [unicodedata.name(c, "UNKNOWN").split()[0] for c in letters]
    return ["CJK" if script in ("HIRAGANA", "KATAKANA") else script for script in scripts]  # Japanese mixes them


# ---- steering scores, 0 to 2, after AxBench (Wu et al. 2025, arXiv:2501.17148), where a judge gives them ----


def concept_score(percentile: float) -> float:
    """How much of the topic is in the text: 2 at topic percentile 0, 1 at 50 (like any prompt), 0 at 100."""
    return 2.0 * (1.0 - percentile / 100.0)


def fluency_score(perplexity: float, distinct_2: float, usual_perplexity: float, usual_distinct_2: float) -> float:
    """2 for a text as likely and as varied as unsteered ones, scaled down by the worse of the two ratios.

    Perplexity alone would reward repetition, which the model finds likely.

    Args:
        usual_perplexity, usual_distinct_2: medians of unsteered continuations of the same prompts.
    """
    return 2.0 * float(np.minimum(1.0, np.minimum(usual_perplexity / perplexity, distinct_2 / usual_distinct_2)))


def harmonic_mean(*scores: float) -> float:
    """Harmonic mean of non-negative scores: 0 if any is 0, NaN if any is NaN."""
    if any(np.isnan(score) for score in scores):
        return float("nan")
    return len(scores) / sum(1.0 / score for score in scores) if all(scores) else 0.0
