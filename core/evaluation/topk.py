"""Do the best-scored neurons fire on the topic's text? (Topic Alignment paper, 4.1 and A.3; Fig. 4, 11 and 12.)

Scores see P_align only through sentence embeddings, never through the SAE, so its tokens can test them. For every k
from 1 to the number of scored neurons: the share of P_align's tokens on which at least one of the k best neurons fires,
the same share of the unaligned prompts' tokens, and the difference. Special tokens are left out.

A token counts at k if the best rank among its active neurons is at most k. Each curve is therefore a cumulative
histogram of these ranks: exact at every k, in one pass over the active (token, neuron) pairs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from jaxtyping import Float, Int

from core.build.activations import token_activations
from core.errors import ScoringError
from core.evaluation.experiments import ExperimentOptions
from core.progress import Progress
from core.scoring.scorer import ScoredTopic
from core.scoring.scores import DENSE, TopicScores
from core.steering.workbench import Workbench
from core.store.batch import ActivationBatch
from core.text.prompts import unaligned_prompts

SHOWN_K = (4, 16, 64)  # k at which the two shares are compared
TOKEN_K = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # k for which tokens are listed
LISTED_TOKENS = 40  # per k and text
DENSE_K = 16  # the thinned curves keep every k up to here
LOG_SPACED_K = 60  # and about as many as this over the whole range
N_SHUFFLES = 200  # random rankings, to show what chance gives
CHANCE = 0.95  # quantile of their areas that counts as chance


@dataclass(frozen=True)
class Firing:
    """Which neurons fire on which ordinary tokens of some prompts."""

    tokens: list[str]
    token: Int[np.ndarray, "active"]  # index into `tokens`, ascending
    neuron: Int[np.ndarray, "active"]

    @cached_property
    def starts(self) -> tuple[Int[np.ndarray, "firing"], Int[np.ndarray, "firing"]]:
        """The tokens on which any neuron fires, and the index of each one's first pair."""
        firing, start = np.unique(self.token, return_index=True)
        return firing, start


def firing(activations: Iterable[ActivationBatch]) -> Firing:
    """The active (token, neuron) pairs of prompts, from the batches of `activations.token_activations`.

    Raises:
        ScoringError: the prompts have no ordinary token.
    """
    tokens: list[str] = []
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    for batch in activations:
        starts = len(tokens) + np.cumsum(batch.n_tokens) - batch.n_tokens
        first = dict(zip(batch.prompts.tolist(), starts.tolist(), strict=True))
        offsets = np.array([first[prompt] for prompt in batch.prompt.tolist()], dtype=np.int64)
        pairs.append((offsets + batch.position, batch.neuron))
        tokens += [token for prompt in batch.tokens for token in prompt]
    if not tokens:
        raise ScoringError("the prompts have no token of their own; give at least one word")
    token, neuron = (np.concatenate(column) for column in zip(*pairs, strict=True))
    return Firing(tokens, token, neuron)


def firing_on(workbench: Workbench, prompts: Iterable[str]) -> Firing:
    """The active (token, neuron) pairs of prompts; longer ones are truncated to the model's context.

    Raises:
        ScoringError: the prompts have no ordinary token.
    """
    model = workbench.model
    return firing(token_activations(model, workbench.sae, list(prompts), max_length=model.n_context))


@dataclass(frozen=True)
class Ranks:
    """Every neuron's rank by score, from 1; a neuron without a score has rank `n_scored` + 1."""

    of_neuron: Int[np.ndarray, "d_sae"]
    n_scored: int

    @classmethod
    def of(cls, scores: TopicScores) -> Ranks:
        ranked = scores.ranked()
        ranks = np.full(len(scores.table), len(ranked) + 1)
        ranks[ranked["neuron"]] = ranked["rank"]
        return cls(ranks, len(ranked))

    def shuffled(self, seed: int) -> Ranks:
        """The ranks permuted at random among the scored neurons."""
        ranks, scored = self.of_neuron.copy(), self.of_neuron <= self.n_scored
        ranks[scored] = np.random.default_rng(seed).permutation(ranks[scored])
        return Ranks(ranks, self.n_scored)

    def best(self, text: Firing) -> Int[np.ndarray, "token"]:
        """The best rank among each token's active neurons; `n_scored` + 1 if no scored neuron fires."""
        best = np.full(len(text.tokens), self.n_scored + 1)
        token, start = text.starts
        best[token] = np.minimum.reduceat(self.of_neuron[text.neuron], start)
        return best

    def cumulated(self, ranks: Int[np.ndarray, "any"]) -> Int[np.ndarray, "k"]:
        """How many of these ranks are at most k, for k from 1 to `n_scored`."""
        return np.bincount(ranks, minlength=self.n_scored + 2)[1 : self.n_scored + 1].cumsum()

    def token_shares(self, text: Firing) -> Float[np.ndarray, "k"]:
        """Share of the text's tokens on which at least one of the k best neurons fires, for k from 1 to `n_scored`."""
        return self.cumulated(self.best(text)) / len(text.tokens)


