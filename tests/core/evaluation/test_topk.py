"""Top-k curves by hand, against brute force over sets, and on a tiny GPT-2 whose SAE sae_lens itself runs."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.build.pipeline import build
from core.catalog import find_setup
from core.errors import ScoringError
from core.evaluation.experiments import ExperimentOptions
from core.evaluation.running import run_and_save
from core.evaluation.topk import (
    LISTED_TOKENS,
    N_SHUFFLES,
    TOKEN_K,
    Dense,
    Firing,
    Ranks,
    ahead,
    area,
    curves,
    fired_tokens,
    firing,
    shuffled_areas,
    thinned,
)
from core.results.app_store import AppStore
from core.scoring.scores import TopicScores
from core.settings import ScoreSettings
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.text.prompts import Topic, bundled_topics, unaligned_prompts
from tests.fixtures.dense_activations import dense_activations
from tests.fixtures.stores import batch_of

# Neurons 0 to 3 have scores 0.2, 1, none, 0.7: ranks 3, 1, 4 (beyond the three scored), 2.
HAND_RANKS = Ranks(np.array([3, 1, 4, 2]), 3)
HAND_ALIGNED = Firing([" a", " b", " a", " c"], np.array([0, 0, 1, 2]), np.array([0, 1, 2, 3]))  # best 1, 4, 2, 4
HAND_UNALIGNED = Firing([" x", " y"], np.array([0, 1]), np.array([0, 2]))  # best 3, 4


def hand_scores() -> TopicScores:
    table = pd.DataFrame({"neuron": range(4), "score": [0.2, 1.0, math.nan, 0.7]})
    return TopicScores(table, np.zeros(1, dtype=np.float32), ScoreSettings())


def test_ranks_go_by_score_and_leave_out_the_unscored() -> None:
    ranks = Ranks.of(hand_scores())
    assert ranks.of_neuron.tolist() == HAND_RANKS.of_neuron.tolist()
    assert ranks.n_scored == 3


def test_curves_by_hand() -> None:
    table = curves(HAND_RANKS, HAND_ALIGNED, HAND_UNALIGNED)
    assert table.to_dict("list") == {
        "k": [1, 2, 3],
        "aligned": [0.25, 0.5, 0.5],  # ranks 1 and 2; rank 3 fires only where rank 1 does
        "unaligned": [0.0, 0.0, 0.5],
        "difference": [0.25, 0.5, 0.0],
        "neurons_aligned": [1.0, 1.0, 1.0],
        "neurons_unaligned": [0.0, 0.0, pytest.approx(1 / 3)],
    }


def test_dense_neurons_are_counted_and_left_out_by_hand() -> None:
    # neuron 1, the best, is active on more than a tenth of the tokens; of the others 3 has rank 2, 0 rank 3
    dense = Dense.of(HAND_RANKS, np.array([0.05, 0.2, 0.0, 0.1]), HAND_ALIGNED, HAND_UNALIGNED)
    assert dense.count.tolist() == [1, 1, 1]
    assert dense.aligned.tolist() == [0.0, 0.25, 0.5]
    assert dense.unaligned.tolist() == [0.0, 0.0, 0.5]
    assert dense.figures(2) == {"dense_2": 1, "difference_sparse_2": 0.25}
    assert all(math.isnan(value) for value in dense.figures(4).values())


def test_area_by_hand() -> None:
    # trapezoids over log k: (0.25 + 0.5) / 2 from 1 to 2, 0.5 / 2 from 2 to 3
    expected = (0.375 * math.log(2) + 0.25 * math.log(1.5)) / math.log(3)
    assert area(np.array([0.25, 0.5, 0.0])) == pytest.approx(expected)
    assert area(np.full(500, -0.3)) == pytest.approx(-0.3)
    assert area(np.array([0.75])) == 0.75


def test_tokens_by_hand() -> None:
    table = fired_tokens(HAND_RANKS, HAND_ALIGNED, HAND_UNALIGNED)
    assert table.values.tolist() == [
        [1, "aligned", " a", 1, 2],
        [2, "aligned", " a", 2, 2],
    ]


def test_tokens_are_the_most_frequent() -> None:
    words = [f" w{i}" for i in range(LISTED_TOKENS + 5)]
    tokens = [word for i, word in enumerate(words) for _ in range(i + 1)]
    text = Firing(tokens, np.arange(len(tokens)), np.zeros(len(tokens), dtype=int))
    table = fired_tokens(Ranks(np.array([1]), 1), text, from_sets([set()]))
    mine = table[table["text"] == "aligned"]
    assert mine["token"].tolist() == words[::-1][:LISTED_TOKENS]
    assert mine["times"].tolist() == list(range(LISTED_TOKENS + 5, 5, -1))


def test_firing_joins_batches() -> None:
    first = batch_of({2: [" a", " b"], 0: [" c"]}, [(2, 1, 7, 1.0), (0, 0, 3, 2.0)])
    second = batch_of({1: [" d"]}, [(1, 0, 3, -1.0)])  # AbsTopK: negative is active too
    found = firing([first, second])  # type: ignore[list-item]
    pairs = [(found.tokens[t], n) for t, n in zip(found.token.tolist(), found.neuron.tolist(), strict=True)]
    assert found.tokens == [" a", " b", " c", " d"]
    assert pairs == [(" b", 7), (" c", 3), (" d", 3)]


def test_prompts_without_a_token_are_refused() -> None:
    with pytest.raises(ScoringError, match="no token of their own"):
        firing([batch_of({0: []}, [])])  # type: ignore[list-item]


def brute_force(order: Sequence[int], tokens: Sequence[set[int]], k: int) -> tuple[float, float]:
    """The shares of tokens and of neurons at k: `tokens` are the neurons that fire on each, `order` the ranking."""
    best = set(order[:k])
    return sum(bool(best & token) for token in tokens) / len(tokens), len(best & set().union(*tokens)) / k


def from_sets(tokens: Sequence[set[int]]) -> Firing:
    pairs = [(t, neuron) for t, neurons in enumerate(tokens) for neuron in sorted(neurons)]
    columns = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return Firing([f" {t}" for t in range(len(tokens))], columns[:, 0], columns[:, 1])


texts = st.lists(st.sets(st.integers(0, 8)), min_size=1, max_size=12)


@given(st.permutations(range(9)), st.integers(1, 9), texts, texts)
def test_curves_equal_brute_force(order: list[int], n_scored: int, aligned: list[set], unaligned: list[set]) -> None:
    order = order[:n_scored]
    of_neuron = np.full(9, n_scored + 1)
    of_neuron[order] = np.arange(1, n_scored + 1)
    table = curves(Ranks(of_neuron, n_scored), from_sets(aligned), from_sets(unaligned))
    for row in table.itertuples():
        assert (row.aligned, row.neurons_aligned) == pytest.approx(brute_force(order, aligned, row.k))
        assert (row.unaligned, row.neurons_unaligned) == pytest.approx(brute_force(order, unaligned, row.k))
        assert row.difference == pytest.approx(row.aligned - row.unaligned)
    assert table["aligned"].is_monotonic_increasing
    assert -1 <= area(table["difference"].to_numpy()) <= 1


def test_shuffles_deal_the_same_ranks_to_the_scored() -> None:
    ranks = Ranks(np.array([2, 5, 1, 3, 5, 4]), 4)
    dealt = [ranks.shuffled(seed).of_neuron for seed in range(10)]
    assert all(d[[1, 4]].tolist() == [5, 5] for d in dealt)
    assert all(sorted(d[[0, 2, 3, 5]].tolist()) == [1, 2, 3, 4] for d in dealt)
    assert len({tuple(d) for d in dealt}) > 1
    assert (ranks.shuffled(3).of_neuron == dealt[3]).all()


def test_shuffled_areas_of_equal_texts_are_zero() -> None:
    text = from_sets([{0, 3}, {1}, set(), {2, 5}])
    chance = shuffled_areas(Ranks(np.arange(1, 7), 6), text, text)
    assert chance.tolist() == [0.0] * N_SHUFFLES


def test_shuffled_areas_are_those_of_the_shuffled_ranks() -> None:
    ranks = Ranks(np.array([2, 5, 1, 3, 5, 4]), 4)
    aligned, unaligned = from_sets([{0, 3}, {1}, {5}]), from_sets([{2}, set(), {4, 5}])
    chance = shuffled_areas(ranks, aligned, unaligned, seed=3)
    assert len(chance) == N_SHUFFLES
    assert len(set(chance)) > 1
    for number in (0, 7):
        dealt = curves(ranks.shuffled(3 + number), aligned, unaligned)
        assert chance[number] == area(dealt["difference"].to_numpy())


@pytest.mark.parametrize("last", [1, 3, 15, 16, 17, 63, 64, 100, 30_000])
def test_thinned_keeps_the_first_the_shown_and_the_last(last: int) -> None:
    k = thinned(pd.DataFrame({"k": np.arange(1, last + 1)}))["k"].tolist()
    assert k == sorted(set(k))
    assert {*range(1, min(16, last) + 1), last} <= set(k)
    assert (64 in k) == (last >= 64)
    assert len(k) <= 80


def test_ahead_counts_only_topics_with_that_many_neurons() -> None:
    summary = pd.DataFrame({"difference_4": [0.5, -0.1, 0.0], "difference_16": [0.25, 0.125, math.nan]})
    table = ahead(summary.assign(difference_64=math.nan))
    assert table[["k", "ahead", "topics"]].values.tolist() == [[4, 1, 3], [16, 2, 2], [64, 0, 0]]
    assert table["mean_difference"].tolist()[:2] == [pytest.approx(0.4 / 3), 0.1875]


# ---- on a tiny GPT-2: everything again from transformers and sae_lens, with sets ----

TOPICS = (bundled_topics()["law"], Topic("typed", "Soup", ("Soup and bread.",)))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Iterator[Workbench]:
    root = tmp_path_factory.mktemp("topk")
    setup = find_setup("gpt2-topk", user_setups)
    build(setup, root)
    with Store.open(root, setup.name) as store:
        yield open_workbench(setup, store)


@pytest.fixture(scope="module")
def results(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The tables as they come back from the app's store."""
    saved = AppStore(tmp_path_factory.mktemp("results"))
    run_and_save("topk", bench, ExperimentOptions(topics=TOPICS), saved, "tiny")
    names = ("topk", "topk-summary", "topk-ahead", "topk-tokens")
    return {name: table for name in names if (table := saved.result("tiny", name)) is not None}


