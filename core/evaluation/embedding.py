"""Does the ranking depend on the sentence-embedding model? Scores by a second one, compared by Kendall's tau.

The second model is any sentence-transformers folder or hub name. It embeds the reference prompts anew, and the topics;
activations are those of the store.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float
from scipy.stats import kendalltau

from core.errors import UsageError
from core.evaluation.experiments import ALL_TOPICS, ExperimentOptions
from core.models.embeddings import distances_to_topic, load_embedding_model
from core.progress import Progress
from core.scoring.scores import scores_from_sums
from core.settings import ScoreSettings

if TYPE_CHECKING:
    from core.scoring.scorer import Scorer  # imports torch

N_TOP = 20  # best neurons of each ranking, of which the common share is told
_EMBEDDING_PART = 0.9  # share of the time that embedding the reference prompts takes


def shared_best(first: Float[np.ndarray, "scored"], second: Float[np.ndarray, "scored"], n: int = N_TOP) -> float:
    """Share of the n best of one ranking that are among the n best of the other; ties go to the lower number."""
    ours, theirs = (np.argsort(-scores, kind="stable")[:n] for scores in (first, second))
    return float(np.isin(ours, theirs).mean())


def run(
    workbench: Scorer, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Table `embedding`: for each topic and on average, how alike the two models rank neurons, and order the prompts.

    Its columns: topic; model (the second one's name); tau (Kendall's tau-b of the scored neurons); top (share of the
    N_TOP best that both have); tau_distances (of the reference prompts' distances from the topic).

    Raises:
        UsageError: no second model is named.
        EmbeddingModelError: it cannot be loaded.
    """
    if options.embedding is None:
        raise UsageError("name the second sentence-embedding model: --embedding FOLDER, any of sentence-transformers")
    store, settings = workbench.store, ScoreSettings()
    second = load_embedding_model(options.embedding)
    texts = store.prompts()["text"].tolist()
    reference = second.embed(texts, lambda share: progress("reference prompts", _EMBEDDING_PART * share))
    rows = []
    for number, topic in enumerate(options.topics):
        progress(topic.title, _EMBEDDING_PART + (1 - _EMBEDDING_PART) * number / len(options.topics))
        first = workbench.score(topic, settings).scores
        distances = distances_to_topic(reference, second.embed(topic.prompts))
        table = scores_from_sums(store.neuron_sums(distances, settings), store.d_sae, settings.min_prompts)
        a, b = (scores["score"].dropna().to_numpy() for scores in (first.table, table))  # the same neurons in both
        rows.append(
            {
                "topic": topic.name,
                "model": Path(options.embedding).name,
                "tau": float(kendalltau(a, b).statistic),
                "top": shared_best(a, b),
                "tau_distances": float(kendalltau(first.distances, distances).statistic),
            }
        )
    progress("done", 1.0)
    by_topic = pd.DataFrame(rows)
    mean = {"topic": ALL_TOPICS, "model": rows[0]["model"], **by_topic.mean(numeric_only=True)}
    return {"embedding": pd.concat([by_topic, pd.DataFrame([mean])], ignore_index=True)}
