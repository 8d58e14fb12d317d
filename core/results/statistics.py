"""Means with intervals, as every table reports them. All intervals are made here, by SciPy's bootstrap."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

N_RESAMPLES = 9_999
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and its 95% bootstrap interval over n values."""

    mean: float
    low: float
    high: float
    n: int


def bootstrap_mean(values: Sequence[float] | Float[np.ndarray, "value"], seed: int = 0) -> Interval:
    """Mean of the finite values with its percentile bootstrap interval; n/a (NaN) for none, no width for one."""
    finite = np.asarray(values, dtype=np.float64)
    finite = finite[np.isfinite(finite)]
    if not len(finite):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    mean = float(finite.mean())
    if len(finite) == 1 or np.ptp(finite) == 0:
        return Interval(mean, mean, mean, len(finite))
    low, high = _percentile_interval((finite,), np.mean, N_RESAMPLES, seed)
    return Interval(mean, low, high, len(finite))


def paired_difference(
    first: Sequence[float] | Float[np.ndarray, "pair"],
    second: Sequence[float] | Float[np.ndarray, "pair"],
    seed: int = 0,
) -> Interval:
    """Mean of first - second over pairs (the same prompt, the same seed), with its bootstrap interval."""
    return bootstrap_mean(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), seed)


def bootstrap_paired(
    first: Float[np.ndarray, "pair"],
    second: Float[np.ndarray, "pair"],
    statistic: Callable[[Float[np.ndarray, "pair"], Float[np.ndarray, "pair"]], float],
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """95% percentile bootstrap interval of a statistic of two paired samples; every resample draws whole pairs.

    Args:
        statistic: called once for each resample.
    """
    return _percentile_interval((first, second), statistic, n_resamples, seed, paired=True, vectorized=False)


def _percentile_interval(
    samples: tuple[Float[np.ndarray, "value"], ...],
    statistic: Callable[..., Any],
    n_resamples: int,
    seed: int,
    **how: bool,
) -> tuple[float, float]:
    found = stats.bootstrap(
        samples, statistic, n_resamples=n_resamples, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(seed), **how,
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)
