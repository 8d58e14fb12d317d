"""Sets of reference prompts: their scores, how they are chosen, coactivation; against loops over raw activations."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import csr_array

from core.errors import ScoringError
from core.evaluation.experiments import ExperimentOptions
from core.evaluation.reference import (
    DISJOINT,
    UNSEEN,
    Comparison,
    Order,
    Reference,
    agreement,
    best,
    by_size,
    coactivation,
    coactivation_sets,
    orders,
    run,
    suggested_sizes,
)
from core.evaluation.reference_sets import contrast, contrastive, farthest_points, in_turns
from core.models.embeddings import distances_to_topic
from core.results.app_store import AppStore
from core.scoring.scorer import Scorer
from core.scoring.scores import score_topic
from core.settings import ScoreSettings
from core.store.reader import Store
from core.text.prompts import Topic, bundled_topics
from tests.fixtures.stores import Dense, random_dense

N_PROMPTS, D_SAE = 80, 14
SETTINGS = ScoreSettings(min_prompts=4)
TOPICS = tuple(Topic(name, name.title(), (name,)) for name in ("law", "cooking", "sport"))


@dataclass(frozen=True)
class FakeEmbeddings:
    """A fixed random direction for every text."""

    d_embedding: int = 8

    def embed(self, texts: tuple[str, ...]) -> np.ndarray:
        rows = np.stack([np.random.default_rng(list(text.encode())).normal(size=self.d_embedding) for text in texts])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def dense() -> Dense:
    return random_dense(21, n_prompts=N_PROMPTS, d_sae=D_SAE)


@pytest.fixture(scope="module")
def store(dense: Dense, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with dense.write(tmp_path_factory.mktemp("reference")) as opened:
        yield opened


@pytest.fixture(scope="module")
def scorer(store: Store) -> Scorer:
    return Scorer(store, FakeEmbeddings())  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def distances(store: Store) -> np.ndarray:
    """[prompt topic] of TOPICS."""
    model = FakeEmbeddings()
    return np.column_stack([distances_to_topic(store.embeddings(), model.embed(topic.prompts)) for topic in TOPICS])


@pytest.fixture(scope="module")
def comparison(store: Store, distances: np.ndarray) -> Comparison:
    return Comparison(Reference(store.summary_matrix(), distances, SETTINGS), TOPICS)


def loop_scores(dense: Dense, prompts: np.ndarray, distances: np.ndarray) -> list[float]:
    """Eq. 1 and 2 over some prompts, number by number; NaN below four prompts."""
    g = []
    for neuron in range(dense.a.shape[2]):
        weight = moment = active_in = 0.0
        for prompt in prompts:
            summed = sum(dense.a[prompt, token, neuron] for token in range(dense.a.shape[1]))
            if summed > 0:
                summary = summed / dense.a[prompt].sum()
                weight, moment, active_in = weight + summary, moment + summary * distances[prompt], active_in + 1
        g.append(moment / weight if active_in >= 4 else np.nan)
    return [(np.nanmax(g) - value) / (np.nanmax(g) - np.nanmin(g)) for value in g]


def loop_tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b, pair by pair, over what both have."""
    both = [(a, b) for a, b in zip(first, second, strict=True) if not np.isnan(a + b)]
    signs = [(np.sign(a[0] - b[0]), np.sign(a[1] - b[1])) for a, b in combinations(both, 2)]
    untied = [sum(x != 0 for x, _ in signs), sum(y != 0 for _, y in signs)]
    return float(sum(x * y for x, y in signs) / np.sqrt(untied[0] * untied[1]))


# ---- scores of a set ----


@pytest.mark.parametrize("size", [20, 45, N_PROMPTS])
def test_scores_of_a_set_equal_loops(size: int, dense: Dense, distances: np.ndarray, comparison: Comparison) -> None:
    prompts = np.random.default_rng(size).permutation(N_PROMPTS)[:size]
    scores = comparison.reference.scores(prompts)
    for topic in range(len(TOPICS)):
        expected = loop_scores(dense, prompts, distances[:, topic].astype(float))
        np.testing.assert_allclose(scores[:, topic], expected, atol=1e-6)
    assert np.isnan(scores).any()  # neuron 0 never fires
    assert np.isfinite(scores).any()


def test_scores_of_the_whole_set_are_those_of_the_store(store: Store, comparison: Comparison) -> None:
    for i, topic in enumerate(TOPICS):
        expected = score_topic(store, FakeEmbeddings().embed(topic.prompts), SETTINGS).table["score"]
        np.testing.assert_allclose(comparison.whole[:, i], expected, atol=1e-9)