def curves(ranks: Ranks, aligned: Firing, unaligned: Firing) -> pd.DataFrame:
    """The curves of one topic, one row for every k from 1 to the number of scored neurons.

    Returns:
        Columns k; aligned and unaligned (share of the text's tokens on which at least one of the k best neurons fires);
        difference; neurons_aligned and neurons_unaligned (share of the k best neurons that fire anywhere in the text).
    """
    k = np.arange(1, ranks.n_scored + 1)
    table: dict[str, np.ndarray] = {"k": k}
    for name, text in (("aligned", aligned), ("unaligned", unaligned)):
        table[name] = ranks.token_shares(text)
        table[f"neurons_{name}"] = ranks.cumulated(ranks.of_neuron[np.unique(text.neuron)]) / k
    table["difference"] = table["aligned"] - table["unaligned"]
    order = ["k", "aligned", "unaligned", "difference", "neurons_aligned", "neurons_unaligned"]
    return pd.DataFrame(table)[order]


@dataclass(frozen=True)
class Dense:
    """The dense neurons among the k best, and what the k best show without them, for k from 1 to `n_scored`."""

    count: Int[np.ndarray, "k"]  # neurons among the k best that are active on more than DENSE of the reference tokens
    aligned: Float[np.ndarray, "k"]  # token shares, as in `curves`, of the other neurons among the k best
    unaligned: Float[np.ndarray, "k"]

    @classmethod
    def of(cls, ranks: Ranks, density: Float[np.ndarray, "d_sae"], aligned: Firing, unaligned: Firing) -> Dense:
        dense = density > DENSE
        others = Ranks(np.where(dense, ranks.n_scored + 1, ranks.of_neuron), ranks.n_scored)
        count = ranks.cumulated(ranks.of_neuron[dense])
        return cls(count, others.token_shares(aligned), others.token_shares(unaligned))

    def figures(self, k: int) -> dict[str, float]:
        """Columns of the table `topk-summary` for one k; NaN with fewer scored neurons than k."""
        if k > len(self.count):
            return {f"dense_{k}": float("nan"), f"difference_sparse_{k}": float("nan")}
        return {
            f"dense_{k}": int(self.count[k - 1]),
            f"difference_sparse_{k}": float(self.aligned[k - 1] - self.unaligned[k - 1]),
        }


def area(difference: Float[np.ndarray, "k"]) -> float:
    """Area between the curves, the main figure: mean difference over log k, -1 to 1.

    Trapezoids between neighbouring k, divided by the log of the last k: the area that is seen on a logarithmic axis.
    """
    if len(difference) == 1:
        return float(difference[0])
    log_k = np.log(np.arange(1, len(difference) + 1))
    return float(np.trapezoid(difference, log_k) / log_k[-1])


def shuffled_areas(ranks: Ranks, aligned: Firing, unaligned: Firing, seed: int = 0) -> Float[np.ndarray, "shuffle"]:
    """The areas of N_SHUFFLES random rankings of the same neurons on the same texts, which show what chance gives."""
    # Not scipy.stats.permutation_test: nothing is tested here, and docs/log.md holds figures made with these seeds.
    shuffles = (ranks.shuffled(seed + number) for number in range(N_SHUFFLES))
    return np.array([area(dealt.token_shares(aligned) - dealt.token_shares(unaligned)) for dealt in shuffles])


def thinned(table: pd.DataFrame) -> pd.DataFrame:
    """About LOG_SPACED_K rows of the curves: k from 1 to DENSE_K, log-spaced ones, those of SHOWN_K, and the last."""
    last = len(table)
    spaced = np.geomspace(1, last, LOG_SPACED_K).round().astype(int)
    kept = np.unique([*range(1, DENSE_K + 1), *SHOWN_K, *spaced, last])
    return table.iloc[kept[kept <= last] - 1].reset_index(drop=True)


