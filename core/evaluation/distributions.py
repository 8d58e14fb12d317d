"""How scores are distributed, and how alike the settings rank neurons (Topic Alignment paper, A.3 and Fig. 10).

Distributions are over topics, summaries, and 6 or 20 prompts per topic. Layers and SAEs are setups of their own; g can
be compared between them, but scores cannot, as each topic's are stretched to 0..1 (the paper's footnote 4). Kendall's
tau compares the rankings of all settings (every summary with every power of the distance that Eq. 1 can take) and of
the strawman; the paper reports 0.741 on average.

How far a ranking depends on which few prompts say what the topic is: `N_DRAWS` times FEW_PROMPTS prompts are drawn at
random from a topic's own, and their rankings compared with that by all its prompts and with each other.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from scipy.stats import kendalltau

from core.build.activations import token_activations
from core.evaluation.experiments import ALL_TOPICS, ExperimentOptions
from core.models.embeddings import EmbeddingModel
from core.progress import Progress
from core.scoring.scores import TopicScores, score_topic, strawman
from core.settings import ScoreSettings, Summary
from core.steering.workbench import Workbench
from core.store.reader import Store
from core.text.prompts import Topic

FEW_PROMPTS = 6  # first prompts of a topic: the paper's other format, beside all 20
N_DRAWS = 5  # random draws of FEW_PROMPTS prompts
N_QUANTILES = 200  # of each distribution
STRAWMAN = "strawman"

# Cosine distance and the 'weighted variance' give the same as squared distance; the variance of squared distances
# squares twice. So the settings can only ask for these three powers: 1, 2 and 4.
_POWERS: dict[str, dict[str, str]] = {
    "": {},
    ", squared": {"distance": "squared"},
    ", squared twice": {"distance": "squared", "variant": "variance"},
}
_SUMMARIES: tuple[Summary, ...] = get_args(Summary)
RANKINGS: dict[str, ScoreSettings] = {
    f"{summary}{power}": ScoreSettings(summary=summary, **changes)  # type: ignore[arg-type]
    for summary in _SUMMARIES
    for power, changes in _POWERS.items()
}
# the pairs of rankings that are averaged, by the group's name
GROUPS: dict[str, list[tuple[str, str]]] = {
    "summaries": list(combinations(_SUMMARIES, 2)),
    "powers of the distance": [
        pair for summary in _SUMMARIES for pair in combinations([f"{summary}{power}" for power in _POWERS], 2)
    ],
    "all settings": list(combinations(RANKINGS, 2)),
    "score and strawman": [("sum", STRAWMAN)],
}


def spread(scores: TopicScores) -> dict[str, float]:
    """Figures of one distribution: n_scored, and mean, quartiles and extremes of the scores and of g."""
    scored = scores.table[scores.table["score"].notna()]
    figures: dict[str, float] = {"n_scored": len(scored)}
    for name in ("score", "g"):
        lowest, lower, median, upper, highest = np.quantile(scored[name], [0, 0.25, 0.5, 0.75, 1])
        figures |= {f"{name}_mean": float(scored[name].mean()), f"{name}_lowest": lowest, f"{name}_highest": highest}
        figures |= {f"{name}_lower_quartile": lower, f"{name}_median": median, f"{name}_upper_quartile": upper}
    return figures


def quantiles(scores: TopicScores) -> pd.DataFrame:
    """N_QUANTILES evenly spaced quantiles, from 0 to 1, from which the violin is drawn.

    Returns:
        Columns quantile, score, g. As g falls when the score rises, it is given at 1 - quantile: a row is about one
        neuron.
    """
    scored = scores.table[scores.table["score"].notna()]
    at = np.linspace(0, 1, N_QUANTILES)
    return pd.DataFrame(
        {"quantile": at, "score": np.quantile(scored["score"], at), "g": np.quantile(scored["g"], 1 - at)}
    )


def tau_table(rankings: dict[str, Float[np.ndarray, "scored"]]) -> pd.DataFrame:
    """Kendall's tau-b of every pair of rankings of the same neurons: columns first, second, tau.

    Tau-b counts two neurons that tie in one ranking as neither agreeing nor disagreeing; in the strawman most neurons
    tie at 0. NaN if all neurons tie in one of the two rankings.
    """
    rows = [
        (first, second, float(kendalltau(rankings[first], rankings[second]).statistic))
        for first, second in combinations(rankings, 2)
    ]
    return pd.DataFrame(rows, columns=["first", "second", "tau"])


def with_mean(by_topic: pd.DataFrame) -> pd.DataFrame:
    """The tau table of several topics, followed by each pair's mean over topics as topic ALL_TOPICS."""
    mean = by_topic.groupby(["first", "second"], sort=False)["tau"].mean().reset_index()
    return pd.concat([by_topic, mean.assign(topic=ALL_TOPICS)], ignore_index=True)[by_topic.columns]


def agreement(by_topic: pd.DataFrame) -> pd.DataFrame:
    """Mean tau within groups of rankings, to compare with the paper's 0.741.

    Returns:
        Columns between (the group); pairs (of rankings, their number); tau (mean over topics and pairs); lowest and
        highest (tau of a pair in one topic).
    """
    rows = []
    keyed = by_topic.set_index(["first", "second"])["tau"]
    for name, pairs in GROUPS.items():
        tau = keyed[keyed.index.isin(pairs)]
        rows.append((name, len(pairs), float(tau.mean()), float(tau.min()), float(tau.max())))
    return pd.DataFrame(rows, columns=["between", "pairs", "tau", "lowest", "highest"])