@pytest.mark.parametrize("summary", ["max", "mean", "count"])
def test_scores_follow_the_settings(summary: str, store: Store, distances: np.ndarray) -> None:
    settings = ScoreSettings(summary=summary, distance="squared", min_prompts=4)  # type: ignore[arg-type]
    reference = Reference(store.summary_matrix(settings.summary), distances, settings)
    expected = score_topic(store, FakeEmbeddings().embed(TOPICS[1].prompts), settings).table["score"]
    np.testing.assert_allclose(reference.scores(np.arange(N_PROMPTS))[:, 1], expected, atol=1e-6)


def test_set_too_small_for_any_score_has_none(comparison: Comparison) -> None:
    scores = comparison.reference.scores(np.arange(3))
    assert scores.shape == (D_SAE, 3)
    assert np.isnan(scores).all()


# ---- agreement ----


def test_agreement_by_hand() -> None:
    nan = np.nan
    first = np.array([0.9, 0.1, 0.5, nan, 0.7])
    second = np.array([0.8, 0.2, nan, 0.4, 1.0])
    # ranked by both: neurons 0, 1, 4; of their three pairs two agree and one (0 against 4) does not
    assert agreement(first, second, n_scored=4) == {"share": 0.75, "tau": pytest.approx(1 / 3), "top": 0.75}


def test_agreement_without_a_pair_has_no_tau() -> None:
    figures = agreement(np.array([0.5, np.nan]), np.array([1.0, 0.0]), n_scored=2)
    assert np.isnan(figures["tau"])
    assert figures["share"] == 0.5
    assert np.isnan(agreement(np.array([0.5]), np.array([np.nan]), n_scored=1)["top"])


def test_best_are_scored_and_in_order() -> None:
    assert best(np.array([0.2, np.nan, 0.9, 0.2, 1.0]), n=4).tolist() == [4, 2, 0, 3]
    assert best(np.array([0.2, np.nan]), n=4).tolist() == [0]


def test_sets_against_the_whole_equal_loops(dense: Dense, distances: np.ndarray, comparison: Comparison) -> None:
    order = Order("random", 2, np.random.default_rng(4).permutation(N_PROMPTS))
    rows = pd.DataFrame(comparison.sets(order, [30, N_PROMPTS, 2 * N_PROMPTS])).set_index(["size", "topic"])
    for i, topic in enumerate(TOPICS):
        whole = np.array(loop_scores(dense, np.arange(N_PROMPTS), distances[:, i].astype(float)))
        part = np.array(loop_scores(dense, order.prompts[:30], distances[:, i].astype(float)))
        row = rows.loc[30, topic.name]
        assert row["tau"] == pytest.approx(loop_tau(part, whole))
        assert row["share"] == pytest.approx(np.isfinite(part + whole).sum() / np.isfinite(whole).sum())
        assert -1 < row["tau"] < 1
        assert rows.loc[(N_PROMPTS, topic.name), ["share", "tau", "top"]].tolist() == pytest.approx([1, 1, 1])
    assert len(rows) == 6  # no set of more prompts than there are


def test_disjoint_sets_equal_loops(dense: Dense, distances: np.ndarray, comparison: Comparison) -> None:
    order = Order("random", 1, np.random.default_rng(4).permutation(N_PROMPTS))
    rows = pd.DataFrame(comparison.disjoint(order, [40, 41]))
    assert rows["size"].unique().tolist() == [40]
    for i, tau in enumerate(rows["tau"]):
        first, second = (
            np.array(loop_scores(dense, prompts, distances[:, i].astype(float)))
            for prompts in (order.prompts[:40], order.prompts[40:])
        )
        assert tau == pytest.approx(loop_tau(first, second))


def test_unseen_topic_plays_no_part_in_its_own_set(distances: np.ndarray, comparison: Comparison) -> None:
    names = [topic.name for topic in TOPICS]
    rows = pd.DataFrame(comparison.unseen(distances, names, [30]))
    changed = distances.copy()
    changed[:, 0] = changed[::-1, 0]  # another first topic: its own set stays
    again = pd.DataFrame(comparison.unseen(changed, names, [30]))
    assert rows["topic"].tolist() == names
    assert rows["tau"][0] == again["tau"][0]
    assert (rows["tau"][1:] != again["tau"][1:]).all()


# ---- the ways to choose ----


def test_in_turns_by_hand() -> None:
    labels = ["a", "a", "b", "a", "c"]
    assert in_turns(labels, np.array([4, 3, 2, 1, 0])).tolist() == [4, 3, 2, 1, 0]
    assert in_turns(labels, np.array([0, 1, 3, 2, 4])).tolist() == [0, 2, 4, 1, 3]


