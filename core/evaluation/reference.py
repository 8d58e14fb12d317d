"""How few reference prompts give the same ranking of neurons? And which of the best neurons fire together?

The Topic Alignment paper asks whether P_ref can be designed better to save its cost. Here sets of each size, chosen in
several ways, score the neurons by the same formula as the whole set, and the rankings are compared by Kendall's tau.

A set is part of the whole, so tau nears 1 as it grows, however good the whole set is. Two disjoint random sets show how
far the ranking depends on the SAE rather than on the prompts that happened to be drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import kendalltau

from core.errors import ScoringError
from core.evaluation.coverage import FIRST_SIZE, N_SAMPLES, sample_sizes
from core.evaluation.experiments import ExperimentOptions
from core.evaluation.reference_sets import MAX_FARTHEST, contrastive, farthest_points, in_turns
from core.progress import Progress
from core.scoring.scores import scores_from_sums
from core.settings import ScoreSettings
from core.text.prompts import Topic, bundled_topics

if TYPE_CHECKING:
    from scipy.sparse import csc_array, csr_array

    from core.scoring.scorer import Scorer  # imports torch

N_TOP = 20  # best neurons of a topic, of which `top` and coactivation are taken
SET_JACCARD = 0.15  # mean index from which neurons count as a set; all of a topic's pairs average 0.02 to 0.06
SAME_TAU = 0.9  # Kendall's tau from which a ranking counts as the whole set's
MIN_SHARE = 0.9  # of the neurons scored by the whole set, which a suggested set has to score
_ORDERS_PART = 0.3  # share of the time that goes into choosing prompts, mostly farthest points
DISJOINT, UNSEEN = "disjoint", "contrastive, unseen topic"


@dataclass(frozen=True)
class Reference:
    """The reference prompts in the form needed to score neurons by any subset of them."""

    summaries: csr_array  # [prompt d_sae], from `Store.summary_matrix`
    distances: Float[np.ndarray, "prompt topic"]
    settings: ScoreSettings

    @property
    def n_prompts(self) -> int:
        return int(self.summaries.shape[0])

    def scores(
        self, prompts: Int[np.ndarray, "chosen"], topics: slice = slice(None)
    ) -> Float[np.ndarray, "d_sae topic"]:
        """Scores with these prompts as the reference set; NaN for a neuron active in too few of them.

        The formula and `min_prompts` are those of `scores.score_topic`.
        """
        chosen, d_sae = self.summaries[prompts], self.summaries.shape[1]
        distances = self.distances[prompts, topics].astype(np.float64) ** self.settings.distance_power
        active_in = np.bincount(chosen.indices, minlength=d_sae)
        if active_in.max() < self.settings.min_prompts:
            return np.full((d_sae, distances.shape[1]), np.nan)
        neurons = np.flatnonzero(active_in)
        g = (chosen.T @ distances)[neurons] / chosen.sum(axis=0)[neurons, None]
        # the neurons' cases are not needed here
        sums = pd.DataFrame({"neuron": neurons, "prompts": active_in[neurons], "near": np.nan, "far": np.nan})
        tables = [scores_from_sums(sums.assign(g=column), d_sae, self.settings.min_prompts) for column in g.T]
        return np.column_stack([table["score"] for table in tables])


def best(scores: Float[np.ndarray, "d_sae"], n: int = N_TOP) -> Int[np.ndarray, "at_most_n"]:
    """The n best-scored neurons, best first; ties go to the lower number."""
    return np.argsort(-scores, kind="stable")[: min(n, np.count_nonzero(np.isfinite(scores)))]


def agreement(
    scores: Float[np.ndarray, "d_sae"], against: Float[np.ndarray, "d_sae"], n_scored: int
) -> dict[str, float]:
    """How alike two rankings are.

    Args:
        n_scored: number of neurons that the whole set scores.

    Returns:
        share (of n_scored, the neurons that both rank); tau (Kendall's tau-b on these; NaN for fewer than two); top
        (share of the N_TOP best of `against` that are among the N_TOP best of `scores`).
    """
    both = np.isfinite(scores) & np.isfinite(against)
    tau = kendalltau(scores[both], against[both]).statistic if both.sum() > 1 else np.nan
    kept = np.isin(best(against), best(scores))
    return {"share": both.sum() / n_scored, "tau": float(tau), "top": float(kept.mean()) if len(kept) else np.nan}


def _rows(
    labels: dict[str, object],
    topics: Sequence[Topic],
    scores: Float[np.ndarray, "d_sae topic"],
    against: Float[np.ndarray, "d_sae topic"],
    n_scored: int,
) -> list[dict[str, object]]:
    return [
        {**labels, "topic": topic.name, **agreement(scores[:, i], against[:, i], n_scored)}
        for i, topic in enumerate(topics)
    ]


@dataclass(frozen=True)
class Order:
    """Reference prompts in the order of one design: a set of any size is the beginning of `prompts`."""

    design: str
    sample: int
    prompts: Int[np.ndarray, "prompt"]


def orders(
    embeddings: Float[np.ndarray, "prompt d_embedding"],
    tasks: Sequence[str],
    anchors: Float[np.ndarray, "prompt topic"],
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Order]:
    """The orders of every design that serves all topics: N_SAMPLES of the random designs, one of the others.

    Args:
        tasks: of every prompt. If all are the same, `per task` is left out, as it would equal `random`.
        anchors: distances from the topics that `contrastive` is to separate.
        progress: called with the share done of `farthest points`, which takes nearly all of the time.
    """
    rng, n = np.random.default_rng(seed), len(embeddings)
    drawn = [rng.permutation(n) for _ in range(N_SAMPLES)]
    made = [Order("random", sample, order) for sample, order in enumerate(drawn, start=1)]
    if len(set(tasks)) > 1:
        made += [Order("per task", sample, in_turns(tasks, order)) for sample, order in enumerate(drawn, start=1)]
    farthest = farthest_points(embeddings, min(n, MAX_FARTHEST), progress)
    return [*made, Order("farthest points", 1, farthest), Order("contrastive", 1, contrastive(anchors))]


class Comparison:
    """Compares the rankings by sets of reference prompts with the ranking by the whole set."""

    def __init__(self, reference: Reference, topics: Sequence[Topic]) -> None:
        self.reference, self.topics = reference, topics
        self.whole = reference.scores(np.arange(reference.n_prompts))
        self._n_scored = int(np.isfinite(self.whole[:, 0]).sum())

    def sets(self, order: Order, sizes: Sequence[int]) -> Iterator[dict[str, object]]:
        """The beginnings of an order against the whole set: rows of design, sample, size, topic, share, tau, top."""
        for size in sizes:
            if size <= len(order.prompts):
                labels = {"design": order.design, "sample": order.sample, "size": size}
                scores = self.reference.scores(order.prompts[:size])
                yield from _rows(labels, self.topics, scores, self.whole, self._n_scored)

    def disjoint(self, order: Order, sizes: Sequence[int]) -> Iterator[dict[str, object]]:
        """The beginning of an order against as many prompts that follow it; rows as in `sets`."""
        for size in sizes:
            if 2 * size <= len(order.prompts):
                labels = {"design": DISJOINT, "sample": order.sample, "size": size}
                pair = (order.prompts[:size], order.prompts[size : 2 * size])
                first, second = (self.reference.scores(prompts) for prompts in pair)
                yield from _rows(labels, self.topics, first, second, self._n_scored)

    def unseen(
        self, anchors: Float[np.ndarray, "prompt anchor"], names: Sequence[str], sizes: Sequence[int]
    ) -> Iterator[dict[str, object]]:
        """`contrastive` for each topic, made from the other topics' distances alone; rows as in `sets`."""
        for i, topic in enumerate(self.topics):
            order = contrastive(anchors[:, [name != topic.name for name in names]])
            for size in sizes:
                scores = self.reference.scores(order[:size], slice(i, i + 1))
                labels = {"design": UNSEEN, "sample": 1, "size": size}
                yield from _rows(labels, [topic], scores, self.whole[:, i : i + 1], self._n_scored)

    def coactivation(self) -> pd.DataFrame:
        """The table of `coactivation` for the N_TOP best neurons of every topic, with a column topic."""
        summaries = self.reference.summaries.tocsc()
        tables = [
            coactivation(summaries, best(self.whole[:, i])).assign(topic=topic.name)
            for i, topic in enumerate(self.topics)
        ]
        return pd.concat(tables, ignore_index=True)


def by_size(tau: pd.DataFrame) -> pd.DataFrame:
    """The table `reference-tau` by design and size: means, and the topics with the lowest and highest tau.

    Returns:
        Columns design, size, share, top; tau (mean over topics), tau_low and tau_high (lowest and highest topic, each
        the mean of its samples).
    """
    by_topic = tau.groupby(["design", "size", "topic"], sort=False)[["share", "tau", "top"]].mean()
    grouped = by_topic.groupby(["design", "size"], sort=False)
    ends = grouped["tau"].agg(tau_low="min", tau_high="max")
    return grouped.mean().join(ends).reset_index()


def suggested_sizes(tau: pd.DataFrame) -> pd.DataFrame:
    """The smallest set of each design that ranks neurons as the whole set does, by two rules.

    `same`: mean tau over topics is at least SAME_TAU, at that size and every larger one tried. `reproducible`: the
    same, but the target is the mean tau of the two largest disjoint sets: such a set differs from the whole no more
    than halves of the whole do from each other. Both also require that MIN_SHARE of the neurons are scored.

    Returns:
        Columns rule, target, design, size (missing if no size tried is large enough), share, top, tau, tau_low,
        tau_high.
    """
    means = by_size(tau)
    disjoint = means[means["design"] == DISJOINT]
    targets = {"same": SAME_TAU}
    if len(disjoint):
        targets["reproducible"] = float(disjoint.loc[disjoint["size"].idxmax(), "tau"])
    rows = []
    for rule, target in targets.items():
        for design, sizes in means[means["design"] != DISJOINT].groupby("design", sort=False):
            ordered = sizes.sort_values("size", ascending=False)
            enough = ((ordered["tau"] >= target) & (ordered["share"] >= MIN_SHARE)).cummin()
            found = ordered[enough].tail(1).to_dict("records") or [{"design": design}]
            rows.append({"rule": rule, "target": target, **found[0]})
    columns = ["rule", "target", "design", "size", "share", "top", "tau", "tau_low", "tau_high"]
    return pd.DataFrame(rows).reindex(columns=columns).astype({"size": "Int64"})


def coactivation(summaries: csr_array | csc_array, neurons: Int[np.ndarray, "best"]) -> pd.DataFrame:
    """How often two of a topic's best neurons fire in the same reference prompt.

    Args:
        summaries: [prompt d_sae], non-zero where a neuron is active.
        neurons: best first.

    Returns:
        One row per pair: rank_first, first, rank_second, second; prompts_first and prompts_second (prompts in which
            each is active); both (in which both are); jaccard (both, as a share of the prompts in which at least one
            is).
    """
    active = (summaries[:, neurons] != 0).astype(np.int64)
    together = (active.T @ active).toarray()
    first, second = np.triu_indices(len(neurons), k=1)
    in_first, in_second, both = together.diagonal()[first], together.diagonal()[second], together[first, second]
    return pd.DataFrame(
        {
            "rank_first": first + 1,
            "first": neurons[first],
            "rank_second": second + 1,
            "second": neurons[second],
            "prompts_first": in_first,
            "prompts_second": in_second,
            "both": both,
            "jaccard": both / (in_first + in_second - both),
        }
    )


def coactivation_sets(pairs: pd.DataFrame, min_jaccard: float = SET_JACCARD) -> list[list[int]]:
    """Sets of a topic's best neurons that fire together: average linkage of their Jaccard indices, cut at a mean.

    Args:
        pairs: the table of `coactivation` for one topic.
        min_jaccard: mean index at which two sets are still joined.

    Returns:
        Sets of at least two neurons, the largest first; in each, the best-scored first.
    """
    from scipy.cluster.hierarchy import fcluster, linkage  # takes a while to import

    if pairs.empty:
        return []
    ordered = pairs.sort_values(["rank_first", "rank_second"])
    neurons = [*ordered["first"].iloc[:1], *ordered.loc[ordered["rank_first"] == 1, "second"]]
    joined = linkage(1 - ordered["jaccard"].fillna(0.0).to_numpy(), "average")
    labels = fcluster(joined, 1 - min_jaccard, "distance")
    sets = [[int(n) for n, own in zip(neurons, labels, strict=True) if own == label] for label in dict.fromkeys(labels)]
    return sorted((each for each in sets if len(each) > 1), key=len, reverse=True)


def run(
    workbench: Scorer, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `reference-tau` (every set), `reference-size` and `reference-coactivation`; needs no language model.

    Raises:
        ScoringError: there are too few reference prompts to compare sets of them, or no neuron can be scored.
    """
    store, settings = workbench.store, ScoreSettings()
    sizes = sample_sizes(store.n_prompts)[:-1]
    if not sizes:
        raise ScoringError(
            f"sets of {FIRST_SIZE} prompts and more are compared, the store has {store.n_prompts}; build on more"
        )
    progress("topics", 0.0)
    known = list(bundled_topics().values())
    asked = dict.fromkeys([*known, *options.topics])
    distances = {topic: workbench.score(topic, settings).scores.distances for topic in asked}
    anchors = np.column_stack([distances[topic] for topic in known])
    summaries = store.summary_matrix(settings.summary)
    of_topics = np.column_stack([distances[topic] for topic in options.topics])
    comparison = Comparison(Reference(summaries, of_topics, settings), options.topics)
    made = orders(
        store.embeddings(),
        store.prompts()["task"].tolist(),
        anchors,
        options.seed,
        lambda share: progress("farthest points", _ORDERS_PART * share),
    )
    rows: list[dict[str, object]] = []
    for number, order in enumerate(made):
        progress(order.design, _ORDERS_PART + (1 - _ORDERS_PART) * number / (len(made) + 1))
        rows += comparison.sets(order, sizes)
        rows += comparison.disjoint(order, sizes) if order.design == "random" else ()
    progress(UNSEEN, _ORDERS_PART + (1 - _ORDERS_PART) * len(made) / (len(made) + 1))
    rows += comparison.unseen(anchors, [topic.name for topic in known], sizes)
    return {
        "reference-tau": pd.DataFrame(rows),
        "reference-size": suggested_sizes(pd.DataFrame(rows)),
        "reference-coactivation": comparison.coactivation(),
    }