def fired_tokens(ranks: Ranks, aligned: Firing, unaligned: Firing) -> pd.DataFrame:
    """The most frequent tokens on which one of the k best neurons fires, for each k of TOKEN_K.

    Returns:
        At most LISTED_TOKENS rows per k and text: k, text (aligned or unaligned), token, times (occurrences on which
            one of the k best fires), occurrences (in the text).
    """
    rows = []
    for name, text in (("aligned", aligned), ("unaligned", unaligned)):
        best, occurrences = ranks.best(text), Counter(text.tokens)
        for k in (k for k in TOKEN_K if k <= ranks.n_scored):
            fired = Counter(token for token, rank in zip(text.tokens, best.tolist(), strict=True) if rank <= k)
            # ties: the rarer in the text first, as more of its occurrences fire
            ordered = sorted(fired.items(), key=lambda item: (-item[1], occurrences[item[0]], item[0]))
            rows += [(k, name, token, times, occurrences[token]) for token, times in ordered[:LISTED_TOKENS]]
    return pd.DataFrame(rows, columns=["k", "text", "token", "times", "occurrences"])


@dataclass(frozen=True)
class TopK:
    """The tables of one topic."""

    curves: pd.DataFrame  # every k
    summary: dict[str, float]
    tokens: pd.DataFrame
    dense: Dense

    @property
    def drawn(self) -> pd.DataFrame:
        """The curves at about LOG_SPACED_K values of k; see `thinned`."""
        return thinned(self.curves)


def top_k(
    scored: ScoredTopic, aligned: Firing, unaligned: Firing, density: Float[np.ndarray, "d_sae"], seed: int = 0
) -> TopK:
    """Curves, summary and tokens of one topic; the summary is a row of the table `topk-summary`.

    Args:
        density: of every neuron, see `Store.density`.
    """
    ranks = Ranks.of(scored.scores)
    dense = Dense.of(ranks, density, aligned, unaligned)
    table = curves(ranks, aligned, unaligned)
    difference, chance = table["difference"].to_numpy(), shuffled_areas(ranks, aligned, unaligned, seed)
    summary: dict[str, float] = {
        "n_scored": ranks.n_scored,
        "area": area(difference),
        "area_linear": float(difference.mean()),
        "area_shuffled": float(chance.mean()),
        "area_chance": float(np.quantile(chance, CHANCE)),
    }
    for k in SHOWN_K:  # NaN with fewer scored neurons than k
        summary[f"difference_{k}"] = float(difference[k - 1]) if k <= ranks.n_scored else float("nan")
    summary |= {"tokens_aligned": len(aligned.tokens), "tokens_unaligned": len(unaligned.tokens)}
    for k in SHOWN_K:
        summary |= dense.figures(k)
    return TopK(table, summary, fired_tokens(ranks, aligned, unaligned), dense)


def ahead(summary: pd.DataFrame) -> pd.DataFrame:
    """For each k of SHOWN_K, the number of topics whose aligned share is above the unaligned one.

    Returns:
        Columns k, ahead, topics (those with at least k scored neurons), mean_difference over them.
    """
    rows = []
    for k in SHOWN_K:
        known = summary[f"difference_{k}"].dropna()
        rows.append((k, int((known > 0).sum()), len(known), float(known.mean())))
    return pd.DataFrame(rows, columns=["k", "ahead", "topics", "mean_difference"])


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `topk` (thinned curves), `topk-summary`, `topk-ahead` and `topk-tokens`, each topic under its name."""
    unaligned = firing_on(workbench, unaligned_prompts())
    found: list[tuple[str, TopK]] = []
    for number, topic in enumerate(options.topics):
        progress(topic.title, number / len(options.topics))
        aligned = firing_on(workbench, topic.prompts)
        found.append(
            (topic.name, top_k(workbench.score(topic), aligned, unaligned, workbench.store.density(), options.seed))
        )
    progress("done", 1.0)
    summary = pd.DataFrame([{"topic": name, **one.summary} for name, one in found])
    return {
        "topk": _by_topic((name, one.drawn) for name, one in found),
        "topk-summary": summary,
        "topk-ahead": ahead(summary),
        "topk-tokens": _by_topic((name, one.tokens) for name, one in found),
    }


def _by_topic(tables: Iterable[tuple[str, pd.DataFrame]]) -> pd.DataFrame:
    rows = pd.concat([table.assign(topic=name) for name, table in tables], ignore_index=True)
    return rows[["topic", *rows.columns.drop("topic")]]