@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.integers(0, 99))
def test_in_turns_spreads_every_beginning_evenly(labels: list[int], seed: int) -> None:
    order = in_turns(labels, np.random.default_rng(seed).permutation(len(labels)))
    assert sorted(order.tolist()) == list(range(len(labels)))
    for size in range(1, len(labels) + 1):
        taken = [labels[prompt] for prompt in order[:size]]
        left = {labels[prompt] for prompt in order[size:]}
        # a label that still has prompts is at most one behind any other
        assert all(taken.count(label) >= max(map(taken.count, taken)) - 1 for label in left)


def test_farthest_points_are_farthest_from_those_before() -> None:
    e = random_dense(8, n_prompts=30).embeddings.astype(float)
    order = farthest_points(e, 30)
    assert order[0] == np.argmax(e @ e.mean(axis=0))
    assert sorted(order.tolist()) == list(range(30))
    for n in range(1, 30):
        gaps = np.linalg.norm(e[:, None] - e[None, order[:n]], axis=-1).min(axis=1)
        assert gaps[order[n]] == pytest.approx(gaps.max())


def test_farthest_points_take_copies_last() -> None:
    e = np.array([[1, 0], [0, 1], [1, 0], [1, 0], [-1, 0]], dtype=np.float32)
    order = farthest_points(e, 5)
    assert {tuple(e[prompt]) for prompt in order[:3]} == {(1, 0), (0, 1), (-1, 0)}
    assert sorted(order.tolist()) == [0, 1, 2, 3, 4]


def test_contrast_by_hand() -> None:
    nearest, contrasts = contrast(np.array([[0.2, 1.0, 1.2], [1.0, 0.9, 1.1]]))
    assert nearest.tolist() == [0, 1]
    np.testing.assert_allclose(contrasts, [1.1 - 0.2, 1.05 - 0.9])


def test_contrastive_takes_each_topic_in_turn_the_clearest_prompt_first() -> None:
    distances = np.array([[0.5, 1.0], [0.1, 1.0], [0.3, 1.0], [1.0, 0.9], [1.0, 0.2]])
    assert contrastive(distances).tolist() == [1, 4, 2, 3, 0]


def test_orders_take_every_design(store: Store, distances: np.ndarray) -> None:
    tasks = store.prompts()["task"].str.slice(0, 6).tolist()  # "task 0" ... "task 9": prompts by their first digit
    made = orders(store.embeddings(), tasks, distances, seed=3)
    designs = [order.design for order in made]
    assert designs == [*["random"] * 5, *["per task"] * 5, "farthest points", "contrastive"]
    assert all(sorted(order.prompts.tolist()) == list(range(N_PROMPTS)) for order in made)
    for order in made[5:10]:
        assert {tasks[prompt] for prompt in order.prompts[:9]} == set(tasks) - {tasks[order.prompts[9]]}
    assert len({tuple(order.prompts) for order in made}) == len(made)


def test_orders_without_tasks_leave_them_out(store: Store, distances: np.ndarray) -> None:
    made = orders(store.embeddings(), [""] * N_PROMPTS, distances, seed=3)
    assert "per task" not in {order.design for order in made}


# ---- sizes ----

TAU = pd.DataFrame(
    [
        (design, sample, size, topic, share, tau, 0.5)
        for design, size, share, taus in (
            ("random", 64, 0.50, (0.95, 0.95)),  # few neurons scored
            ("random", 128, 0.95, (0.95, 0.91)),
            ("random", 256, 0.97, (0.80, 0.90)),
            ("random", 512, 0.99, (0.96, 0.92)),
            ("contrastive", 64, 0.95, (0.70, 0.40)),
            ("contrastive", 128, 0.95, (0.90, 0.60)),
            ("contrastive", 256, 0.97, (0.85, 0.89)),
            ("contrastive", 512, 0.99, (0.88, 0.90)),
            (DISJOINT, 128, 0.9, (0.90, 0.90)),
            (DISJOINT, 256, 0.9, (0.70, 0.80)),
        )
        for sample in (1, 2)
        for topic, tau in zip(("law", "sport"), taus, strict=True)
    ],
    columns=["design", "sample", "size", "topic", "share", "tau", "top"],
)


def test_by_size_has_the_mean_and_the_ends_of_the_topics() -> None:
    table = by_size(TAU).set_index(["design", "size"])
    row = table.loc[("contrastive", 128)]
    assert row[["tau", "tau_low", "tau_high", "share", "top"]].tolist() == pytest.approx([0.75, 0.6, 0.9, 0.95, 0.5])