Text = tuple[list[str], list[set[int]]]  # tokens, and the neurons that fire on each
ReadText = Callable[[Sequence[str]], Text]


@pytest.fixture(scope="module")
def read_text(gpt2_folder: Path, sae_folders: Mapping[str, Path]) -> ReadText:
    def read(prompts: Sequence[str]) -> Text:
        tokens, active = [], []
        for words, a in dense_activations(gpt2_folder, sae_folders["gpt2-topk"], prompts):
            tokens += words
            active += [set(np.flatnonzero(row).tolist()) for row in a]
        return tokens, active

    return read


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_every_number_equals_brute_force(
    topic: Topic, bench: Workbench, results: dict[str, pd.DataFrame], read_text: ReadText
) -> None:
    scores = bench.score(topic).scores.table
    order = sorted(scores["neuron"][scores["score"].notna()], key=lambda i: (-scores["score"][i], i))
    aligned, unaligned = read_text(topic.prompts), read_text(unaligned_prompts())
    every = {
        k: (*brute_force(order, aligned[1], k), *brute_force(order, unaligned[1], k)) for k in range(1, len(order) + 1)
    }

    saved = {name: table[table["topic"] == topic.name] for name, table in results.items() if "topic" in table}
    for row in saved["topk"].itertuples():
        found = (row.aligned, row.neurons_aligned, row.unaligned, row.neurons_unaligned)
        assert found == pytest.approx(every[row.k])
        assert row.difference == pytest.approx(every[row.k][0] - every[row.k][2])
    assert saved["topk"]["k"].tolist()[-1] == len(order)

    difference = [at[0] - at[2] for at in every.values()]
    trapezoids = [(a + b) / 2 * math.log((k + 1) / k) for k, (a, b) in enumerate(pairwise(difference), start=1)]
    summary = saved["topk-summary"].iloc[0]
    assert summary["n_scored"] == len(order)
    assert summary["area"] == pytest.approx(sum(trapezoids) / math.log(len(order)))
    assert summary["area_linear"] == pytest.approx(sum(difference) / len(difference))
    for k in (4, 16, 64):
        assert summary[f"difference_{k}"] == pytest.approx(difference[k - 1])
    assert (summary["tokens_aligned"], summary["tokens_unaligned"]) == (len(aligned[0]), len(unaligned[0]))

    _check_tokens(saved["topk-tokens"], order, {"aligned": aligned, "unaligned": unaligned})


