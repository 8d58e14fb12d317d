"""Meaningless topics: drawn as stated, measured the same way every time, kept in the app's store."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from core.models.embeddings import distances_to_topic
from core.results.app_store import AppStore
from core.scoring import nonsense
from core.scoring.chance import SIDES
from core.scoring.nonsense import LineKind, distances_to_many, draws, known_chance, lines, size_of
from core.scoring.scorer import Scorer
from core.settings import ScoreSettings
from core.store.reader import Store
from core.text.prompts import Topic, reference_prompts
from tests.fixtures.stores import random_dense

SETTINGS = ScoreSettings(min_prompts=5)


class RandomEmbeddings:
    """Embeds every text in a direction of its own."""

    name = "fake"

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, texts: list[str]) -> np.ndarray:
        self.embedded += len(texts)
        rows = np.random.default_rng(len(texts)).normal(size=(len(texts), 8))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path):
    with random_dense(7, n_prompts=60, d_sae=16).write(tmp_path) as opened:
        yield opened


@pytest.mark.parametrize(("n", "size"), [(1, 1), (2, 2), (4, 3), (5, 6), (12, 10), (20, 20), (40, 60), (2_000, 60)])
def test_a_topic_is_compared_with_the_nearest_size(n: int, size: int) -> None:
    assert size_of(n) == size


@pytest.mark.parametrize("kind", ["random", "common"])
def test_lines_are_the_same_every_time_and_have_2_to_12_words(kind: LineKind) -> None:
    made = lines(kind, 60, seed=0)
    assert made == lines(kind, 60, seed=0)
    assert {len(line.split()) for line in made} == set(range(2, 13))
    assert made != lines(kind, 60, seed=1)


def test_common_lines_have_words_as_often_as_the_prompts() -> None:
    often = Counter(word for line in lines("common", 1_000, seed=0) for word in line.split())
    seldom = Counter(word for line in lines("random", 1_000, seed=0) for word in line.split())
    assert often["the"] > 100 * max(1, seldom["the"])


def test_shuffled_lines_are_prompts_in_another_order() -> None:
    known = {" ".join(sorted(prompt.text.split())) for prompt in reference_prompts("embedded")}
    made = lines("shuffled", 30, seed=0)
    assert {" ".join(sorted(line.split())) for line in made} <= known
    assert not {prompt.text for prompt in reference_prompts("embedded")} >= set(made)


def test_draws_use_every_row_before_any_again() -> None:
    drawn = draws(150, 3, seed=0)
    assert drawn.shape == (nonsense.N_TOPICS, 3)
    counts = np.bincount(drawn.ravel(), minlength=150)
    assert set(counts) == {4}


def test_distances_to_many_are_those_to_each() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(50, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    topics = rows[:12].reshape(4, 3, 8)
    found = distances_to_many(rows, topics)
    expected = np.column_stack([distances_to_topic(rows, topic) for topic in topics])
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_what_was_measured_is_kept_for_the_next_process(store: Store, tmp_path: Path) -> None:
    model = RandomEmbeddings()
    topic = Topic("t", "t", ("one", "two"))
    first = Scorer(store, model)  # type: ignore[arg-type]
    cases = first.cases(first.score(topic, SETTINGS))
    assert model.embedded == 2 + len(nonsense.NONSENSE) * nonsense.N_LINES
    assert cases["case"].isin(["not told apart", "too rare", *SIDES]).all()

    again = Scorer(store, model)  # type: ignore[arg-type]
    assert again.cases(again.score(topic, SETTINGS)).equals(cases)
    assert model.embedded == 4 + len(nonsense.NONSENSE) * nonsense.N_LINES
    app = AppStore(tmp_path)
    assert known_chance(app, store, 2, SETTINGS) is not None
    assert known_chance(app, store, 20, SETTINGS) is None
    assert known_chance(app, store, 2, ScoreSettings(min_prompts=5, summary="max")) is None


def test_what_was_measured_is_forgotten_when_the_store_is_rebuilt(store: Store, tmp_path: Path) -> None:
    scorer = Scorer(store, RandomEmbeddings())  # type: ignore[arg-type]
    scorer.chance(1, SETTINGS)
    app = AppStore(tmp_path)
    assert known_chance(app, store, 1, SETTINGS) is not None
    store.meta["fingerprint"] = "another"
    assert known_chance(app, store, 1, SETTINGS) is None
    scorer.chance(2, SETTINGS)
    kept = app.result("tiny", nonsense.TABLE)
    assert kept is not None
    assert kept["key"].str.startswith(f"another-{nonsense._RULE} 2 ").all()


def test_two_measurements_are_equal_and_random_topics_stand_within_the_level(store: Store) -> None:
    model = RandomEmbeddings()
    first, second = (nonsense.measure_chance(store, model, 1, SETTINGS) for _ in range(2))  # type: ignore[arg-type]
    for side in SIDES:
        np.testing.assert_array_equal(first.tails[side].values, second.tails[side].values)
    assert first.levels == second.levels