def formats(topic: Topic) -> list[int]:
    """How many of the topic's first prompts to score with: FEW_PROMPTS and all, or only all if there are no more."""
    return sorted({min(FEW_PROMPTS, len(topic.prompts)), len(topic.prompts)})


def draws(topic: Topic, seed: int) -> list[Int[np.ndarray, "few"]]:
    """The prompts of each random draw, in order; none if the topic has no more than FEW_PROMPTS."""
    n, rng = len(topic.prompts), np.random.default_rng(seed)
    return [np.sort(rng.choice(n, FEW_PROMPTS, replace=False)) for _ in range(N_DRAWS)] if n > FEW_PROMPTS else []


@dataclass(frozen=True)
class Draws:
    """The scores by random draws of a topic's prompts, compared with those by all of them."""

    scores: list[TopicScores]
    whole: TopicScores

    def figures(self) -> pd.DataFrame:
        """One row per draw: its number from 1, `spread` of its scores, and tau with the ranking by all prompts."""
        rows = [
            {"draw": number, **spread(scores), "tau": _tau(scores, self.whole)}
            for number, scores in enumerate(self.scores, start=1)
        ]
        return pd.DataFrame(rows)

    def between(self) -> list[float]:
        """Tau of every two draws."""
        return [_tau(first, second) for first, second in combinations(self.scores, 2)]


def _tau(first: TopicScores, second: TopicScores) -> float:
    """Kendall's tau-b of two rankings of the same scored neurons."""
    a, b = (scores.table["score"].dropna().to_numpy() for scores in (first, second))
    return float(kendalltau(a, b).statistic)


def draws_agreement(of_draws: Mapping[str, Draws]) -> pd.DataFrame:
    """Rows like those of `agreement`: draws against all prompts, and against each other; none without draws."""
    drawn = [own for own in of_draws.values() if own.scores]
    if not drawn:
        return pd.DataFrame()
    n = len(drawn[0].scores)
    groups = {
        f"{FEW_PROMPTS} prompts and all": (n, [own.figures()["tau"].tolist() for own in drawn]),
        f"two draws of {FEW_PROMPTS} prompts": (n * (n - 1) // 2, [own.between() for own in drawn]),
    }
    return pd.DataFrame(
        [
            {"between": name, "pairs": pairs, "tau": np.mean(tau), "lowest": np.min(tau), "highest": np.max(tau)}
            for name, (pairs, tau) in groups.items()
        ]
    )


def scored_by_all(store: Store, embedding_model: EmbeddingModel, topic: Topic) -> dict[tuple[str, int], TopicScores]:
    """A topic's scores under each of RANKINGS with all its prompts, and under each summary with FEW_PROMPTS.

    Returns:
        Scores by ranking and number of prompts.
    """
    embeddings = embedding_model.embed(topic.prompts)
    return {
        (name, n): score_topic(store, embeddings[:n], settings)
        for n in formats(topic)
        for name, settings in RANKINGS.items()
        if n == len(topic.prompts) or name in _SUMMARIES
    }


def topic_rankings(
    workbench: Workbench, topic: Topic, scored: dict[tuple[str, int], TopicScores]
) -> dict[str, Float[np.ndarray, "scored"]]:
    """Scores under each of RANKINGS and under the strawman; the scored neurons are the same under every setting."""
    model, sae = workbench.model, workbench.sae
    share = strawman(token_activations(model, sae, topic.prompts, max_length=model.n_context), sae.d_sae)
    known = scored["sum", len(topic.prompts)].table["score"].notna().to_numpy()
    of_settings = {name: scored[name, len(topic.prompts)].table["score"].to_numpy()[known] for name in RANKINGS}
    return {**of_settings, STRAWMAN: share[known]}


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `distributions` (figures), `distributions-` `quantiles`, `tau`, `agreement` and, where drawn, `draws`."""
    figures: list[dict[str, object]] = []
    drawn, taus, of_draws = [], [], {}
    for number, topic in enumerate(options.topics):
        progress(topic.title, number / len(options.topics))
        scored = scored_by_all(workbench.store, workbench.embedding_model, topic)
        for (name, n), scores in scored.items():
            if name in _SUMMARIES:
                labels = {"topic": topic.name, "summary": name, "prompts": n}
                figures.append({**labels, **spread(scores)})
                drawn.append(quantiles(scores).assign(**labels)[[*labels, "quantile", "score", "g"]])
        taus.append(tau_table(topic_rankings(workbench, topic, scored)).assign(topic=topic.name))
        embeddings = workbench.embedding_model.embed(topic.prompts)
        own = [score_topic(workbench.store, embeddings[few]) for few in draws(topic, options.seed)]
        of_draws[topic.name] = Draws(own, scored["sum", len(topic.prompts)])
    progress("done", 1.0)
    by_topic = pd.concat(taus, ignore_index=True)[["topic", "first", "second", "tau"]]
    return {
        "distributions": pd.DataFrame(figures),
        "distributions-quantiles": pd.concat(drawn, ignore_index=True),
        "distributions-tau": with_mean(by_topic),
        "distributions-agreement": pd.concat([agreement(by_topic), draws_agreement(of_draws)], ignore_index=True),
        **_draws_table(of_draws),
    }


def _draws_table(of_draws: Mapping[str, Draws]) -> dict[str, pd.DataFrame]:
    tables = [own.figures().assign(topic=topic) for topic, own in of_draws.items() if own.scores]
    return {"distributions-draws": pd.concat(tables, ignore_index=True)} if tables else {}
