"""Scores every neuron of a store against a topic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from core.catalog import Setup
from core.models.embeddings import EmbeddingModel, load_embedding_model
from core.scoring.scores import TopicScores, score_topic
from core.settings import ScoreSettings
from core.store.reader import Store
from core.text.prompts import Topic


@dataclass(frozen=True)
class ScoredTopic:
    """A topic, its embeddings and every neuron's score."""

    topic: Topic
    embeddings: Float[np.ndarray, "align d_embedding"]
    scores: TopicScores


class Scorer:
    """Scores topics against a store; needs no language model."""

    def __init__(self, store: Store, embedding_model: EmbeddingModel) -> None:
        self.store, self.embedding_model = store, embedding_model

    def score(self, topic: Topic, settings: ScoreSettings | None = None) -> ScoredTopic:
        """Scores every neuron of the store against the topic.

        Raises:
            ScoringError: no neuron fires on enough reference prompts.
        """
        embeddings = self.embedding_model.embed(topic.prompts)
        return ScoredTopic(topic, embeddings, score_topic(self.store, embeddings, settings or ScoreSettings()))


def open_scorer(setup: Setup, store: Store) -> Scorer:
    """Opens a scorer, for which only the setup's embedding model is loaded.

    Raises:
        EmbeddingModelError: it cannot be loaded.
    """
    return Scorer(store, load_embedding_model(setup.embedding_model))
