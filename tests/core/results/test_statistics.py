import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.results.statistics import bootstrap_mean, bootstrap_paired, paired_difference


def test_bootstrap_mean_covers_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    interval = bootstrap_mean(values)
    half = 1.96 * values.std(ddof=1) / math.sqrt(400)
    assert interval.mean == pytest.approx(values.mean())
    assert interval.low == pytest.approx(values.mean() - half, abs=0.03)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.03)
    assert interval.n == 400


def test_bootstrap_mean_leaves_out_what_is_undefined() -> None:
    assert bootstrap_mean([1.0, math.nan, 3.0]).mean == 2.0
    assert bootstrap_mean([1.0, math.nan, 3.0]).n == 2
    assert math.isnan(bootstrap_mean([math.nan]).mean)


def test_paired_difference_of_a_constant_shift_has_no_width() -> None:
    interval = paired_difference([1.0, 5.0, 2.0], [0.5, 4.5, 1.5])
    assert (interval.mean, interval.low, interval.high) == (0.5, 0.5, 0.5)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=12))
def test_bootstrap_mean_lies_between_the_extremes(values: list[float]) -> None:
    interval = bootstrap_mean(values)
    slack = 1e-6 * max(1.0, *map(abs, values))
    assert min(values) - slack <= interval.low <= interval.high + slack <= max(values) + 2 * slack


def test_bootstrap_paired_draws_pairs() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=40), rng.normal(size=40)
    # by hand: both samples by the same places
    places = np.random.default_rng(3).integers(0, 40, (500, 40))
    drawn = [float(np.mean(first[i] * second[i])) for i in places]
    got = bootstrap_paired(first, second, lambda a, b: float(np.mean(a * b)), n_resamples=500, seed=3)
    assert got == pytest.approx(tuple(np.percentile(drawn, [2.5, 97.5])))
