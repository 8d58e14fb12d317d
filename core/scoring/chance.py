"""Which neurons stand out beyond chance for a topic: the three cases of the Topic Alignment paper (3.1), the rule ours.

A neuron's g (Eq. 1) is compared with what it would be if the topic's distances were dealt to the reference prompts at
random: mean and variance of that are known exactly (`deviation`). Alone this calls hundreds of neurons aligned for any
words at all, as prompts come in clusters that embeddings and neurons both see. So two things are added:

- A neuron counts as a mean of at most `CAP` prompts, however many it fires on.
- How far a neuron has to stand out is measured on topics that mean nothing (`core.scoring.nonsense`): they give each
  deviation its p-value, and the level of Benjamini and Hochberg's procedure at which at most `LEVEL` of them show any
  neuron at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from jaxtyping import Bool, Float, Int

from core.scoring.scores import TopicScores
from core.store.prompt_weights import ends

CAP = 300  # effective prompts; of 100 to 1,000 the value that told most real topics from nonsense (docs/log.md)
LEVEL = 0.05  # share of meaningless topics that may show a neuron of a case
STRICTEST = 5  # of 200 such topics: at most LEVEL of all show a neuron if no more than these do, at 97% confidence
TAIL_SHARE = 0.02  # of the deviations on meaningless topics, the largest, which are kept
_KEPT_EXACTLY, _KEPT_SPACED = 100, 200  # ranks kept of a tail

Case = Literal["aligned", "polysemantic", "unaligned", "not told apart", "too rare", "too dense"]
Side = Literal["aligned", "unaligned", "polysemantic"]
SIDES: tuple[Side, ...] = ("aligned", "unaligned", "polysemantic")  # a later one wins


def deviation(
    weighted: Float[np.ndarray, "neuron *topic"],
    values: Float[np.ndarray, "prompt *topic"],
    squares: Float[np.ndarray, "neuron"],
    *,
    cap: float = float("inf"),
) -> Float[np.ndarray, "neuron *topic"]:
    """How far weighted means lie above the mean, in standard deviations of dealing the values to prompts at random.

    For weights w that sum to 1 and N values with sample variance s^2, the weighted mean of randomly dealt values has
    the values' mean, and variance s^2 (sum w^2 - 1/N): (N - 1) of s^2 is each value's own part, and dealt values are
    correlated by -1/(N - 1).

    Args:
        weighted: weighted mean of the values for each neuron.
        values: of each prompt.
        squares: sum of w^2 of each neuron, see `Store.weight_squares`.
        cap: no mean counts as one over more prompts than this: 1/cap is added to sum w^2 - 1/N.

    Returns:
        0 where nothing can vary: all values are equal, or a neuron weights all prompts alike.
    """
    n, mean = len(values), values.mean(axis=0)
    variance = np.multiply.outer(np.maximum(squares - 1 / n, 0.0) + 1 / cap, values.var(axis=0, ddof=1))
    rounding = 1e-12 * np.maximum(1.0, mean**2)
    nothing = np.zeros_like(variance)
    found: np.ndarray = np.divide(weighted - mean, np.sqrt(variance), out=nothing, where=variance > rounding)
    return found


def deviations(
    sums: Mapping[str, Float[np.ndarray, "neuron *topic"]],
    distances: Float[np.ndarray, "prompt *topic"],
    power: int,
    squares: Float[np.ndarray, "neuron"],
) -> dict[Side, Float[np.ndarray, "neuron *topic"]]:
    """For each case how far every neuron stands out.

    aligned: g below the mean distance; unaligned: above it; polysemantic: the neuron's share on the nearest quarter of
    the prompts and its share on the farthest both above a quarter, the lesser of the two counting.

    Args:
        sums: columns g, near and far of `Store.neuron_sums`, of one topic or of many.
        distances: Euclidean, of the prompts from the topics; g is of their `power`.
    """
    near, far = ends(distances)
    above = deviation(sums["g"], distances**power, squares, cap=CAP)
    both = (deviation(sums[end], at.astype(float), squares, cap=CAP) for end, at in (("near", near), ("far", far)))
    return {"aligned": -above, "unaligned": above, "polysemantic": np.minimum(*both)}


def step_up(p: Float[np.ndarray, "neuron"]) -> Float[np.ndarray, "neuron"]:
    """The level at which Benjamini and Hochberg's procedure would first report each neuron (their adjusted p-value)."""
    order = np.argsort(p, kind="stable")
    levels = p[order] * len(p) / np.arange(1, len(p) + 1)
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum.accumulate(levels[::-1])[::-1]
    return adjusted


