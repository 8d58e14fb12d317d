"""How each reference prompt counts in the sums over prompts that score neurons: Topic Alignment paper, section 3.1."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float, Float64

from core.settings import Summary

if TYPE_CHECKING:
    from core.store.columns import Column

QUARTER = 0.25  # of the prompts, nearest to the topic and farthest from it
# for each summary: the column of `activations` it reads, and the column of `prompts` it is divided by
SUMMARIES: dict[Summary, tuple["Column", str | None]] = {
    "sum": ("sum", "total"),
    "max": ("max", None),
    "mean": ("sum", "n_tokens"),
    "count": ("n_tokens", "n_tokens"),
}


def ends(
    distances: Float[np.ndarray, "prompt *topic"],
) -> tuple[Bool[np.ndarray, "prompt *topic"], Bool[np.ndarray, "prompt *topic"]]:
    """Which prompts belong to the quarter nearest to a topic, and which to the farthest; ties belong."""
    nearest, farthest = np.quantile(distances, [QUARTER, 1 - QUARTER], axis=0)
    return distances <= nearest, distances >= farthest


def prompt_weights(prompts: Mapping[str, np.ndarray], summary: Summary) -> Float64[np.ndarray, "prompt"]:
    """What each prompt's activations are multiplied by to give the summary; 0 where the prompt has none.

    Args:
        prompts: columns prompt, total and n_tokens of the store.
    """
    divisor, n = SUMMARIES[summary][1], len(prompts["prompt"])
    divided_by = np.ones(n) if divisor is None else prompts[divisor].astype(np.float64)
    return np.divide(1.0, divided_by, out=np.zeros(n), where=divided_by > 0)


def topic_weights(
    weight: Float64[np.ndarray, "prompt"], distances: Float[np.ndarray, "prompt"], power: int
) -> Float64[np.ndarray, "3 prompt"]:
    """The weights times the distances to this power, and those of the nearest and of the farthest quarter alone."""
    exact = distances.astype(np.float64)
    near, far = ends(exact)
    return np.stack([weight * exact**power, weight * near, weight * far])
