"""Shares and kappa, by hand and against scikit-learn's."""

import math

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import cohen_kappa_score

from core.interpretability.agreement import agreement, current, kappa, shares
from core.results.ratings import COLUMNS


def ratings(scores: dict[str, list[int | None]], setup: str = "a", fingerprint: str = "f") -> pd.DataFrame:
    """The same neurons rated by several judges."""
    rows = [
        {"setup": setup, "fingerprint": fingerprint, "source": "texts", "neuron": n, "question": f"q{n}",
         "kind": "judge", "rater": rater, "score": score}
        for rater, own in scores.items()
        for n, score in enumerate(own)
    ]  # fmt: skip
    return pd.DataFrame(rows, columns=COLUMNS).astype({"score": "Int32"})


@pytest.mark.parametrize("seed", range(5))
def test_kappa_equals_that_of_scikit_learn(seed: int) -> None:
    rng = np.random.default_rng(seed)
    first = rng.integers(1, 6, 60)
    second = np.clip(first + rng.integers(-1, 2, 60), 1, 5)
    labels = [1, 2, 3, 4, 5]
    assert kappa(first, second) == pytest.approx(cohen_kappa_score(first, second, labels=labels))
    expected = cohen_kappa_score(first, second, labels=labels, weights="quadratic")
    assert kappa(first, second, weighted=True) == pytest.approx(expected)


def test_kappa_at_its_ends() -> None:
    assert kappa(np.array([1, 2, 5]), np.array([1, 2, 5])) == 1
    assert kappa(np.array([1, 1, 2, 2]), np.array([1, 2, 1, 2])) == 0  # as by chance
    assert kappa(np.array([1, 5]), np.array([5, 1])) < 0
    assert math.isnan(kappa(np.array([3, 3]), np.array([3, 3])))  # nothing else could have come


def test_shares_count_the_neurons_with_a_score() -> None:
    table = shares(ratings({"m": [5, 4, 3, 1, None], "n": [1, 1, 2, 2, 2]})).set_index("rater")
    first = table.loc["m"]
    assert (first["n"], first["unanswered"]) == (4, 1)
    assert (first["share_4_5"], first["below_3"], first["mean"]) == (0.5, 0.25, 3.25)
    assert [first[f"share_{score}"] for score in range(1, 6)] == [0.25, 0, 0.25, 0.25, 0.25]
    assert first["low"] < 0.5 < first["high"]
    assert (table.loc["n", "share_4_5"], table.loc["n", "below_3"]) == (0, 1)


def test_setups_have_rows_of_their_own() -> None:
    table = shares(pd.concat([ratings({"m": [5]}), ratings({"m": [1]}, setup="b")]))
    assert table["share_4_5"].tolist() == [1, 0]
    assert shares(ratings({})).empty


def test_only_the_ratings_of_the_store_that_is_there_count() -> None:
    both = pd.concat([ratings({"m": [5]}), ratings({"m": [1]}, fingerprint="old"), ratings({"m": [2]}, setup="b")])
    assert current(both, {"a": "f"})["score"].tolist() == [5]


def test_agreement_is_over_what_both_rated() -> None:
    table = agreement(ratings({"m": [5, 4, 3, 1, None], "n": [5, 4, 2, 1, 1], "o": [None] * 5}))
    assert len(table) == 1
    line = table.iloc[0]
    assert (line["first"], line["second"], line["n"], line["same"]) == ("m", "n", 4, 0.75)
    assert line["kappa"] == pytest.approx(cohen_kappa_score([5, 4, 3, 1], [5, 4, 2, 1]))
    assert line["kappa_weighted"] > line["kappa"]
    assert line["kappa_low"] <= line["kappa"] <= line["kappa_high"]
    assert line["difference"] == 0.25


def test_one_rater_agrees_with_nobody() -> None:
    assert agreement(ratings({"m": [5, 4]})).empty
    assert agreement(ratings({})).empty
