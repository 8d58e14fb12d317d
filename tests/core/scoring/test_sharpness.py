"""Automatic sharpness: worked by hand, and what it must hold for any store."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from core.errors import SettingsError
from core.scoring.sharpness import auto_sharpness, parse_sharpness


def test_half_of_the_active_neurons_change() -> None:
    # active: 0 and 1. Neuron 2 passes neuron 1 where 4 x .5^s < 1, which is s > 2; none passes neuron 0
    mean, score = np.array([8.0, 4.0, 1.0, 0.0]), np.array([1.0, 0.5, 1.0, 1.0])
    assert auto_sharpness(mean, score, 2) == 2.1


def test_scores_that_change_nothing_give_the_largest() -> None:
    assert auto_sharpness(np.array([2.0, 1.0]), np.ones(2), 1) == 10.0


def test_more_neurons_change_with_sharpness_until_half_do() -> None:
    rng = np.random.default_rng(0)
    mean, score = rng.exponential(size=500), rng.uniform(size=500)
    s = auto_sharpness(mean, score, 32)
    before = set(np.argsort(-mean)[:32])
    changed = [32 - len(before.intersection(np.argsort(-mean * score**p)[:32])) for p in (s - 0.1, s)]
    assert changed[0] < 16 <= changed[1]


@given(arrays(float, 20, elements=st.floats(0, 100)), arrays(float, 20, elements=st.floats(0, 1)), st.integers(1, 20))
def test_lies_in_its_range(mean: np.ndarray, score: np.ndarray, k: int) -> None:
    assert 0.1 <= auto_sharpness(mean, score, k) <= 10.0


def test_typed_sharpness() -> None:
    assert (parse_sharpness("2.5"), parse_sharpness(" Auto ")) == (2.5, "auto")
    with pytest.raises(SettingsError, match="sharpness is a number above 0, or auto; not 'strong'"):
        parse_sharpness("strong")
