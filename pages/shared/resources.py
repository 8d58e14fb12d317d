"""What sessions share: stores, models, embeddings and scores, each loaded when a page first needs it."""

import atexit
import gc
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st
from jaxtyping import Float32

from core.catalog import Setup, listed_setups, missing_parts
from core.errors import StoreError
from core.results.app_store import AppStore
from core.scoring.scores import TopicScores, score_topic
from core.settings import ScoreSettings, store_root
from core.store.reader import Store
from core.text.prompts import Topic

if TYPE_CHECKING:  # imports torch, which only some pages need
    from core.models.embeddings import EmbeddingModel
    from core.models.language_model import LanguageModel
    from core.models.sparse_autoencoder import SparseAutoencoder
    from core.scoring.chance import Chance
    from core.scoring.scorer import ScoredTopic, Scorer
    from core.steering.workbench import Workbench


@dataclass(frozen=True)
class ScoredIn:
    """Scores of a topic, and the seconds that scoring took (without embedding the topic)."""

    scores: TopicScores
    embeddings: Float32[np.ndarray, "align d_embedding"]
    seconds: float


@st.cache_data(ttl="1min", show_spinner=False)
def setups() -> dict[str, tuple[Setup, list[str]]]:
    """Every setup by name, with what it still needs to run here; those that can run come first."""
    found = {name: (setup, missing_parts(setup)) for name, setup in listed_setups()[0].items()}
    return dict(sorted(found.items(), key=lambda item: bool(item[1][1])))


@st.cache_data(ttl="1min", show_spinner=False)
def setup_problems() -> list[str]:
    """What is wrong with the user's file of setups, entry by entry."""
    return [str(problem) for problem in listed_setups()[1]]


def open_store(setup_name: str) -> Store:
    """The store of a setup; reopened when its file was replaced.

    Raises:
        StoreNotBuiltError, StoreSchemaError, StoreDamagedError: see `Store.open`.
    """
    return _open_store(store_root(), setup_name)


@st.cache_resource(max_entries=8, validate=lambda store: not store.changed(), show_spinner=False)
def _open_store(root: Path, setup_name: str) -> Store:
    return Store.open(root, setup_name)  # a store that leaves the cache closes when no session uses it


@atexit.register
def _close_stores() -> None:
    """Closes all stores at exit; duckdb complains on the terminal about a connection that is still open."""
    st.cache_resource.clear()
    gc.collect()  # a reference cycle of an ended session may still hold one


def app_store() -> AppStore:
    """The store of collected rows and saved results."""
    return AppStore(store_root())


def saved_result(setup_name: str, what: str) -> pd.DataFrame | None:
    """A saved table, or None; read once for all sessions until the app's file changes.

    Raises:
        StoreBusyError, StoreDamagedError: see `AppStore`.
    """
    path = app_store().path
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    table = _saved_result(path.parent, (stat.st_mtime_ns, stat.st_size), setup_name, what)
    return None if table is None else table.copy()


@st.cache_resource(max_entries=64, show_spinner=False)
def _saved_result(root: Path, identity: tuple[int, int], setup_name: str, what: str) -> pd.DataFrame | None:
    return AppStore(root).result(setup_name, what)


@st.cache_resource(max_entries=2, show_spinner="Loading the sentence-embedding model: some seconds, once ...")
def embedding_model(name: str) -> "EmbeddingModel":
    from core.models.embeddings import load_embedding_model

    return load_embedding_model(name)


@st.cache_resource(max_entries=128, show_spinner="Embedding the topic ...")
def _embeddings(model_name: str, prompts: tuple[str, ...]) -> Float32[np.ndarray, "align d_embedding"]:
    return embedding_model(model_name).embed(prompts)


def _identity(store: Store) -> tuple[str, str | None]:
    return str(store.path), store.meta.get("built_at")


