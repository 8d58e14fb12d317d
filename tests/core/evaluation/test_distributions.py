"""Quantiles, tau and the tables by hand, and on a tiny GPT-2 against dense sums, loops over pairs, and sae_lens."""

import math
from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.build.pipeline import build
from core.catalog import find_setup
from core.evaluation.distributions import (
    FEW_PROMPTS,
    GROUPS,
    N_DRAWS,
    N_QUANTILES,
    RANKINGS,
    STRAWMAN,
    Draws,
    agreement,
    draws,
    draws_agreement,
    formats,
    quantiles,
    spread,
    tau_table,
    with_mean,
)
from core.evaluation.experiments import ALL_TOPICS, ExperimentOptions
from core.evaluation.running import run_and_save
from core.results.app_store import AppStore
from core.scoring.scores import TopicScores
from core.settings import ScoreSettings
from core.steering.workbench import Workbench, open_workbench
from core.store.reader import Store
from core.text.prompts import Topic, bundled_topics
from tests.core.scoring.test_scores import dense_reference
from tests.fixtures.dense_activations import dense_activations
from tests.fixtures.stores import Dense

LAW = bundled_topics()["law"]
SOUP = Topic("typed", "Soup", ("Soup and bread.", "A pan of beans."))
FIGURES = ("mean", "lowest", "highest", "lower_quartile", "median", "upper_quartile")


def some_scores(score: list[float], g: list[float]) -> TopicScores:
    table = pd.DataFrame({"neuron": range(len(score)), "score": score, "g": g})
    return TopicScores(table, np.zeros(1, dtype=np.float32), ScoreSettings())


# neuron 2 is too rare: it has g but no score
HAND = some_scores([1.0, 0.0, math.nan, 0.5, 0.75, 0.25], [0.8, 1.2, 0.1, 1.0, 0.9, 1.1])


def test_spread_by_hand() -> None:
    assert spread(HAND) == {
        "n_scored": 5,
        **dict(zip([f"score_{name}" for name in FIGURES], [0.5, 0.0, 1.0, 0.25, 0.5, 0.75], strict=True)),
        **{f"g_{name}": pytest.approx(g) for name, g in zip(FIGURES, [1.0, 0.8, 1.2, 0.9, 1.0, 1.1], strict=True)},
    }


def test_quantiles_by_hand() -> None:
    table = quantiles(HAND)
    assert len(table) == N_QUANTILES
    np.testing.assert_allclose(table["score"], table["quantile"])  # these scores are evenly spaced
    np.testing.assert_allclose(table["g"], 1.2 - 0.4 * table["quantile"])


def test_quantiles_keep_the_distribution() -> None:
    score = np.random.default_rng(0).beta(2, 5, 4_000)
    score = (score - score.min()) / np.ptp(score)
    thin = quantiles(some_scores(score.tolist(), (1.3 - score).tolist()))["score"].to_numpy()
    assert thin.mean() == pytest.approx(score.mean(), abs=2e-3)
    assert thin.std() == pytest.approx(score.std(), abs=5e-3)
    for at in (0.1, 0.3, 0.6):
        assert (thin <= at).mean() == pytest.approx((score <= at).mean(), abs=1 / N_QUANTILES)


