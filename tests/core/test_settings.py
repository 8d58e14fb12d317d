"""Settings check themselves once; the store's folder comes from the option, the variable, or the default."""

import math
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from core.errors import SettingsError
from core.settings import DEFAULT_STORE, GenerationSettings, ScoreSettings, store_root


def test_score_settings_defaults_are_the_papers() -> None:
    settings = ScoreSettings()
    assert (settings.summary, settings.distance, settings.variant, settings.min_prompts) == (
        "sum",
        "euclidean",
        "mean",
        20,
    )


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"summary": "median"}, "summary is one of sum, max, mean, count, not 'median'"),
        ({"distance": "cosine"}, "distance is one of euclidean, squared, not 'cosine'"),
        ({"variant": "std"}, "variant is one of mean, variance, not 'std'"),
        ({"min_prompts": 0}, "min_prompts is a whole number from 1 up, not 0"),
        ({"min_prompts": 2.5}, "min_prompts is a whole number from 1 up, not 2.5"),
    ],
)
def test_score_settings_refuse(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}$"):
        ScoreSettings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("distance", "variant", "power"),
    [("euclidean", "mean", 1), ("euclidean", "variance", 2), ("squared", "mean", 2), ("squared", "variance", 4)],
)
def test_distance_power(distance: str, variant: str, power: int) -> None:
    assert ScoreSettings(distance=distance, variant=variant).distance_power == power  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is a whole number from 1 up, not 0"),
        ({"top_k": 0}, "top_k is a whole number from 1 up, not 0"),
        ({"top_k": True}, "top_k is a whole number from 1 up, not True"),
        ({"seed": -1}, "seed is a whole number from 0 to 18446744073709551615, not -1"),
        ({"seed": 2**64}, "seed is a whole number from 0 to 18446744073709551615, not 18446744073709551616"),
        ({"temperature": 0.0}, "temperature is a finite number above 0, not 0.0"),
        ({"temperature": math.nan}, "temperature is a finite number above 0, not nan"),
        ({"temperature": math.inf}, "temperature is a finite number above 0, not inf"),
    ],
)
def test_generation_settings_refuse(values: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^{message}"):
        GenerationSettings(**values)  # type: ignore[arg-type]


def test_settings_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        GenerationSettings().seed = 1  # type: ignore[misc]


def test_store_root_prefers_option_then_variable_then_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEERSCOPE_STORE", "/elsewhere")
    assert store_root(Path("here")) == Path("here")
    assert store_root() == Path("/elsewhere")
    monkeypatch.setenv("STEERSCOPE_STORE", "")
    assert store_root() == DEFAULT_STORE
    assert DEFAULT_STORE.parts[-2:] == ("data", "store")
