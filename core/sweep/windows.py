"""Windows of an alpha sweep: where amplifying a neuron is harmless, where it helps, and where the text collapses.

The rules are ours, as the FAST paper (F.4) judges by eye. `RULES` states them in words for pages and commands.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from core.results.statistics import Interval, bootstrap_mean, paired_difference

FIGURES = (
    "perplexity",
    "distinct_2",
    "distinct_3",
    "repetition",
    "language_switch",
    "confidence",
    "n_tokens",
    "acceptability",
    "judge",
)
# figures that may improve on the unsteered answers, most trusted first, and their better direction
IMPROVING: dict[str, Literal["low", "high"]] = {"judge": "high", "acceptability": "high", "distinct_2": "high"}
IMPROVING |= {"repetition": "low", "perplexity": "low", "confidence": "high"}

# times the unsteered answers' perplexity; a model's own greedy answers have about the lowest that it gives
TOLERANCE = 2.0
COLLAPSE_PERPLEXITY = 10.0  # times the unsteered answer's
HARMLESS_COLLAPSED = 0.1  # share of the questions
COLLAPSED = 0.5  # share of the questions

RULES = {
    "collapsed": "An answer has collapsed if the model's output overflows, if nothing is left of it, if its "
    f"perplexity under the unsteered model is over {COLLAPSE_PERPLEXITY:g} times that of the unsteered answer, or if "
    "its repetition is over halfway from the unsteered answer's to 1.",
    "harmless": f"Harmless: from 0 as far as perplexity under the unsteered model (geometric mean over the questions) "
    f"stays within {TOLERANCE:g} times that of the unsteered answers and at most {HARMLESS_COLLAPSED:.0%} of the "
    f"answers have collapsed.",
    "improved": "Improved: the longest run of alphas within the harmless window at which the figure is better than "
    "unsteered, question by question, with a 95% bootstrap interval wholly on the better side.",
    "collapse": f"Collapse: the alpha nearest to 0 at which at least {COLLAPSED:.0%} of the answers have collapsed.",
}

Window = tuple[float, float]  # lowest and highest alpha


@dataclass(frozen=True)
class Windows:
    """The suggested windows of one neuron's sweep, by `RULES`."""

    harmless: Window
    improved: Window | None
    improved_by: str  # name of the figure
    collapse: tuple[float, ...]  # at most one on either side of 0


def mark_collapsed(rows: pd.DataFrame) -> pd.Series:
    """Marks which answers to one question have collapsed; the unsteered one (alpha 0) never has.

    Args:
        rows: columns alpha, overflow, n_tokens, perplexity, repetition; one row has alpha 0.
    """
    unsteered = rows.loc[rows["alpha"] == 0].iloc[0]
    nothing_left = (rows["n_tokens"] == 0) & (unsteered["n_tokens"] > 0)
    surprising = rows["perplexity"] > COLLAPSE_PERPLEXITY * unsteered["perplexity"]
    repetitive = rows["repetition"] > (unsteered["repetition"] + 1) / 2
    return (rows["overflow"] | nothing_left | surprising | repetitive) & (rows["alpha"] != 0)


def _by_question(rows: pd.DataFrame, figure: str) -> pd.DataFrame:
    """One figure as a table [question, alpha]."""
    return rows.pivot(index="question", columns="alpha", values=figure).astype(float)


def _log_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Natural log of each answer's perplexity over that of the unsteered answer, as a table [question, alpha]."""
    logs = np.log(_by_question(rows, "perplexity"))
    return logs.sub(logs[0.0], axis=0)