def pairwise_tau(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall's tau-b from its definition, pair by pair."""
    a, b = (np.sign(values[:, None] - values[None, :])[np.triu_indices(len(values), 1)] for values in (first, second))
    untied = math.sqrt((a != 0).sum() * (b != 0).sum())
    return float((a * b).sum() / untied) if untied else math.nan


def test_tau_by_hand() -> None:
    # of six pairs one is turned round; a tie leaves five of them in `ties`
    rankings = {"up": np.array([1, 2, 3, 4]), "turned": np.array([2, 1, 3, 4]), "ties": np.array([0, 0, 1, 2])}
    table = tau_table(rankings)
    assert table[["first", "second"]].values.tolist() == [["up", "turned"], ["up", "ties"], ["turned", "ties"]]
    assert table["tau"].tolist() == pytest.approx([4 / 6, 5 / math.sqrt(30), 5 / math.sqrt(30)])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_tau_equals_its_definition(pairs: list[tuple[int, int]]) -> None:
    first, second = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    tau = tau_table({"first": first, "second": second})["tau"][0]
    assert tau == pytest.approx(pairwise_tau(first, second), nan_ok=True)


def test_rankings_are_every_summary_and_power() -> None:
    asked = {(settings.summary, settings.distance_power) for settings in RANKINGS.values()}
    assert asked == {(summary, power) for summary in ("sum", "max", "mean", "count") for power in (1, 2, 4)}
    assert len(RANKINGS) == len(asked)
    assert RANKINGS["sum"] == ScoreSettings()
    assert {name: len(pairs) for name, pairs in GROUPS.items()} == {
        "summaries": 6,
        "powers of the distance": 12,
        "all settings": 66,
        "score and strawman": 1,
    }
    assert {name for pairs in GROUPS.values() for pair in pairs for name in pair} <= {*RANKINGS, STRAWMAN}


def test_mean_and_agreement_by_hand() -> None:
    rows = [("a", "sum", "max", 0.5), ("a", "sum", STRAWMAN, -0.25), ("b", "sum", "max", 0.75)]
    rows += [("b", "sum", STRAWMAN, 0.0)]
    by_topic = pd.DataFrame(rows, columns=["topic", "first", "second", "tau"])
    mean = with_mean(by_topic)
    assert mean[mean["topic"] == ALL_TOPICS].values.tolist() == [
        ["all", "sum", "max", 0.625],
        ["all", "sum", STRAWMAN, -0.125],
    ]
    groups = agreement(by_topic).set_index("between")
    assert groups.loc["summaries", ["tau", "lowest", "highest"]].tolist() == [0.625, 0.5, 0.75]
    assert groups.loc["score and strawman", ["tau", "lowest", "highest"]].tolist() == [-0.125, -0.25, 0.0]
    assert math.isnan(groups.loc["powers of the distance", "tau"])


@pytest.mark.parametrize(("n", "expected"), [(20, [6, 20]), (7, [6, 7]), (6, [6]), (1, [1])])
def test_formats_are_six_and_all(n: int, expected: list[int]) -> None:
    assert formats(Topic("", "", ("x",) * n)) == expected


def test_draws_are_random_few_and_seeded() -> None:
    drawn = draws(LAW, 3)
    assert [len(set(few)) for few in drawn] == [FEW_PROMPTS] * N_DRAWS
    assert len({tuple(few) for few in drawn}) == N_DRAWS
    assert [few.tolist() for few in drawn] == [few.tolist() for few in draws(LAW, 3)]
    assert draws(SOUP, 3) == []


def test_draws_are_compared_with_all_prompts_and_each_other() -> None:
    g = [1.0] * 4
    up, turned, down = (some_scores(score, g) for score in ([1, 2, 3, 4], [2, 1, 3, 4], [4, 3, 2, 1]))
    groups = draws_agreement({"law": Draws([up, turned, down], up), "soup": Draws([], up)}).set_index("between")
    assert groups.loc["6 prompts and all"].tolist() == pytest.approx([3, (1 + 4 / 6 - 1) / 3, -1, 1])
    assert groups.loc["two draws of 6 prompts"].tolist() == pytest.approx([3, (4 / 6 - 1 - 4 / 6) / 3, -1, 4 / 6])
    assert draws_agreement({"soup": Draws([], up)}).empty


# ---- on a tiny GPT-2 ----


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, user_setups: Path) -> Iterator[Workbench]:
    root = tmp_path_factory.mktemp("distributions")
    setup = find_setup("gpt2-topk", user_setups)
    build(setup, root)
    with Store.open(root, setup.name) as store:
        yield open_workbench(setup, store)


