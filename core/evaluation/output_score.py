"""How much each neuron changes the model's next-token probabilities, beside what it fires on.

Neurons that fire on a topic do not always write about it (Arad et al. 2025, arXiv:2505.20063). The measure is ours. A
neuron's decoder row, times the neuron's mean activation where it fires, is added to the activation at the last position
of some neutral openings. Its **output score** is the gain in next-token probability of the ten tokens that the row
promotes through the unembedding: summed over the tokens, mean over the openings, -1 to 1. The topic's version takes the
gain of the topic's words instead.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from core.errors import AutoencoderError, UsageError
from core.evaluation.experiments import ExperimentOptions
from core.models.codes import PreActivations, SparseCode
from core.models.language_model import LanguageModel
from core.models.sparse_autoencoder import SparseAutoencoder
from core.models.tokens import TokenisedPrompt, Tokens
from core.progress import Progress
from core.steering.workbench import Workbench
from core.text.chat_template import encode_text
from core.text.prompts import Topic, continuations

N_OPENINGS = 8
PROMOTED_TOKENS = 10
NEIGHBOURS = 5
TOPIC_WORDS = 20
LISTED_NEURONS = 20
_LEAST_LETTERS = 3  # in a topic's word; shorter tokens are mostly pieces of words
_REQUEST = "Write a sentence."  # to a chat model, whose answer begins with the opening
_BATCH_LOGITS = 2**22  # in one forward pass, to limit the [neuron vocabulary] block
_BATCH_COSINES = 2**24


# ---- neutral openings ----


def neutral_prompts(model: LanguageModel) -> list[TokenisedPrompt]:
    """Openings of a sentence that fit any subject; for a chat model, openings of its answer."""
    texts = continuations()[:N_OPENINGS]
    if not model.chat:
        return [model.tokenise(text) for text in texts]
    request = model.tokenise(_REQUEST, generate=True)
    openings = [encode_text(model.tokenizer, text).input_ids for text in texts]
    return [TokenisedPrompt([*request.ids, *ids], [*request.special, *[False] * len(ids)]) for ids in openings]


@dataclass(frozen=True)
class _Opening:
    """A prompt whose last token is run later, under an edit; the tokens before it are in the cache."""

    last: Tokens  # the last token; its attention covers the prompt
    position: int
    cache: Any  # keys and values of the tokens before it
    pre: PreActivations  # SAE pre-activations at the last position
    probability: Float[Tensor, "vocabulary"]  # of the next token, unsteered

    @classmethod
    def read(cls, model: LanguageModel, sae: SparseAutoencoder, prompt: TokenisedPrompt) -> _Opening:
        tokens, position = model.pad([prompt]), len(prompt.ids) - 1
        cache = model.new_cache()
        if position:
            model.forward(Tokens(*(t[:, :-1] for t in (tokens.ids, tokens.attention, tokens.special))), cache)
        last = Tokens(tokens.ids[:, -1:], tokens.attention, tokens.special[:, -1:])
        seen: list[Tensor] = []
        with model.intervene({sae.hook_name: seen.append}):
            logits = model.forward(last, copy.deepcopy(cache), position_ids=tokens.position_ids[:, -1:], last_only=True)
        return cls(last, position, cache, sae.pre_activations(seen[0][0]), logits[0, -1].float().softmax(-1))

    def steered(
        self, model: LanguageModel, hook_name: str, directions: Float[Tensor, "neuron d_in"]
    ) -> Float[Tensor, "neuron vocabulary"]:
        """Next-token probabilities with each direction added at the last position.

        The batch widens at the hook point, so the layers before it run once, whatever the number of directions.
        """
        cache = copy.deepcopy(self.cache)

        def widen(x: Float[Tensor, "1 1 d_in"]) -> Float[Tensor, "neuron 1 d_in"]:
            for layer in cache.layers:
                if layer.get_seq_length() == self.position:  # the layer is after the hook point
                    layer.batch_repeat_interleave(len(directions))
            return x + directions[:, None].to(x)

        position_ids = torch.full_like(self.last.ids, self.position)
        with model.intervene({hook_name: widen}):
            logits = model.forward(self.last, cache, position_ids=position_ids, last_only=True)
        return logits[:, -1].float().softmax(-1)


# ---- gains in probability ----


def _contributions(
    sae: SparseAutoencoder,
    neurons: Int[Tensor, "neuron"],
    strengths: Float[Tensor, "neuron"],
    pre: PreActivations,
) -> Float[Tensor, "neuron d_in"]:
    """What each neuron, active alone, adds to the SAE's reconstruction; `pre` undoes the SAE's normalisation."""
    alone = sae.decode_sparse(SparseCode(neurons[:, None], strengths[:, None]), pre)
    return alone - sae.decode_sparse(SparseCode(neurons[:, None], torch.zeros_like(strengths)[:, None]), pre)


@torch.inference_mode()
def probability_gains(
    model: LanguageModel,
    sae: SparseAutoencoder,
    neurons: Int[Tensor, "neuron"],
    strengths: Float[Tensor, "neuron"],
    targets: Int[Tensor, "neuron token"],
    progress: Callable[[float], None] = lambda share: None,
) -> Float[np.ndarray, "neuron"]:
    """Gain in the summed probability of each neuron's targets when it is added; mean over the neutral openings.

    Args:
        strengths: post-activation with which each neuron is added, in the SAE's units.
        targets: token ids.
    """
    prompts = neutral_prompts(model)
    gains = torch.zeros(len(neurons), dtype=torch.float64)
    batch_size = max(1, _BATCH_LOGITS // model.model.get_output_embeddings().weight.shape[0])
    batches = torch.arange(len(neurons)).split(batch_size)
    for number, prompt in enumerate(prompts):
        opening = _Opening.read(model, sae, prompt)
        for done, batch in enumerate(batches, start=1):
            directions = _contributions(sae, neurons[batch], strengths[batch], opening.pre)
            after = opening.steered(model, sae.hook_name, directions).gather(-1, targets[batch]).sum(-1)
            before = opening.probability[targets[batch]].sum(-1)
            gains[batch] += (after - before).double().cpu()
            progress((number + done / len(batches)) / len(prompts))
    return (gains / len(prompts)).numpy()


@torch.inference_mode()
def promoted_tokens(model: LanguageModel, W_dec: Float[Tensor, "neuron d_in"]) -> Int[Tensor, "neuron token"]:
    """Ids of the tokens that each decoder row raises most through the unembedding (logit lens), strongest first."""
    rows = max(1, _BATCH_LOGITS // model.model.get_output_embeddings().weight.shape[0])
    return torch.cat([model.unembed(part).topk(PROMOTED_TOKENS).indices for part in W_dec.split(rows)])


def _check_residual(model: LanguageModel, sae: SparseAutoencoder) -> None:
    if "hook_z" in sae.hook_name or sae.d_in != model.d_model:
        raise AutoencoderError(
            f"output scores read decoder rows through the unembedding, but {sae.hook_name} lies inside attention; "
            "use a setup whose SAE reads the residual stream"
        )


# ---- tables ----


@torch.inference_mode()
def nearest_neurons(
    W_dec: Float[Tensor, "d_sae d_in"], n: int = NEIGHBOURS
) -> tuple[Int[np.ndarray, "d_sae n"], Float[np.ndarray, "d_sae n"]]:
    """The (at most n) neurons whose decoder rows have the largest cosine with each neuron's, and the cosines."""
    rows = torch.nn.functional.normalize(W_dec.float(), dim=-1)
    cosines, neurons = [], []
    for part in torch.arange(len(rows), device=rows.device).split(max(1, _BATCH_COSINES // len(rows))):
        similar = rows[part] @ rows.T
        similar[torch.arange(len(part), device=rows.device), part] = -torch.inf
        top = similar.topk(min(n, len(rows) - 1))
        cosines.append(top.values.cpu())
        neurons.append(top.indices.cpu())
    return torch.cat(neurons).numpy(), torch.cat(cosines).numpy()


def output_scores(
    model: LanguageModel,
    sae: SparseAutoencoder,
    mean_activation: Float[np.ndarray, "d_sae"],
    progress: Callable[[float], None] = lambda share: None,
) -> pd.DataFrame:
    """The output score of every neuron that ever fires.

    Args:
        mean_activation: of each neuron over the reference tokens on which it is active; 0 if it never fires.

    Returns:
        One row per neuron, by number: neuron, output_score, rank (1 for the largest gain), nearest (neurons with the
            most similar decoder rows, nearest first) and cosine (theirs).

    Raises:
        AutoencoderError: the decoder rows do not write to the residual stream, so the unembedding cannot read them.
    """
    _check_residual(model, sae)
    active = np.flatnonzero(mean_activation)
    neurons = torch.from_numpy(active).to(sae.W_dec.device)
    strengths = torch.from_numpy(mean_activation[active]).to(sae.W_dec)
    targets = promoted_tokens(model, sae.W_dec[neurons])
    gains = probability_gains(model, sae, neurons, strengths, targets, progress)
    nearest, cosine = nearest_neurons(sae.W_dec)
    table = pd.DataFrame({"neuron": active, "output_score": gains, "rank": _ranks(gains)})
    return table.assign(nearest=nearest[active].tolist(), cosine=cosine[active].astype(float).round(4).tolist())


def _ranks(gains: Float[np.ndarray, "neuron"]) -> Int[np.ndarray, "neuron"]:
    """1 for the largest gain; ties are ranked by position."""
    ranks = np.empty(len(gains), dtype=np.int64)
    ranks[np.argsort(-gains, kind="stable")] = np.arange(1, len(gains) + 1)
    return ranks


# ---- a topic's words ----


def _words(tokens: Iterable[str]) -> Counter[str]:
    bare = (token.strip().lower() for token in tokens)
    return Counter(word for word in bare if len(word) >= _LEAST_LETTERS and word.isalpha())


def distinctive_words(topic: Iterable[str], reference: Iterable[str], n: int = TOPIC_WORDS) -> list[str]:
    """The words that distinguish a topic's tokens from the reference prompts', at most `n`, most distinctive first.

    Words are ordered by p log(p / q), their part in the KL divergence of the two distributions; q adds one to each
    count.

    Args:
        topic, reference: tokens as text; those that differ only by case or white space are one word.
    """
    here, there = _words(topic), _words(reference)
    total_here, total_there = here.total(), there.total() + len(here.keys() | there.keys())
    tell = {
        word: count / total_here * math.log(count / total_here * total_there / (there[word] + 1))
        for word, count in here.items()
    }
    return [word for word in sorted(tell, key=lambda w: (-tell[w], w))[:n] if tell[word] > 0]


def token_ids(model: LanguageModel, words: Sequence[str]) -> list[int]:
    """Ids of the single tokens that spell the words, with and without a leading space, lower-case and capitalised."""
    ids = []
    for word in words:
        for text in (f" {word}", word, f" {word.capitalize()}", word.capitalize()):
            spelled = encode_text(model.tokenizer, text).input_ids
            if len(spelled) == 1 and spelled[0] not in ids:
                ids.append(int(spelled[0]))
    return ids


@dataclass(frozen=True)
class TopicGains:
    """What the topic's words gain from some neurons; `table` has columns neuron, topic_gain and topic_rank."""

    words: list[str]
    table: pd.DataFrame


def topic_gains(
    workbench: Workbench,
    topic: Topic,
    neurons: Sequence[int],
    progress: Callable[[float], None] = lambda share: None,
) -> TopicGains:
    """The topic's version of the output score for some neurons, ranked among themselves.

    A neuron that never fires has no gain and no rank.

    Raises:
        AutoencoderError: see `output_scores`.
        UsageError: no single token of the model spells a word of the topic.
        NeuronRangeError: the SAE has no such neuron.
    """
    model, sae, store = workbench.model, workbench.sae, workbench.store
    _check_residual(model, sae)
    tokens = [t for p in topic.prompts for t in model.token_strings(encode_text(model.tokenizer, f" {p}").input_ids)]
    words = distinctive_words(tokens, (token for tokens in store.prompts()["tokens"] for token in tokens))
    ids = token_ids(model, words)
    if not ids:
        raise UsageError(
            f"no token of this model spells a word of the topic in {_LEAST_LETTERS} letters or more; use plainer words"
        )
    known = store.neurons(neurons)[["neuron", "mean"]]
    known = known[known["mean"] > 0]
    chosen = torch.tensor(known["neuron"].to_numpy(), device=sae.W_dec.device)
    strengths = torch.tensor(known["mean"].to_numpy()).to(sae.W_dec)
    targets = torch.tensor(ids, device=chosen.device).expand(len(chosen), -1)
    gains = probability_gains(model, sae, chosen, strengths, targets, progress)
    table = pd.DataFrame({"neuron": known["neuron"].to_numpy(), "topic_gain": gains, "topic_rank": _ranks(gains)})
    return TopicGains([word for word in words if token_ids(model, [word])], table)


def best(table: pd.DataFrame, neurons: pd.DataFrame) -> pd.DataFrame:
    """The neurons with the largest output scores, with the tokens that they fire on and those they promote."""
    first = table.sort_values("rank").head(LISTED_NEURONS)[["rank", "neuron", "output_score"]]
    return first.merge(neurons[["neuron", "top_tokens", "promoted"]], on="neuron")


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `output` (see `output_scores`) and `output-best`. No option concerns them."""
    neurons = workbench.store.neurons()
    table = output_scores(
        workbench.model, workbench.sae, neurons["mean"].to_numpy(), lambda share: progress("output scores", share)
    )
    return {"output": table, "output-best": best(table, neurons)}