@st.cache_resource(max_entries=64, show_spinner=False, hash_funcs={Store: _identity})
def _scored(store: Store, model_name: str, prompts: tuple[str, ...], settings: ScoreSettings) -> ScoredIn:
    embeddings = _embeddings(model_name, prompts)
    start = time.perf_counter()
    scores = score_topic(store, embeddings, settings)
    return ScoredIn(scores, embeddings, time.perf_counter() - start)


def score(setup: Setup, store: Store, topic: Topic, settings: ScoreSettings) -> ScoredIn:
    """The score of every neuron for a topic, cached for all sessions.

    Raises:
        EmbeddingModelError: the setup's embedding model cannot be loaded.
        ScoringError: no neuron can be scored.
    """
    return _scored(store, setup.embedding_model, topic.prompts, settings)


@st.cache_resource(max_entries=32, show_spinner=False, hash_funcs={Store: _identity})
def _known_chance(
    store: Store, changed: tuple[int, int] | None, n_prompts: int, settings: ScoreSettings
) -> "Chance | None":
    from core.scoring.nonsense import known_chance

    return known_chance(app_store(), store, n_prompts, settings)


def known_cases(store: Store, topic: Topic, scored: ScoredIn) -> pd.DataFrame | None:
    """Which neurons stand out for the topic beyond chance; None until `measure_cases` has run for its size.

    Raises:
        StoreBusyError, StoreDamagedError: see `AppStore`.
    """
    settings, path = scored.scores.settings, app_store().path
    stat = path.stat() if path.exists() else None
    changed = None if stat is None else (stat.st_mtime_ns, stat.st_size)
    chance = _known_chance(store, changed, len(topic.prompts), settings)
    return None if chance is None else chance.cases(scored.scores, store.weight_squares(settings.summary))


def measure_cases(setup: Setup, store: Store, topic: Topic, scored: ScoredIn) -> None:
    """Measures what meaningless topics of the topic's size show, so that its neurons' cases are known: seconds."""
    scorer(setup, store).chance(len(topic.prompts), scored.scores.settings)


@st.cache_resource(max_entries=2, show_spinner="Loading the language model and the SAE: some seconds, once ...")
def _models(setup: Setup) -> "tuple[LanguageModel, SparseAutoencoder]":
    from core.steering.workbench import load_setup

    return load_setup(setup)


def scorer(setup: Setup, store: Store) -> "Scorer":
    """The setup's scorer, which needs no language model.

    Raises:
        EmbeddingModelError: the setup's embedding model cannot be loaded.
    """
    from core.scoring.scorer import Scorer

    return Scorer(store, embedding_model(setup.embedding_model))


def workbench(setup: Setup, store: Store) -> "Workbench":
    """The setup's workbench for steering; its model is shared by all sessions.

    Raises:
        ModelFolderError, AutoencoderError, UnsafeWeightsError, HubError, EmbeddingModelError: see the loaders.
    """
    from core.steering.workbench import Workbench

    return Workbench(store, embedding_model(setup.embedding_model), *_models(setup))


def layers_beside(setup: Setup, store: Store) -> list[str]:
    """Setups at other layers of the same model that have a store."""
    found = []
    for name, (other, lacking) in setups().items():
        if name == setup.name or other.model != setup.model or lacking:
            continue
        with suppress(StoreError):  # not built or not readable; choosing that setup shows why
            if open_store(name).meta["hook_name"] != store.meta["hook_name"]:
                found.append(name)
    return found


@st.cache_resource(max_entries=8, show_spinner="Loading the other layer's SAE ...", hash_funcs={Store: _identity})
def workbench_beside(setup: Setup, store: Store, main: Setup, main_store: Store) -> "Workbench":
    """The workbench of a setup at another layer, on the same loaded model as `main`.

    Raises:
        AutoencoderError, UsageError: see `core.steering.workbench.open_workbench`.
    """
    from core.steering.workbench import open_workbench

    return open_workbench(setup, store, beside=workbench(main, main_store))


def scored_topic(topic: Topic, scored: ScoredIn) -> "ScoredTopic":
    """The scores in the form that a workbench takes."""
    from core.scoring.scorer import ScoredTopic

    return ScoredTopic(topic, scored.embeddings, scored.scores)
