"""A store of 160 random neurons, 147 of them on at least five prompts, and what is said about them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from core.interpretability.contexts import NeuronContexts, contexts_from_store, drawn_from_store
from core.interpretability.ratings import Rated
from core.results.ratings import RatingStore
from core.store.reader import Store
from tests.fixtures.stores import random_dense

RATED = Rated("tiny", "fake")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with random_dense(0, d_sae=160).write(tmp_path_factory.mktemp("stores")) as opened:
        yield opened


@pytest.fixture
def sample(store: Store) -> list[NeuronContexts]:
    return [contexts_from_store(store, neuron) for neuron in drawn_from_store(store, 20, seed=0)]


@pytest.fixture
def results(tmp_path: Path) -> RatingStore:
    return RatingStore(tmp_path)
