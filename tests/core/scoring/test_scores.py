"""Scores: by hand, against a dense numpy reference, and the properties that the method promises."""

import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import ScoringError
from core.scoring.scores import TopicScores, score_topic, scores_from_sums, strawman
from core.settings import Distance, ScoreSettings, Summary, Variant
from core.store.reader import Store
from tests.fixtures.stores import Dense, batch_of, hand_store, random_dense

SUMMARIES: list[Summary] = ["sum", "max", "mean", "count"]
DISTANCES: list[Distance] = ["euclidean", "squared"]
VARIANTS: list[Variant] = ["mean", "variance"]


@pytest.fixture(scope="module")
def dense() -> Dense:
    return random_dense(11, n_prompts=50, d_sae=16)


@pytest.fixture(scope="module")
def store(dense: Dense, tmp_path_factory: pytest.TempPathFactory):
    with dense.write(tmp_path_factory.mktemp("scores")) as opened:
        yield opened


@pytest.fixture(scope="module")
def topic(dense: Dense) -> np.ndarray:
    """Three prompts of the topic, one of them a reference prompt."""
    rows = np.random.default_rng(2).normal(size=(3, dense.embeddings.shape[1]))
    rows[1] = dense.embeddings[7]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def dense_reference(dense: Dense, distances: np.ndarray, options: ScoreSettings) -> pd.DataFrame:
    """Scores straight from the paper's sums over a dense array; knows nothing of the store."""
    a, n_tokens = dense.a, dense.n_tokens[:, None].astype(float)
    totals = a.sum(axis=(1, 2))[:, None]
    summary = {
        "sum": np.divide(a.sum(axis=1), totals, out=np.zeros_like(a[:, 0]), where=totals > 0),
        "max": a.max(axis=1),
        "mean": a.sum(axis=1) / n_tokens,
        "count": (a > 0).sum(axis=1) / n_tokens,
    }[options.summary]
    d = distances.astype(float) ** (2 if options.distance == "squared" else 1)
    d = d**2 if options.variant == "variance" else d
    prompts = (summary > 0).sum(axis=0)
    with np.errstate(invalid="ignore"):
        g = (summary * d[:, None]).sum(axis=0) / summary.sum(axis=0)
    scored = prompts >= options.min_prompts
    highest, lowest = g[scored].max(), g[scored].min()
    score = np.where(scored, (highest - g) / (highest - lowest), np.nan)
    return pd.DataFrame({"score": score, "g": g, "prompts": prompts})


# ---- by hand ----


def test_strawman_by_hand() -> None:
    first = batch_of(
        {0: [" a", " b"]}, [(0, 0, 1, 2.0), (0, 1, 1, 0.5), (0, 1, 3, -1.0)]
    )  # AbsTopK: negative fires too
    second = batch_of({1: [" c", " d", " e"]}, [(1, 2, 1, 1.0)])
    assert strawman([first, second], 5).tolist() == [0.0, 0.6, 0.0, 0.2, 0.0]  # type: ignore[list-item]


def test_strawman_of_no_token_is_refused() -> None:
    with pytest.raises(ScoringError, match="no token of their own"):
        strawman([batch_of({0: []}, [])], 5)  # type: ignore[list-item]


def test_scores_by_hand(tmp_path: Path) -> None:
    hand_store(tmp_path)
    # the topic lies at (0.6, 0.8): sqrt(0.8), sqrt(0.4) and sqrt(3.2) from the three prompts
    with Store.open(tmp_path, "tiny") as store:
        scores = score_topic(store, np.array([[0.6, 0.8]], dtype=np.float32), ScoreSettings(min_prompts=1))
    near, mid, far = np.sqrt([0.4, 0.8, 3.2])
    np.testing.assert_allclose(scores.distances, [mid, near, far], rtol=1e-6)
    g = [(0.75 * mid + 0.125 * near) / 0.875, (0.25 * mid + 0.75 * near + far) / 2, near]
    np.testing.assert_allclose(scores.table["g"][:3], g, rtol=1e-6)
    np.testing.assert_allclose(scores.table["score"][:3], [(g[1] - g[0]) / (g[1] - g[2]), 0.0, 1.0], rtol=1e-6)
    assert np.isnan(scores.table["score"][3])
    assert np.isnan(scores.table["g"][3])
    assert scores.table["prompts"].tolist() == [2, 3, 1, 0]


def test_rare_neurons_have_g_but_no_score(tmp_path: Path) -> None:
    hand_store(tmp_path)
    with Store.open(tmp_path, "tiny") as store:
        scores = score_topic(store, np.array([[0.6, 0.8]], dtype=np.float32), ScoreSettings(min_prompts=2))
    assert scores.table["score"].isna().tolist() == [False, False, True, True]
    assert scores.table["g"].isna().tolist() == [False, False, False, True]
    # max and min are over scored neurons alone
    assert scores.table["score"].tolist()[:2] == [1.0, 0.0]
    assert scores.steering_vector().tolist() == [1.0, 0.0, 0.0, 0.0]
    assert scores.steering_vector().dtype == np.float32


