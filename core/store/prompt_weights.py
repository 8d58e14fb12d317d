"""How each reference prompt counts in the sums over prompts that score neurons: Topic Alignment paper, section 3.1."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float

from core.settings import ScoreSettings

QUARTER = 0.25  # of the prompts, nearest to the topic and farthest from it
# for each summary: the column of `activations` it reads, and the column of `prompts` it is divided by
SUMMARIES = {
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


def prompt_weights(
    prompts: Mapping[str, np.ndarray], distances: Float[np.ndarray, "prompt"], settings: ScoreSettings
) -> pd.DataFrame:
    """The factors of each prompt's activations in the sums of `Store.neuron_sums`.

    Args:
        prompts: columns prompt, total and n_tokens of the store.
    """
    divisor, n = SUMMARIES[settings.summary][1], len(distances)
    divided_by = np.ones(n) if divisor is None else prompts[divisor].astype(np.float64)
    weight = np.divide(1.0, divided_by, out=np.zeros(n), where=divided_by > 0)
    exact = distances.astype(np.float64)
    near, far = ends(exact)
    return pd.DataFrame(
        {
            "prompt": prompts["prompt"],
            "weight": weight,
            "weighted_distance": weight * exact**settings.distance_power,
            "near": weight * near,
            "far": weight * far,
        }
    )
