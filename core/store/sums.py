"""Sums over the reference prompts, from a store's columns: what scores every neuron, and the matrix behind them."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Float64

from core.settings import ScoreSettings, Summary
from core.store.columns import Columns
from core.store.prompt_weights import SUMMARIES, prompt_weights, topic_weights

if TYPE_CHECKING:
    from scipy.sparse import csr_array


class Sums:
    """The sums of one store. What no topic changes is kept, so that a topic takes three products."""

    def __init__(self, columns: Columns, prompts: Mapping[str, np.ndarray], not_finite: Callable[[], None]) -> None:
        """Takes the prompts' columns prompt, total and n_tokens; `not_finite` raises for activations that are none."""
        self.columns, self.prompts, self._not_finite = columns, prompts, not_finite
        self._weights: dict[Summary, Float64[np.ndarray, "d_sae"]] = {}
        self._squares: dict[Summary, Float64[np.ndarray, "d_sae"]] = {}

    def of_topic(self, distances: Float[np.ndarray, "prompt"], settings: ScoreSettings) -> pd.DataFrame:
        """One row per active neuron, see `Store.neuron_sums`."""
        columns, weight = self.columns, self.weight(settings.summary)
        each = topic_weights(prompt_weights(self.prompts, settings.summary), distances, settings.distance_power)
        products = columns.products(SUMMARIES[settings.summary][0], each)
        active = np.flatnonzero(columns.prompts)
        with np.errstate(invalid="ignore"):  # 0 / 0 where none of a neuron's prompts counts
            g, near, far = products[:, active] / weight[active]
        counts = {"neuron": active, "prompts": columns.prompts[active], "weight": weight[active]}
        return pd.DataFrame({**counts, "g": g, "near": near, "far": far})

    def weight(self, summary: Summary) -> Float64[np.ndarray, "d_sae"]:
        """Every neuron's summary, summed over prompts."""
        if summary not in self._weights:
            each = prompt_weights(self.prompts, summary)
            (weight,) = self.columns.products(SUMMARIES[summary][0], each[None])
            if not np.isfinite(weight).all():
                self._not_finite()
            self._weights[summary] = weight
        return self._weights[summary]

    def squares(self, summary: Summary) -> Float64[np.ndarray, "d_sae"]:
        """Sum over prompts of w^2, see `Store.weight_squares`."""
        if summary not in self._squares:
            each = prompt_weights(self.prompts, summary)
            (squares,) = self.columns.products(SUMMARIES[summary][0], each[None] ** 2, power=2)
            with np.errstate(invalid="ignore"):
                self._squares[summary] = squares / self.weight(summary) ** 2
        return self._squares[summary]

    def matrix(self, summary: Summary) -> "csr_array":
        """Every neuron's summary on every prompt, see `Store.summary_matrix`."""
        from scipy.sparse import csc_array

        columns, (column, divisor) = self.columns, SUMMARIES[summary]
        values = getattr(columns, column).astype(np.float64)
        if divisor is not None:
            values /= self.prompts[divisor][columns.prompt]
        # with 64-bit offsets SciPy would make the numbers of prompts 64 bits long, too
        offsets = columns.offsets if len(values) >= 2**31 else columns.offsets.astype(np.int32)
        shape = (columns.n_prompts, len(columns.offsets) - 1)
        return csc_array((values, columns.prompt, offsets), shape=shape).tocsr()
