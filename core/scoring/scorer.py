"""Scores every neuron of a store against a topic."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pandas as pd
from jaxtyping import Float

from core.catalog import Setup
from core.errors import StoreBusyError, StoreWriteError
from core.models.embeddings import EmbeddingModel, load_embedding_model
from core.progress import Progress
from core.results.app_store import AppStore
from core.scoring.chance import Chance
from core.scoring.nonsense import keep_chance, known_chance, measure_chance, size_of
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
        self._chances: dict[tuple[int, ScoreSettings], Chance] = {}

    def score(self, topic: Topic, settings: ScoreSettings | None = None) -> ScoredTopic:
        """Scores every neuron of the store against the topic.

        Raises:
            ScoringError: no neuron fires on enough reference prompts.
        """
        embeddings = self.embedding_model.embed(topic.prompts)
        return ScoredTopic(topic, embeddings, score_topic(self.store, embeddings, settings or ScoreSettings()))

    def chance(self, n_prompts: int, settings: ScoreSettings, progress: Progress = lambda stage, share: None) -> Chance:
        """What topics that mean nothing show: measured in seconds, once, and kept in the app's store."""
        key = (size_of(n_prompts), settings)
        if key not in self._chances:
            app = AppStore(self.store.path.parents[1])
            with suppress(StoreWriteError, StoreBusyError):  # a folder that cannot be written keeps nothing
                if (known := known_chance(app, self.store, n_prompts, settings)) is not None:
                    self._chances[key] = known
                    return known
            self._chances[key] = measure_chance(self.store, self.embedding_model, n_prompts, settings, progress)
            with suppress(StoreWriteError, StoreBusyError):
                keep_chance(app, self.store, n_prompts, settings, self._chances[key])
        return self._chances[key]

    def cases(self, scored: ScoredTopic, progress: Progress = lambda stage, share: None) -> pd.DataFrame:
        """Which neurons stand out for the topic beyond chance: neuron, z, p, case; see `Chance.cases`."""
        settings = scored.scores.settings
        chance = self.chance(len(scored.topic.prompts), settings, progress)
        return chance.cases(scored.scores, self.store.weight_squares(settings.summary))


def open_scorer(setup: Setup, store: Store) -> Scorer:
    """Opens a scorer, for which only the setup's embedding model is loaded.

    Raises:
        EmbeddingModelError: it cannot be loaded.
    """
    return Scorer(store, load_embedding_model(setup.embedding_model))
