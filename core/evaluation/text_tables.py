"""Tables of the text experiment: means over prompts, and differences paired by prompt, from one row a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd

from core.evaluation.experiments import ALL_TOPICS
from core.evaluation.text_columns import NONE, SHUFFLED, VARIANTS
from core.results.statistics import bootstrap_mean
from core.steering.workbench import FIGURE_NAMES

FIGURES = (
    *FIGURE_NAMES,
    *("accepted", "acceptability", "distinct_3", "language_switch", "confidence", "n_tokens"),
    *("concept", "fluency", "concept_fluency"),
    *("judged_concept", "judged_instruction", "judged_fluency", "judged"),  # NaN unless a judge was asked for
)
PAIRS = (
    *(("swap", "sae"), ("swap", NONE), ("swap", SHUFFLED), ("clamp", "sae")),
    *((name, variant.of) for name, variant in VARIANTS.items()),
    *((name, "random") for name in ("clamp-tuned", "strawman", "output")),
)
PAIRED_FIGURES = ("distance", "perplexity", "accepted", "acceptability")
KEYS = ["topic", "prompts", "edit"]


def with_saved(rows: pd.DataFrame, saved: pd.DataFrame | None) -> pd.DataFrame:
    """The rows after those that were saved before, of which the same topics, prompts and columns are replaced."""
    if saved is None:
        return rows
    new = pd.MultiIndex.from_frame(rows[KEYS])
    kept = saved[~pd.MultiIndex.from_frame(saved[KEYS]).isin(new)]
    return pd.concat([kept, rows], ignore_index=True)


def by_prompt(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean of each figure over seeds, and their number `seeds`; one row per (topic, prompts, edit, prompt)."""
    texts = rows.groupby([*KEYS, "prompt"], sort=False)
    return texts[list(FIGURES)].mean().assign(seeds=texts.size()).reset_index()


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """Mean over prompts of each figure with its 95% interval, one row per (topic, prompts, edit).

    With several topics there are also rows over all of them (`ALL_TOPICS`). `n` is the number of prompts, `seeds` the
    number of texts per prompt (and topic).
    """
    means = by_prompt(rows)
    strengths = rows.groupby(KEYS)["strength"].first()
    table = []
    for key, part in _with_all_topics(means, KEYS):
        line: dict[str, object] = {**dict(zip(KEYS, key, strict=True)), "n": len(part)}
        line |= {"seeds": int(part["seeds"].iloc[0]), "strength": strengths.get(key, np.nan)}  # each topic has its own
        for name in FIGURES:
            interval = bootstrap_mean(part[name].to_numpy())
            line |= {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}
        table.append(line)
    return pd.DataFrame(table)


def _with_all_topics(table: pd.DataFrame, keys: Sequence[str]) -> Iterator[tuple[tuple[str, ...], pd.DataFrame]]:
    """The groups by `keys`, the first of which is the topic; with several topics, then the groups over all topics.

    Over all topics a prompt is one row, the mean over the topics it was continued for: its continuations for two topics
    are not independent (unsteered, they are the same text). A column that some topic lacks has no such row.
    """
    yield from table.groupby(list(keys), sort=False)
    if table["topic"].nunique() < 2:
        return
    n_topics = table.groupby("prompts")["topic"].nunique()
    for key, part in table.groupby(list(keys[1:]), sort=False):
        if part["topic"].nunique() == n_topics[key[0]]:
            yield (ALL_TOPICS, *key), part.groupby("prompt", sort=False).mean(numeric_only=True).reset_index()


def compare(
    rows: pd.DataFrame, pairs: Sequence[tuple[str, str]] = PAIRS, figures: Sequence[str] = PAIRED_FIGURES
) -> pd.DataFrame:
    """Differences first - second, paired by prompt, with 95% intervals, per topic and over all (`ALL_TOPICS`).

    Pairs with a column that was not generated are left out, for every topic and set of prompts.
    """
    written = set(rows["edit"])
    columns = rows.groupby(["topic", "prompts"])["edit"].agg(set)
    of_all = columns.groupby("prompts").agg(lambda sets: set.intersection(*sets))
    wanted = [(*pair, figure) for pair in pairs if written.issuperset(pair) for figure in figures]
    by_edit = by_prompt(rows).pivot(index=["topic", "prompts", "prompt"], columns="edit", values=list(figures))
    differences = pd.DataFrame(
        {number: by_edit[figure, a] - by_edit[figure, b] for number, (a, b, figure) in enumerate(wanted)},
        index=by_edit.index,
    ).reset_index()
    table = []
    for (topic, prompts), part in _with_all_topics(differences, ["topic", "prompts"]):
        known = of_all[prompts] if topic == ALL_TOPICS else columns[topic, prompts]
        for number, (first, second, figure) in enumerate(wanted):
            if not known.issuperset((first, second)):
                continue
            interval = bootstrap_mean(part[number].to_numpy())
            table.append(
                {
                    **{"topic": topic, "prompts": prompts, "first": first, "second": second, "figure": figure},
                    **{"difference": interval.mean, "low": interval.low, "high": interval.high, "n": interval.n},
                }
            )
    return pd.DataFrame(table)
