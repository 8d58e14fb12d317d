"""Frozen settings, checked once where they are made, and where stores live."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from core.errors import SettingsError

Summary = Literal["sum", "max", "mean", "count"]
Distance = Literal["euclidean", "squared"]
Variant = Literal["mean", "variance"]

DEFAULT_STORE = Path(__file__).resolve().parent.parent / "data" / "store"
STORE_VARIABLE = "STEERSCOPE_STORE"


def _check_choice(name: str, value: str, kind: Any) -> None:
    if value not in get_args(kind):
        raise SettingsError(f"{name} is one of {', '.join(get_args(kind))}, not '{value}'")


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise SettingsError(f"{name} is a whole number from {least} up, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """How neurons are scored against a topic: Topic Alignment paper, section 3.1.

    Raises:
        SettingsError: a value that is none of the choices, or out of range.
    """

    summary: Summary = "sum"  # prompt-level activation; sum (the paper's) is divided by the prompt's total
    distance: Distance = "euclidean"  # squared: also what cosine distance gives, dist^2 / 2 on unit vectors
    variant: Variant = "mean"  # variance: the distance squared once more, inside g
    min_prompts: int = 20  # a neuron active in fewer reference prompts has no score

    def __post_init__(self) -> None:
        _check_choice("summary", self.summary, Summary)
        _check_choice("distance", self.distance, Distance)
        _check_choice("variant", self.variant, Variant)
        _check_whole("min_prompts", self.min_prompts, 1)

    @property
    def distance_power(self) -> int:
        """The power of the Euclidean distance that g is the weighted mean of."""
        return (2 if self.distance == "squared" else 1) * (2 if self.variant == "variance" else 1)


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """How text is decoded; the defaults are the Topic Alignment paper's (section 4.3): 64 tokens from the top 5.

    Raises:
        SettingsError: a value out of range.
    """

    max_new_tokens: int = 64
    top_k: int = 5  # sample among the k likeliest tokens
    temperature: float = 1.0
    greedy: bool = False  # the likeliest token always; top_k, temperature and seed unused
    seed: int = 0  # the same for every column

    def __post_init__(self) -> None:
        _check_whole("max_new_tokens", self.max_new_tokens, 1)
        _check_whole("top_k", self.top_k, 1)
        _check_whole("seed", self.seed, 0)
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise SettingsError(f"temperature is a finite number above 0, not {self.temperature}; for none, use greedy")


def store_root(option: Path | None = None) -> Path:
    """Folder of the stores: the option, else `$STEERSCOPE_STORE`, else `data/store` of this checkout."""
    return option or Path(os.environ.get(STORE_VARIABLE) or DEFAULT_STORE)
