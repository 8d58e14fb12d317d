"""Means with intervals, as every table reports them."""

from collections.abc import Sequence
from dataclasses import dataclass

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
    result = stats.bootstrap(
        (finite,), np.mean, n_resamples=N_RESAMPLES, confidence_level=CONFIDENCE, method="percentile",
        rng=np.random.default_rng(seed),
    )  # fmt: skip
    return Interval(mean, float(result.confidence_interval.low), float(result.confidence_interval.high), len(finite))


def paired_difference(
    first: Sequence[float] | Float[np.ndarray, "pair"],
    second: Sequence[float] | Float[np.ndarray, "pair"],
    seed: int = 0,
) -> Interval:
    """Mean of first - second over pairs (the same prompt, the same seed), with its bootstrap interval."""
    return bootstrap_mean(np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64), seed)