def sums(g: list[float], *, prompts: int = 20, near: float = 0.0, far: float = 0.0) -> pd.DataFrame:
    n = len(g)
    return pd.DataFrame({"neuron": range(n), "prompts": [prompts] * n, "g": g, "near": [near] * n, "far": [far] * n})


def test_closest_neuron_has_one_although_eq_2_prints_zero() -> None:
    assert scores_from_sums(sums([0.5, 0.9, 1.3]), 3, 20)["score"].tolist() == pytest.approx([1.0, 0.5, 0.0])


@pytest.mark.parametrize("g", [[0.7], [0.7, 0.7, 0.7], [0.7, 0.7 + 1e-15, 0.7 - 1e-15], [0.0, 0.0]])
def test_equal_g_score_one(g: list[float]) -> None:
    assert scores_from_sums(sums(g), len(g) + 1, 20)["score"].tolist()[:-1] == [1.0] * len(g)


def test_no_scored_neuron_is_an_error() -> None:
    message = "a score needs a neuron active in at least 20 reference prompts, the busiest has 19; lower min_prompts"
    with pytest.raises(ScoringError, match=message):
        scores_from_sums(sums([0.5, 0.6], prompts=19), 4, 20)
    with pytest.raises(ScoringError, match="the busiest has 0"):
        scores_from_sums(sums([]), 4, 20)


def test_dense_neurons_have_no_score() -> None:
    dense = np.array([False, True, False])
    assert scores_from_sums(sums([0.5, 0.1, 1.5]), 3, 20, dense)["score"].tolist()[::2] == [1.0, 0.0]
    assert np.isnan(scores_from_sums(sums([0.5, 0.1, 1.5]), 3, 20, dense)["score"][1])
    with pytest.raises(ScoringError, match="larger share of tokens than max_density; raise it"):
        scores_from_sums(sums([0.5]), 1, 20, np.array([True]))


def test_max_density_leaves_out_what_is_active_on_more_tokens(store: Store, dense: Dense, topic: np.ndarray) -> None:
    density = (dense.a > 0).sum(axis=(0, 1)) / dense.n_tokens.sum()
    np.testing.assert_allclose(store.density(), density)
    limit = float(np.median(density))
    plain, limited = (
        score_topic(store, topic, ScoreSettings(min_prompts=5, max_density=share)).table for share in (None, limit)
    )
    assert limited["score"].notna().tolist() == (plain["score"].notna() & (density <= limit)).tolist()
    assert 0 < limited["score"].notna().sum() < plain["score"].notna().sum()
    np.testing.assert_array_equal(limited["g"], plain["g"])


def test_standing_is_the_second_best_score_and_the_median() -> None:
    scores = TopicScores(scores_from_sums(sums([0.5, 0.9, 1.3]), 4, 20), np.zeros(1, dtype=np.float32), ScoreSettings())
    assert scores.standing() == pytest.approx((0.5, 0.5))
    alone = TopicScores(scores_from_sums(sums([0.5]), 1, 20), np.zeros(1, dtype=np.float32), ScoreSettings())
    assert alone.standing() == (1.0, 1.0)


def test_embeddings_of_another_model_are_refused(store: Store) -> None:
    with pytest.raises(ScoringError, match=r"have 8 dimensions \(fake\), the topic's have shape \(1, 5\)"):
        score_topic(store, np.ones((1, 5), dtype=np.float32))


def test_ranked_is_best_first_and_equal_scores_go_by_number() -> None:
    table = scores_from_sums(sums([0.9, 0.5, 0.9, 0.5, 1.4]), 6, 20)
    scores = TopicScores(table, np.zeros(1, dtype=np.float32), ScoreSettings())
    assert scores.ranked()["neuron"].tolist() == [1, 3, 0, 2, 4]
    assert scores.ranked()["rank"].tolist() == [1, 2, 3, 4, 5]
    assert scores.ranked(2)["neuron"].tolist() == [1, 3]
    assert "rank" not in scores.table


# ---- against the reference ----


@pytest.mark.parametrize("summary", SUMMARIES)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_scores_equal_dense_reference(
    store: Store, dense: Dense, topic: np.ndarray, summary: Summary, distance: Distance, variant: Variant
) -> None:
    options = ScoreSettings(summary=summary, distance=distance, variant=variant, min_prompts=5)
    scores = score_topic(store, topic, options)
    gaps = dense.embeddings[:, None].astype(float) - topic[None].astype(float)
    distances = np.sqrt((gaps**2).sum(axis=-1)).min(axis=1)
    np.testing.assert_allclose(scores.distances, distances, atol=1e-6)
    expected = dense_reference(dense, scores.distances, options)
    for column in ("score", "g", "prompts"):
        np.testing.assert_allclose(scores.table[column], expected[column], rtol=1e-5, atol=1e-6, equal_nan=True)
    assert 2 <= scores.table["score"].notna().sum() < len(scores.table)