@pytest.fixture(scope="module")
def results(bench: Workbench, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """The tables as they come back from the app's store."""
    saved = AppStore(tmp_path_factory.mktemp("results"))
    run_and_save("distributions", bench, ExperimentOptions(topics=(LAW, SOUP)), saved, "tiny")
    names = ["distributions", *(f"distributions-{name}" for name in ("quantiles", "tau", "agreement", "draws"))]
    return {name: table for name in names if (table := saved.result("tiny", name)) is not None}


@pytest.fixture(scope="module")
def reference(bench: Workbench, gpt2_folder: Path, sae_folders: Mapping[str, Path]) -> Dense:
    """The reference prompts' activations, dense, by transformers and sae_lens."""
    texts = bench.store.prompts()["text"].tolist()
    rows = [a for _, a in dense_activations(gpt2_folder, sae_folders["gpt2-topk"], texts)]
    padded = np.zeros((len(rows), max(map(len, rows)), rows[0].shape[1]))
    for prompt, a in enumerate(rows):
        padded[prompt, : len(a)] = a
    return Dense(padded, np.array([len(a) for a in rows]), bench.embedding_model.embed(texts))


def expected_scores(
    bench: Workbench, reference: Dense, prompts: tuple[str, ...], settings: ScoreSettings
) -> pd.DataFrame:
    """Scored neurons with score and g, from the dense activations and distances prompt by prompt."""
    topic = bench.embedding_model.embed(prompts).astype(float)
    distances = np.array([min(np.linalg.norm(e - row) for row in topic) for e in reference.embeddings.astype(float)])
    return dense_reference(reference, distances, settings).dropna()


@pytest.mark.parametrize("topic", [LAW, SOUP], ids=lambda topic: topic.name)
def test_distributions_equal_dense_scores(
    topic: Topic, bench: Workbench, reference: Dense, results: dict[str, pd.DataFrame]
) -> None:
    figures, drawn = results["distributions"], results["distributions-quantiles"]
    mine = figures[figures["topic"] == topic.name]
    sizes = [FEW_PROMPTS, 20] if topic is LAW else [2]
    asked = [(summary, n) for n in sizes for summary in ("sum", "max", "mean", "count")]
    assert list(zip(mine["summary"], mine["prompts"], strict=True)) == asked
    for row in mine.to_dict("records"):
        settings = ScoreSettings(summary=row["summary"])
        expected = expected_scores(bench, reference, topic.prompts[: row["prompts"]], settings)
        assert row["n_scored"] == len(expected)
        violin = drawn[
            (drawn["topic"] == topic.name) & (drawn["summary"] == row["summary"]) & (drawn["prompts"] == row["prompts"])
        ]
        assert len(violin) == N_QUANTILES
        for name in ("score", "g"):
            ordered = np.sort(expected[name])
            place = np.arange(N_QUANTILES) / (N_QUANTILES - 1) * (len(ordered) - 1)
            at = np.interp(place, np.arange(len(ordered)), ordered)
            np.testing.assert_allclose(np.sort(violin[name]), at, atol=1e-4)
            assert row[f"{name}_mean"] == pytest.approx(ordered.mean(), abs=1e-4)
            assert (row[f"{name}_lowest"], row[f"{name}_highest"]) == pytest.approx((ordered[0], ordered[-1]), abs=1e-4)
            quartiles = np.interp(np.array([0.25, 0.5, 0.75]) * (len(ordered) - 1), np.arange(len(ordered)), ordered)
            found = [row[f"{name}_{quartile}"] for quartile in ("lower_quartile", "median", "upper_quartile")]
            np.testing.assert_allclose(found, quartiles, atol=1e-4)


def test_draws_equal_dense_scores(bench: Workbench, reference: Dense, results: dict[str, pd.DataFrame]) -> None:
    table = results["distributions-draws"]
    assert table["topic"].tolist() == ["law"] * N_DRAWS  # the other topic has too few prompts
    whole = expected_scores(bench, reference, LAW.prompts, ScoreSettings())["score"]
    for few, row in zip(draws(LAW, 0), table.to_dict("records"), strict=True):
        scored = expected_scores(bench, reference, tuple(LAW.prompts[i] for i in few), ScoreSettings())
        assert row["score_median"] == pytest.approx(scored["score"].median(), abs=1e-4)
        assert row["tau"] == pytest.approx(pairwise_tau(scored["score"].to_numpy(), whole.to_numpy()), abs=2e-3)


@pytest.mark.parametrize("topic", [LAW, SOUP], ids=lambda topic: topic.name)
def test_tau_equals_pairs_of_dense_scores(
    topic: Topic,
    bench: Workbench,
    reference: Dense,
    results: dict[str, pd.DataFrame],
    gpt2_folder: Path,
    sae_folders: Mapping[str, Path],
) -> None:
    expected = {
        name: expected_scores(bench, reference, topic.prompts, settings)["score"] for name, settings in RANKINGS.items()
    }
    tokens = np.concatenate([a for _, a in dense_activations(gpt2_folder, sae_folders["gpt2-topk"], topic.prompts)])
    expected[STRAWMAN] = pd.Series((tokens != 0).mean(axis=0))[expected["sum"].index]
    table = results["distributions-tau"].query("topic == @topic.name").set_index(["first", "second"])["tau"]
    assert len(table) == math.comb(13, 2)
    for first, second in combinations(expected, 2):
        brute = pairwise_tau(expected[first].to_numpy(), expected[second].to_numpy())
        # rounding of the embeddings may turn a pair of neurons that all but tie
        assert table[first, second] == pytest.approx(brute, abs=2e-3)


def test_mean_and_agreement_are_over_the_topics(results: dict[str, pd.DataFrame]) -> None:
    tau = results["distributions-tau"].pivot(index=["first", "second"], columns="topic", values="tau")
    np.testing.assert_allclose(tau[ALL_TOPICS], (tau["law"] + tau["typed"]) / 2)
    groups = results["distributions-agreement"].set_index("between")
    summaries = [tau.loc[pair] for pair in combinations(("sum", "max", "mean", "count"), 2)]
    assert groups.loc["summaries", "tau"] == pytest.approx(np.mean([row[ALL_TOPICS] for row in summaries]))
    assert groups.loc["score and strawman", "tau"] == pytest.approx(tau.loc[("sum", STRAWMAN), ALL_TOPICS])