def _check_tokens(table: pd.DataFrame, order: Sequence[int], texts: Mapping[str, Text]) -> None:
    assert sorted(set(table["k"])) == [k for k in TOKEN_K if k <= len(order)]
    for (k, name), rows in table.groupby(["k", "text"]):
        tokens, active = texts[name]
        fired = Counter(token for token, neurons in zip(tokens, active, strict=True) if neurons & set(order[: int(k)]))
        assert {row.token: row.times for row in rows.itertuples()}.items() <= fired.items()
        assert len(rows) == min(LISTED_TOKENS, len(fired))
        assert sorted(rows["times"], reverse=True) == sorted(fired.values(), reverse=True)[:LISTED_TOKENS]
        assert rows["occurrences"].tolist() == [tokens.count(token) for token in rows["token"]]


def test_ahead_sums_up_the_topics(results: dict[str, pd.DataFrame]) -> None:
    summary = results["topk-summary"]
    for row in results["topk-ahead"].itertuples():
        assert row.ahead == sum(summary[f"difference_{row.k}"] > 0)
        assert row.topics == 2


def test_run_tells_its_progress(bench: Workbench, tmp_path: Path) -> None:
    told: list[tuple[str, float]] = []
    run_and_save(
        "topk", bench, ExperimentOptions(topics=TOPICS), AppStore(tmp_path), "tiny", lambda *now: told.append(now)
    )
    assert told == [("Law", 0.0), ("Soup", 0.5), ("done", 1.0)]