def means_by_alpha(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per alpha: each figure's mean over the questions where it is defined, with its 95% bootstrap interval.

    `perplexity_ratio` is the geometric mean of perplexity over that of the unsteered answer, `collapsed` the share of
    collapsed answers.
    """
    ratios = _log_ratios(rows)
    table = []
    for alpha, group in rows.groupby("alpha"):
        line: dict[str, object] = {"alpha": alpha, "shift": group["shift"].iloc[0], "n": len(group)}
        line["collapsed"] = float(group["collapsed"].mean())
        line |= _columns("perplexity_ratio", _exp(bootstrap_mean(ratios[alpha].to_numpy())))
        for figure in FIGURES:
            line |= _columns(figure, bootstrap_mean(group[figure].to_numpy(dtype=float)))
        table.append(line)
    return pd.DataFrame(table)


def _exp(interval: Interval) -> Interval:
    return Interval(math.exp(interval.mean), math.exp(interval.low), math.exp(interval.high), interval.n)


def _columns(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.mean, f"{name}_low": interval.low, f"{name}_high": interval.high}


def measured_figures(rows: pd.DataFrame) -> list[str]:
    """The figures of `IMPROVING` that have a value in at least one row."""
    return [figure for figure in IMPROVING if rows[figure].notna().any()]


def find_windows(rows: pd.DataFrame, figure: str | None = None) -> Windows:
    """The suggested windows of one neuron's sweep, by `RULES`.

    Args:
        rows: the answers of the sweep, as `core.sweep.run.answer_rows` returns them.
        figure: the figure that has to improve; by default the first of `IMPROVING` that is measured.
    """
    chosen = figure or measured_figures(rows)[0]
    alphas = sorted(rows["alpha"].unique())
    collapsed = rows.groupby("alpha")["collapsed"].mean()
    ratio = np.exp(_log_ratios(rows).mean())
    fluent = {a for a in alphas if ratio[a] <= TOLERANCE and collapsed[a] <= HARMLESS_COLLAPSED} | {0.0}
    harmless = next(run for run in _runs(alphas, fluent) if 0.0 in run)
    better = {a for a in harmless if a and _is_better(rows, chosen, a)}
    improved = max(_runs(alphas, better), key=lambda run: (len(run), -min(map(abs, run))), default=None)
    beyond = [a for a in alphas if collapsed[a] >= COLLAPSED]
    sides = [[a for a in beyond if a < 0][-1:], [a for a in beyond if a > 0][:1]]
    return Windows(
        harmless=(harmless[0], harmless[-1]),
        improved=None if improved is None else (improved[0], improved[-1]),
        improved_by=chosen,
        collapse=tuple(float(a) for side in sides for a in side),
    )


def _runs(alphas: Sequence[float], wanted: set[float]) -> list[list[float]]:
    """The wanted alphas, grouped into runs of neighbours on the grid."""
    runs: list[list[float]] = [[]]
    for alpha in alphas:
        if alpha in wanted:
            runs[-1].append(float(alpha))
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def _is_better(rows: pd.DataFrame, figure: str, alpha: float) -> bool:
    """Whether the interval of the figure's paired difference from unsteered lies entirely on its better side."""
    values = _by_question(rows, figure)
    change = paired_difference(values[alpha], values[0.0])
    if change.n < 2:  # a single question has no interval
        return False
    return change.low > 0 if IMPROVING[figure] == "high" else change.high < 0


def compare_neurons(sweeps: Mapping[int, pd.DataFrame], figure: str | None = None) -> pd.DataFrame:
    """One row per neuron with the windows of its sweep, in the order given.

    Args:
        sweeps: the rows of each sweep, by neuron.
        figure: see `find_windows`.
    """
    table = []
    for neuron, rows in sweeps.items():
        windows = find_windows(rows, figure)
        improved = windows.improved or (math.nan, math.nan)
        above = [alpha for alpha in windows.collapse if alpha > 0]
        table.append(
            {
                "neuron": neuron,
                "questions": rows["question"].nunique(),
                "harmless_from": windows.harmless[0],
                "harmless_to": windows.harmless[1],
                "improved_from": improved[0],
                "improved_to": improved[1],
                "improved_by": windows.improved_by,
                "collapse": above[0] if above else math.nan,
                "largest_alpha": rows["alpha"].max(),
            }
        )
    return pd.DataFrame(table)
