"""What each way of steering does to text, topic by topic (Topic Alignment paper, 4.3 and A.5; its Tables 2, 7, 8).

Every prompt is continued once a column, with the same seed in every column, so that columns are compared in pairs. The
control is swap with the scores shuffled among the scored neurons: the same machinery without the topic.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from jaxtyping import Float

from core.edits import EDIT_NAMES, make_edit
from core.evaluation.experiments import ExperimentOptions, Progress
from core.evaluation.statistics import bootstrap_mean, paired_difference
from core.prompts import Topic, continuations
from core.settings import GenerationSettings
from core.workbench import FIGURE_NAMES, ScoredTopic, SteeringSettings, Workbench

SHUFFLED = "swap-shuffled"
COLUMNS = ("none", "sae", "clamp", "swap", SHUFFLED)


def shuffled_scores(score: Float[np.ndarray, "d_sae"], seed: int) -> Float[np.ndarray, "d_sae"]:
    """The scores permuted among the neurons that have one; the others stay 0."""
    scored = np.flatnonzero(score)
    out = np.zeros_like(score)
    out[scored] = np.random.default_rng(seed).permutation(score[scored])
    return out


def _column(
    workbench: Workbench,
    name: str,
    prompts: Sequence[str],
    scored: ScoredTopic,
    generation: GenerationSettings,
    steering: SteeringSettings,
) -> pd.DataFrame:
    if name == SHUFFLED:
        score = shuffled_scores(scored.scores.steering_vector(), generation.seed)
        edit = make_edit(
            "swap", workbench.sae, score=score, keep_error=steering.keep_error, matched_count=steering.matched_count
        )
    else:
        edit = workbench.edit(EDIT_NAMES[EDIT_NAMES.index(name)], scored, steering)
    column = workbench.column(name, edit, prompts, scored, generation, steering.positions)
    frame = pd.DataFrame(column.figures)
    texts = [g.text for g in column.generations]
    return frame.assign(topic=scored.topic.name, edit=name, prompt=list(prompts), text=texts)


def continue_prompts(
    workbench: Workbench,
    topics: Sequence[Topic],
    prompts: Sequence[str],
    generation: GenerationSettings,
    steering: SteeringSettings | None = None,
    columns: Sequence[str] = COLUMNS,
    progress: Progress = lambda stage, share: None,
) -> pd.DataFrame:
    """One row a (topic, column, prompt): the continuation and its figures."""
    rows = []
    for number, topic in enumerate(topics):
        scored = workbench.score(topic)
        for name in columns:
            rows.append(_column(workbench, name, prompts, scored, generation, steering or SteeringSettings()))
            progress("text", (number + len(rows) % len(columns) / len(columns)) / len(topics))
    progress("text", 1.0)
    return pd.concat(rows, ignore_index=True)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of each figure with its 95% interval, one row a (topic, column)."""
    table = []
    for (topic, edit), group in rows.groupby(["topic", "edit"], sort=False):
        line: dict[str, object] = {"topic": topic, "edit": edit, "n": len(group)}
        for name in FIGURE_NAMES:
            interval = bootstrap_mean(group[name].to_numpy())
            line |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        table.append(line)
    return pd.DataFrame(table)


def compare(
    rows: pd.DataFrame, first: str = "swap", second: str = SHUFFLED, figures: Sequence[str] = ("distance", "perplexity")
) -> pd.DataFrame:
    """Paired difference first - second a topic, and over all topics, with 95% intervals."""
    table = []
    pivot = rows.pivot(index=["topic", "prompt"], columns="edit")
    topics = [*dict.fromkeys(rows["topic"]), None]
    for topic in topics:
        part = pivot if topic is None else pivot.loc[[topic]]
        for figure in figures:
            interval = paired_difference(part[figure, first], part[figure, second])
            table.append(
                {
                    "topic": topic or "all",
                    "figure": figure,
                    "difference": interval.mean,
                    "low": interval.low,
                    "high": interval.high,
                    "n": interval.n,
                }
            )
    return pd.DataFrame(table)


def run(
    workbench: Workbench, options: ExperimentOptions, progress: Progress = lambda stage, share: None
) -> dict[str, pd.DataFrame]:
    """Tables `text` (means), `text-pairs` (swap against shuffled swap) and `text-rows` (every continuation)."""
    prompts = continuations()[: options.n]
    rows = continue_prompts(workbench, options.topics, prompts, options.generation, options.steering, progress=progress)
    return {"text": summarise(rows), "text-pairs": compare(rows), "text-rows": rows}
