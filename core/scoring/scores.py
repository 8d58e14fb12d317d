"""Scores of neurons against a topic: Topic Alignment paper, section 3.1, Eq. 1 and 2.

Eq. 2 as printed gives score 1 to the farthest neuron. The paper's text, its Fig. 4 and its contamination all need the
closest neuron to have score 1, so the sign is reversed here.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Float32, Float64

from core.errors import ScoringError
from core.models.embeddings import distances_to_topic
from core.settings import ScoreSettings
from core.store.reader import Store

if TYPE_CHECKING:  # imports torch
    from core.store.batch import ActivationBatch

DENSE = 0.1  # a neuron active on more than this share of the reference tokens is named as dense
_ROUNDING = 1e-9  # values of g closer than this, relative to the largest, count as equal


@dataclass(frozen=True)
class TopicScores:
    """Every neuron's score against one topic.

    `table` has one row for each of the d_sae neurons, ordered by number:
        score: 0 (farthest) to 1 (closest); NaN where the neuron is too rare, or too dense, to score
        g: summary-weighted mean distance of its prompts from the topic (Eq. 1); NaN where it never fires
        prompts: reference prompts on which it is active
        near, far: share of its summed summary on the quarter of the prompts nearest to, and farthest from, the topic
    """

    table: pd.DataFrame
    distances: Float32[np.ndarray, "prompt"]  # Euclidean, of each reference prompt from the topic, 0 to 2
    settings: ScoreSettings

    def steering_vector(self) -> Float32[np.ndarray, "d_sae"]:
        """The scores as edits use them: 0 for a neuron that has none."""
        return np.asarray(self.table["score"].fillna(0.0), dtype=np.float32)

    def standing(self) -> tuple[float, float]:
        """The second-best score and the median: how far the best neuron, always at 1, stands before the others."""
        scores = np.sort(self.table["score"].dropna())
        return float(scores[-2:][0]), float(np.median(scores))

    def ranked(self, n: int | None = None) -> pd.DataFrame:
        """At most `n` scored neurons, best first (ties by number), with a column `rank` from 1."""
        scored = self.table[self.table["score"].notna()]
        ordered = scored.sort_values(["score", "neuron"], ascending=[False, True]).head(len(scored) if n is None else n)
        ordered.insert(0, "rank", np.arange(1, len(ordered) + 1))
        return ordered.reset_index(drop=True)


def scores_from_sums(
    sums: pd.DataFrame, d_sae: int, min_prompts: int, too_dense: Bool[np.ndarray, "d_sae"] | None = None
) -> pd.DataFrame:
    """Makes the table of `TopicScores` (Eq. 2) from the sums of `Store.neuron_sums`.

    Args:
        sums: one row per active neuron: neuron, prompts, g, near, far.
        min_prompts: neurons active in fewer prompts have no score.
        too_dense: neurons that have no score either.

    Raises:
        ScoringError: no neuron is left.
    """
    neuron = sums["neuron"].to_numpy()
    prompts = np.zeros(d_sae, dtype=np.int64)
    prompts[neuron] = sums["prompts"]
    g, near, far = np.full((3, d_sae), np.nan)
    g[neuron], near[neuron], far[neuron] = sums["g"], sums["near"], sums["far"]
    scored = prompts >= min_prompts
    if not scored.any():
        most = int(prompts.max())
        raise ScoringError(
            f"a score needs a neuron active in at least {min_prompts} reference prompts, the busiest has {most}; "
            "lower min_prompts, or build on more prompts"
        )
    if too_dense is not None:
        scored &= ~too_dense
        if not scored.any():
            raise ScoringError("every neuron is active on a larger share of tokens than max_density; raise it")
    scored &= ~np.isnan(g)
    lowest, highest = (g[scored].min(), g[scored].max()) if scored.any() else (np.nan, np.nan)
    # Eq. 2 with its sign reversed; if all g are equal, every neuron is as close as the closest
    equal = highest - lowest <= _ROUNDING * highest
    score = np.where(scored, 1.0 if equal else (highest - g) / (highest - lowest), np.nan)
    return pd.DataFrame(
        {"neuron": np.arange(d_sae), "score": score, "g": g, "prompts": prompts, "near": near, "far": far}
    )


def score_topic(
    store: Store, topic_embeddings: Float[np.ndarray, "align d_embedding"], settings: ScoreSettings | None = None
) -> TopicScores:
    """Scores every neuron of a store against a topic, given by the unit-normalised embeddings of its prompts.

    Raises:
        ScoringError: no neuron can be scored, or the store's embeddings are from another embedding model.
    """
    settings = settings or ScoreSettings()
    reference = store.embeddings()
    if topic_embeddings.ndim != 2 or topic_embeddings.shape[1] != reference.shape[1]:
        raise ScoringError(
            f"the store's embeddings have {reference.shape[1]} dimensions ({store.meta.get('embedding_model')}), "
            f"the topic's have shape {topic_embeddings.shape}; embed it with the same model"
        )
    distances = distances_to_topic(reference, topic_embeddings)
    too_dense = None if settings.max_density is None else store.density() > settings.max_density
    table = scores_from_sums(store.neuron_sums(distances, settings), store.d_sae, settings.min_prompts, too_dense)
    return TopicScores(table, distances, settings)


def prompt_summaries(rows: pd.DataFrame, settings: ScoreSettings) -> pd.Series:
    """Prompt-level activation summary_i(p) of one neuron (section 3.1), for the rows of `Store.neuron_rows`."""
    match settings.summary:
        case "sum":
            return rows["sum"] / rows["total"]
        case "max":
            return rows["max"]
        case "mean":
            return rows["sum"] / rows["prompt_tokens"]
        case "count":
            return rows["n_tokens"] / rows["prompt_tokens"]


def strawman(activations: "Iterable[ActivationBatch]", d_sae: int) -> Float64[np.ndarray, "d_sae"]:
    """Share of a topic's own tokens on which each neuron fires: the Topic Alignment paper's strawman (section 3.1).

    It needs no reference prompts, but ignores what else a neuron fires on, and most neurons tie at 0.

    Args:
        activations: of the topic's prompts, from `build.activations.token_activations`.

    Raises:
        ScoringError: the prompts have no ordinary token.
    """
    fired, n_tokens = np.zeros(d_sae), 0
    for batch in activations:
        fired += np.bincount(batch.neuron, minlength=d_sae)
        n_tokens += int(batch.n_tokens.sum())
    if not n_tokens:
        raise ScoringError("the topic's prompts have no token of their own; give it at least one word")
    return fired / n_tokens