def test_suggested_size_is_reached_for_good_and_with_enough_neurons() -> None:
    table = suggested_sizes(TAU).set_index(["rule", "design"])
    # random dips below 0.9 at 256, and scores too few neurons at 64
    assert table.loc[("same", "random"), "size"] == 512
    assert table.loc[("same", "contrastive"), "size"] is pd.NA
    # two disjoint sets of 256 agree by 0.75
    assert table.loc[("reproducible", "random"), ["target", "size"]].tolist() == pytest.approx([0.75, 128])
    assert table.loc[("reproducible", "contrastive"), "size"] == 128
    assert len(table) == 4


def test_suggested_size_without_disjoint_sets_has_one_rule() -> None:
    assert suggested_sizes(TAU[TAU["design"] != DISJOINT])["rule"].unique().tolist() == ["same"]


def test_suggested_sizes_are_kept_as_they_are(tmp_path: Path) -> None:
    results, table = AppStore(tmp_path), suggested_sizes(TAU)
    results.save_result("tiny", "reference-size", table)
    pd.testing.assert_frame_equal(results.result("tiny", "reference-size"), table)


# ---- coactivation ----


def test_coactivation_by_hand() -> None:
    active = csr_array([[1.0, 0, 2, 1], [1, 0, 0, 1], [0, 3, 0, 0], [1, 0, 1, 0]])
    table = coactivation(active, np.array([2, 0, 1]))
    assert table[["rank_first", "first", "rank_second", "second"]].to_numpy().tolist() == [
        [1, 2, 2, 0],
        [1, 2, 3, 1],
        [2, 0, 3, 1],
    ]
    assert table[["prompts_first", "prompts_second", "both"]].to_numpy().tolist() == [[2, 3, 2], [2, 1, 0], [3, 1, 0]]
    assert table["jaccard"].tolist() == [2 / 3, 0, 0]


def test_coactivation_of_one_neuron_is_an_empty_table() -> None:
    assert list(coactivation(csr_array([[1.0]]), np.array([0]))) == list(
        coactivation(csr_array([[1.0, 1.0]]), np.array([0, 1]))
    )


def test_coactivation_equals_loops(dense: Dense, comparison: Comparison) -> None:
    table = comparison.coactivation()
    fires = (dense.a > 0).any(axis=1)
    assert table["topic"].unique().tolist() == [topic.name for topic in TOPICS]
    for row in table.itertuples():
        both = sum(bool(a and b) for a, b in zip(fires[:, row.first], fires[:, row.second], strict=True))
        either = sum(bool(a or b) for a, b in zip(fires[:, row.first], fires[:, row.second], strict=True))
        assert (row.both, row.jaccard) == (both, both / either)


# ---- the whole ----


def test_run_saves_every_table(scorer: Scorer) -> None:
    shares: list[float] = []
    tables = run(
        scorer, ExperimentOptions(topics=(bundled_topics()["medical"], TOPICS[0])), lambda _, s: shares.append(s)
    )
    assert shares == sorted(shares)
    tau = tables["reference-tau"]
    assert list(tau) == ["design", "sample", "size", "topic", "share", "tau", "top"]
    assert tau.groupby("design")["sample"].nunique().to_dict() == {
        "random": 5,
        "per task": 5,
        "farthest points": 1,
        "contrastive": 1,
        UNSEEN: 1,
    }
    assert set(tau["topic"]) == {"medical", "law"}
    assert (tau["size"] == 64).all()
    assert tables["reference-size"]["rule"].tolist() == ["same"] * 5
    assert set(tables["reference-coactivation"]["topic"]) == {"medical", "law"}


def test_run_on_too_few_prompts_says_so(tmp_path: Path) -> None:
    with random_dense(0, n_prompts=40).write(tmp_path) as store:
        scorer = Scorer(store, FakeEmbeddings())  # type: ignore[arg-type]
        with pytest.raises(ScoringError, match="sets of 64 prompts and more are compared, the store has 40"):
            run(scorer, ExperimentOptions(topics=TOPICS))


def test_sets_are_joined_while_their_mean_index_is_high_enough() -> None:
    jaccard = {(7, 3): 0.5, (7, 9): 0.3, (7, 4): 0.0, (3, 9): 0.1, (3, 4): 0.0, (9, 4): 0.1}
    ranks = {7: 1, 3: 2, 9: 3, 4: 4}
    pairs = pd.DataFrame(
        [
            {"rank_first": ranks[a], "first": a, "rank_second": ranks[b], "second": b, "jaccard": value}
            for (a, b), value in jaccard.items()
        ]
    ).sample(frac=1, random_state=0)
    assert coactivation_sets(pairs, 0.4) == [[7, 3]]
    assert coactivation_sets(pairs, 0.19) == [[7, 3, 9]]  # the mean of 0.3 and 0.1
    assert coactivation_sets(pairs, 0.21) == [[7, 3]]
    assert coactivation_sets(pairs, 0.6) == []
    assert coactivation_sets(pairs[:0]) == []
