"""A setup at work: topic to scores, scores to edits, edits to text with its figures. For commands and pages alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from core.catalog import Setup
from core.edits import Edit, EditName, make_edit
from core.embeddings import EmbeddingModel, load_embedding_model
from core.generation import Generation, Generator
from core.language_model import LanguageModel
from core.metrics import distinct_n, perplexity, repetition, text_distances, topic_percentile
from core.prompts import Topic
from core.scores import TopicScores, score_topic
from core.settings import GenerationSettings, ScoreSettings
from core.sparse_autoencoder import SparseAutoencoder, load_setup
from core.steering import Positions, placed_edit
from core.store import Store

FIGURE_NAMES = (
    "distance",
    "topic_percentile",
    "perplexity",
    "contamination",
    "contamination_share",
    "reconstruction_delta",
    "neurons_changed",
    "distinct_2",
    "repetition",
)


@dataclass(frozen=True, kw_only=True)
class SteeringSettings:
    """How the edits of a comparison are made; see `steering.make_edit`."""

    keep_error: bool = False
    matched_count: bool = False
    n: int = 5  # neurons that clamp forces
    multiplier: float = 10.0  # times the reference value
    current: bool = False  # clamp relative to the neuron's own activation on the token
    positions: Positions | None = None  # None: each edit's own


@dataclass(frozen=True)
class ScoredTopic:
    """A topic, its embeddings and every neuron's score."""

    topic: Topic
    embeddings: Float[np.ndarray, "align d_embedding"]
    scores: TopicScores


@dataclass(frozen=True)
class Column:
    """One way of steering: its continuations and, for each, its figures (NaN where not defined)."""

    name: str
    generations: list[Generation]
    figures: list[dict[str, float]]


class Scorer:
    """Topics against a store; needs no language model."""

    def __init__(self, store: Store, embedding_model: EmbeddingModel) -> None:
        self.store, self.embedding_model = store, embedding_model

    def score(self, topic: Topic, settings: ScoreSettings | None = None) -> ScoredTopic:
        """Scores every neuron of the store against the topic.

        Raises:
            ScoringError: no neuron fires on enough reference prompts.
        """
        embeddings = self.embedding_model.embed(topic.prompts)
        return ScoredTopic(topic, embeddings, score_topic(self.store, embeddings, settings or ScoreSettings()))


class Workbench(Scorer):
    """A loaded setup: scores topics, steers the model, measures the text."""

    def __init__(
        self, store: Store, embedding_model: EmbeddingModel, model: LanguageModel, sae: SparseAutoencoder
    ) -> None:
        super().__init__(store, embedding_model)
        self.model, self.sae = model, sae

    def edit(self, name: EditName, scored: ScoredTopic | None, settings: SteeringSettings) -> Edit | None:
        """The edit of that name for a scored topic.

        Raises:
            EditError: the edit needs a topic and there is none.
        """
        return make_edit(
            name,
            self.sae,
            score=None if scored is None else scored.scores.steering_vector(),
            reference_max=self.store.reference_max(),
            keep_error=settings.keep_error,
            matched_count=settings.matched_count,
            n=settings.n,
            multiplier=settings.multiplier,
            current=settings.current,
        )

    def generator(
        self,
        edit: Edit | None,
        prompts: Sequence[str],
        scored: ScoredTopic | None,
        generation: GenerationSettings,
        positions: Positions | None = None,
    ) -> Generator:
        """Continuations under one edit, ready to stream; contamination is measured by the topic's scores.

        Raises:
            PromptTooLongError, UsageError: what was asked cannot be generated.
        """
        score = None
        if scored is not None:
            score = torch.from_numpy(scored.scores.steering_vector()).to(self.model.device)
        return Generator(self.model, prompts, placed_edit(edit, positions), generation, score=score)

    def figures(self, generations: Sequence[Generation], scored: ScoredTopic | None) -> list[dict[str, float]]:
        """Figures of each continuation, over its own tokens only; NaN where one is not defined.

        Keys: `FIGURE_NAMES` and n_tokens. Distances need a topic; contamination needs an edit.
        """
        perplexities = perplexity(self.model, [g.prompt_tokens for g in generations], [g.ids for g in generations])
        nan = np.full(len(generations), math.nan)
        distances = percentiles = nan
        if scored is not None:
            distances = text_distances(self.embedding_model, [g.text for g in generations], scored.embeddings)
            percentiles = topic_percentile(distances, scored.scores.distances)
        return [
            {
                "distance": float(distances[i]),
                "topic_percentile": float(percentiles[i]),
                "perplexity": perplexities[i],
                **_token_means(g),
                "distinct_2": distinct_n(g.ids, 2),
                "repetition": repetition(g.ids),
                "n_tokens": float(len(g.ids)),
            }
            for i, g in enumerate(generations)
        ]

    def column(
        self,
        name: str,
        edit: Edit | None,
        prompts: Sequence[str],
        scored: ScoredTopic | None,
        generation: GenerationSettings,
        positions: Positions | None = None,
    ) -> Column:
        """All continuations of one way of steering, with their figures."""
        generations = self.generator(edit, prompts, scored, generation, positions).finish()
        return Column(name, generations, self.figures(generations, scored))


def _token_means(generation: Generation) -> dict[str, float]:
    """Means over the continuation's tokens of the per-token figures that are defined."""

    def mean(name: str) -> float:
        values = [v for figures in generation.figures if (v := getattr(figures, name)) is not None]
        return float(np.mean(values)) if values else math.nan

    return {
        name: mean(name) for name in ("contamination", "contamination_share", "reconstruction_delta", "neurons_changed")
    }


def open_workbench(setup: Setup, store: Store) -> Workbench:
    """Loads the setup's model, SAE and embedding model.

    Raises:
        ModelFolderError, AutoencoderError, UnsafeWeightsError, HubError, EmbeddingModelError: see the loaders.
    """
    embedding_model = load_embedding_model(setup.embedding_model)
    model, sae = load_setup(setup)
    return Workbench(store, embedding_model, model, sae)