@pytest.mark.parametrize("summary", SUMMARIES)
def test_near_and_far_equal_dense_reference(store: Store, dense: Dense, topic: np.ndarray, summary: Summary) -> None:
    scores = score_topic(store, topic, ScoreSettings(summary=summary, min_prompts=1))
    a, n_tokens = dense.a, dense.n_tokens[:, None].astype(float)
    values = {
        "sum": a.sum(axis=1) / np.maximum(a.sum(axis=(1, 2)), 1e-30)[:, None],
        "max": a.max(axis=1),
        "mean": a.sum(axis=1) / n_tokens,
        "count": (a > 0).sum(axis=1) / n_tokens,
    }[summary]
    order = np.argsort(scores.distances)
    quarter = len(order) // 4 + 1  # with 50 prompts the 0.25 quantile lies between the 13th and the 14th
    active = values.sum(axis=0) > 0
    for column, chosen in (("near", order[:quarter]), ("far", order[-quarter:])):
        share = values[chosen].sum(axis=0)[active] / values.sum(axis=0)[active]
        np.testing.assert_allclose(scores.table[column][active], share, rtol=1e-5)


@pytest.mark.parametrize("summary", SUMMARIES)
def test_variance_equals_squared_distance_and_cosine(
    store: Store, dense: Dense, topic: np.ndarray, summary: Summary
) -> None:
    variance = score_topic(store, topic, ScoreSettings(summary=summary, variant="variance", min_prompts=5))
    squared = score_topic(store, topic, ScoreSettings(summary=summary, distance="squared", min_prompts=5))
    np.testing.assert_allclose(variance.table["g"], squared.table["g"], rtol=1e-12)
    np.testing.assert_allclose(variance.table["score"], squared.table["score"], rtol=1e-9, atol=1e-12)
    # cosine distance is dist^2 / 2 on unit vectors; scores do not see the factor
    cosine = (1 - dense.embeddings.astype(float) @ topic.T.astype(float)).min(axis=1)
    by_cosine = scores_from_sums(store.neuron_sums(cosine, ScoreSettings(summary=summary)), store.d_sae, min_prompts=5)
    np.testing.assert_allclose(squared.table["score"], by_cosine["score"], atol=1e-5)


# ---- properties ----

options_strategy = st.builds(
    ScoreSettings,
    summary=st.sampled_from(SUMMARIES),
    distance=st.sampled_from(DISTANCES),
    variant=st.sampled_from(VARIANTS),
    min_prompts=st.integers(1, 12),
)
cases = settings(max_examples=8, deadline=None, derandomize=True)


def table_of(dense: Dense, distances: np.ndarray, options: ScoreSettings) -> pd.DataFrame:
    with tempfile.TemporaryDirectory() as folder, dense.write(Path(folder), n_chunks=2) as store:
        return scores_from_sums(store.neuron_sums(distances, options), store.d_sae, options.min_prompts)


@cases
@given(seed=st.integers(0, 10**6), options=options_strategy)
def test_scores_lie_in_0_to_1_and_the_closest_has_1(seed: int, options: ScoreSettings) -> None:
    dense = random_dense(seed, n_prompts=30)
    table = table_of(dense, np.random.default_rng(seed).uniform(0.0, 2.0, 30), options)
    scored = table[table["score"].notna()]
    assert scored["score"].between(0.0, 1.0).all()
    assert table["score"][scored["g"].idxmin()] == 1.0
    assert table["score"][scored["g"].idxmax()] in (0.0, 1.0)
    assert (scored["prompts"] >= options.min_prompts).all()
    assert (table[table["score"].isna()]["prompts"] < options.min_prompts).all()


@cases
@given(seed=st.integers(0, 10**6), options=options_strategy)
def test_scores_do_not_depend_on_the_order_of_prompts_and_neurons(seed: int, options: ScoreSettings) -> None:
    rng = np.random.default_rng(seed)
    dense, distances = random_dense(seed, n_prompts=30), rng.uniform(0.0, 2.0, 30)
    prompts, neurons = rng.permutation(30), rng.permutation(dense.a.shape[-1])
    moved = Dense(dense.a[prompts][..., neurons], dense.n_tokens[prompts], dense.embeddings[prompts])
    before, after = table_of(dense, distances, options), table_of(moved, distances[prompts], options)
    np.testing.assert_allclose(after["score"], before["score"][neurons], rtol=1e-6, atol=1e-9)


@cases
@given(
    seed=st.integers(0, 10**6),
    options=options_strategy,
    activation_factor=st.sampled_from([0.25, 2.0, 1024.0]),
    distance_factor=st.floats(0.1, 10.0),
)
def test_scores_do_not_depend_on_scale(
    seed: int, options: ScoreSettings, activation_factor: float, distance_factor: float
) -> None:
    dense, distances = random_dense(seed, n_prompts=30), np.random.default_rng(seed).uniform(0.1, 2.0, 30)
    scaled = Dense(dense.a * activation_factor, dense.n_tokens, dense.embeddings)
    before = table_of(dense, distances, options)
    after = table_of(scaled, distances * distance_factor, options)
    np.testing.assert_allclose(after["score"], before["score"], rtol=1e-6, atol=1e-9)