@dataclass(frozen=True)
class Tail:
    """The largest deviations of neurons on meaningless topics, all topics and neurons pooled.

    Of `total` deviations, `values[i]` is the one of rank `ranks[i]`, largest first.
    """

    ranks: Int[np.ndarray, "kept"]
    values: Float[np.ndarray, "kept"]
    total: int

    @classmethod
    def of(cls, pooled: Float[np.ndarray, "any"]) -> Tail:
        """The tail of these deviations, thinned: every rank at first, then spaced ones."""
        last = max(1, int(TAIL_SHARE * len(pooled)))
        ranks = np.unique(np.r_[1 : min(last, _KEPT_EXACTLY) + 1, np.geomspace(1, last, _KEPT_SPACED).astype(int)])
        largest = np.sort(np.partition(pooled, len(pooled) - last)[-last:])[::-1]
        return cls(ranks, largest[ranks - 1].astype(np.float64), len(pooled))

    def p_values(self, deviations: Float[np.ndarray, "neuron"]) -> Float[np.ndarray, "neuron"]:
        """Share of the pooled deviations at least as large, the neuron's own added; 1 beyond the tail.

        Between kept ranks the greater is taken, so that a p-value is never too small.
        """
        place = np.searchsorted(-self.values, -deviations, side="right")  # of the first value below
        rank = np.append(self.ranks, self.total + 1)[place]
        return rank / (self.total + 1)


@dataclass(frozen=True)
class Chance:
    """What meaningless topics of one size show in a store, under one set of scoring settings."""

    tails: Mapping[Side, Tail]
    levels: Mapping[Side, float]  # of Benjamini and Hochberg's procedure

    def cases(self, scores: TopicScores, squares: Float[np.ndarray, "d_sae"]) -> pd.DataFrame:
        """Every neuron's case for a topic.

        Args:
            squares: of `Store.weight_squares`, for the summary that the scores were made with.

        Returns:
            One row per neuron, ordered by number:
                z: deviation of g from dealing the distances at random, without the cap; below 0: closer to the topic
                p: of the case aligned, from meaningless topics
                both: deviation of its share on the nearest or on the farthest quarter of the prompts, the lesser
                case: see `Case`
            The figures are NaN where the neuron has no score.
        """
        table, settings = scores.table, scores.settings
        scored = table["score"].notna().to_numpy()
        sums = {name: table.loc[scored, name].to_numpy() for name in ("g", "near", "far")}
        distances = scores.distances.astype(np.float64)
        found = pd.DataFrame({"neuron": table["neuron"], "z": np.nan, "p": np.nan, "both": np.nan})
        found.loc[scored, "z"] = deviation(sums["g"], distances**settings.distance_power, squares[scored])
        case = np.where(table["prompts"] < settings.min_prompts, "too rare", "too dense").astype(object)
        case[scored] = "not told apart"
        stand_out = deviations(sums, distances, settings.distance_power, squares[scored])
        found.loc[scored, "both"] = stand_out["polysemantic"]
        for side in SIDES:
            p = self.tails[side].p_values(stand_out[side])
            if side == "aligned":
                found.loc[scored, "p"] = p
            case[np.flatnonzero(scored)[self._reported(side, p)]] = side
        return found.assign(case=case)

    def _reported(self, side: Side, p: Float[np.ndarray, "scored"]) -> Bool[np.ndarray, "scored"]:
        return step_up(p) <= self.levels[side]

    def alarms(self, side: Side, stand_out: Float[np.ndarray, "neuron topic"]) -> Bool[np.ndarray, "topic"]:
        """For each topic whether any neuron would be of this case, by the neurons' `deviations`."""
        tail = self.tails[side]
        return np.array([self._reported(side, tail.p_values(topic)).any() for topic in stand_out.T])


def verdict(cases: pd.DataFrame) -> str:
    """Whether a topic is carried, in plain words: how many neurons are aligned."""
    if n := int((cases["case"] == "aligned").sum()):
        return f"{n:,} neuron{'s stand' if n > 1 else ' stands'} out beyond chance"
    return "no neuron stands out: topics of random words show neurons as close"


def measure(kinds: Mapping[Side, Sequence[Float[np.ndarray, "neuron topic"]]]) -> Chance:
    """What chance gives, from the deviations of neurons on meaningless topics of several kinds.

    The level of each case is one at which no kind of topic shows a neuron more often than `LEVEL`.

    Args:
        kinds: for each case, the deviations on the topics of every kind that it is measured on.
    """
    tails = {side: Tail.of(np.concatenate([kind.ravel() for kind in of_side])) for side, of_side in kinds.items()}
    levels = {}
    for side, of_side in kinds.items():
        first = [np.sort([step_up(tails[side].p_values(topic)).min() for topic in kind.T]) for kind in of_side]
        levels[side] = min(LEVEL, *(float(levels_of_kind[STRICTEST - 1]) for levels_of_kind in first))
    return Chance(tails, levels)
