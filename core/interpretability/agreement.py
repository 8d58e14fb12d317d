"""What ratings say together: how many neurons can be read, and how far raters agree (FAST paper, section 5, Fig. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from core.interpretability.rubric import HIGH, RUBRIC
from core.results.statistics import bootstrap_mean, bootstrap_paired

SCORES = sorted(RUBRIC)
RATER = ["kind", "rater"]
_SHARE_COLUMNS = (
    *("setup", "source", *RATER, "n", "unanswered", "mean", "share_4_5", "low", "high", "below_3"),
    *(f"share_{score}" for score in SCORES),
)
_ENDS = ("", "_low", "_high")  # of a figure with its interval
_RESAMPLES = 999  # of kappa: each takes a table of its own


def current(ratings: pd.DataFrame, fingerprints: Mapping[str, str]) -> pd.DataFrame:
    """The ratings of these setups as they are now, without those of an earlier SAE of the same name.

    Args:
        fingerprints: of the setups' stores, by setup.
    """
    return ratings[ratings["setup"].map(fingerprints) == ratings["fingerprint"]].reset_index(drop=True)


def shares(ratings: pd.DataFrame) -> pd.DataFrame:
    """One row per setup, source of contexts and rater: how its neurons are rated.

    Args:
        ratings: see `RatingStore.ratings`.

    Returns:
        setup, source, kind, rater, n (neurons with a score), unanswered, mean, share_4_5 with its 95% bootstrap
        interval (low, high), below_3, and share_1 to share_5.
    """
    rows = []
    for key, group in ratings.groupby(["setup", "source", *RATER], sort=False):
        scores = group["score"].dropna().to_numpy(dtype=float)
        high = bootstrap_mean(scores >= HIGH)
        line = dict(zip(("setup", "source", *RATER), key, strict=True))
        line |= {"n": len(scores), "unanswered": int(group["score"].isna().sum())}
        line |= {"mean": _mean(scores), "share_4_5": high.mean, "low": high.low, "high": high.high}
        line |= {"below_3": _mean(scores < 3)}
        rows.append(line | {f"share_{score}": _mean(scores == score) for score in SCORES})
    return pd.DataFrame(rows, columns=[*_SHARE_COLUMNS])


def rater_names(table: pd.DataFrame) -> pd.Series:
    """A judge by its model's name, a person as `NAME (person)`."""
    return table["rater"].where(table["kind"] == "judge", table["rater"] + " (person)")


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")


def kappa(first: Int[np.ndarray, "neuron"], second: Int[np.ndarray, "neuron"], *, weighted: bool = False) -> float:
    """Cohen's kappa of two raters' scores, 1 to 5: 1 agree wholly, 0 as by chance; NaN where chance agrees wholly.

    Args:
        weighted: a disagreement counts by the square of its distance (Cohen 1968), else as much as any other.
    """
    observed = np.zeros((len(SCORES), len(SCORES)))
    np.add.at(observed, (np.asarray(first, dtype=int) - 1, np.asarray(second, dtype=int) - 1), 1 / len(first))
    expected = np.outer(observed.sum(1), observed.sum(0))
    weights = _weights(weighted=weighted)
    by_chance = float((weights * expected).sum())
    return 1 - float((weights * observed).sum()) / by_chance if by_chance else float("nan")


def _weights(*, weighted: bool) -> Float[np.ndarray, "score score"]:
    distance = np.abs(np.subtract.outer(SCORES, SCORES)).astype(float)
    return distance**2 if weighted else (distance > 0).astype(float)


def agreement(ratings: pd.DataFrame) -> pd.DataFrame:
    """One row per two raters who rated the same neurons, on all setups together.

    Returns:
        first, second (see `rater_names`), n (neurons that both rated), same (share with one score), kappa
        and kappa_weighted (quadratic weights) with their 95% bootstrap intervals, and the difference of their means.
    """
    valid = ratings.dropna(subset="score")
    named = valid.assign(name=rater_names(valid))
    scores = named.pivot_table(index=["setup", "neuron", "question"], columns="name", values="score", aggfunc="last")
    rows = []
    for first, second in combinations(scores.columns, 2):
        both = scores[[first, second]].dropna().astype(int)
        if both.empty:
            continue
        a, b = both[first].to_numpy(), both[second].to_numpy()
        line: dict[str, object] = {"first": first, "second": second, "n": len(both), "same": float((a == b).mean())}
        for name, weighted in (("kappa", False), ("kappa_weighted", True)):
            low, high = _interval(a, b, weighted=weighted)
            line |= {name: kappa(a, b, weighted=weighted), f"{name}_low": low, f"{name}_high": high}
        rows.append(line | {"difference": float(a.mean() - b.mean())})
    columns = ["first", "second", "n", "same", *(f"{k}{end}" for k in ("kappa", "kappa_weighted") for end in _ENDS)]
    return pd.DataFrame(rows, columns=[*columns, "difference"])


def _interval(
    first: Int[np.ndarray, "neuron"], second: Int[np.ndarray, "neuron"], *, weighted: bool
) -> tuple[float, float]:
    if len(first) < 2 or np.isnan(kappa(first, second, weighted=weighted)):
        return float("nan"), float("nan")

    def resampled(a: Int[np.ndarray, "neuron"], b: Int[np.ndarray, "neuron"]) -> float:
        return float(np.nan_to_num(kappa(a, b, weighted=weighted), nan=1.0))  # one score throughout: they agree

    return bootstrap_paired(first, second, resampled, _RESAMPLES)
