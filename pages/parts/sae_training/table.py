"""The figures of trained SAEs as one table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal

import pandas as pd

from pages.shared.charts.methods import ARCHITECTURES, METHODS, base_method, method_colour, method_title
from pages.shared.columns import number
from pages.shared.glossary.index import term_link


@dataclass(frozen=True)
class Figure:
    """A figure of an SAE on held-out text, as tables and pictures show it."""

    name: str  # column of `core.training.method_comparison.compared`
    term: str
    label: str
    format: str
    better: Literal["low", "high"] | None


GROUP = ["model", "hook_name", "expansion", "architecture"]  # SAEs compared share these; method, lambda and seed differ
_HEADINGS = {"model": "model", "hook_name": "hook point", "expansion": "width", "architecture": "architecture"}
_CELL = "white-space:nowrap;padding-right:0.9rem"
FIGURES = (
    Figure("mse_all_by_sequence", "mse", "MSE all, log2", "{:.3f}", "low"),
    Figure("mse_all_raw", "mse", "MSE all", "", "low"),
    Figure("mse_special_by_sequence", "mse special", "MSE special, log2", "{:.3f}", "low"),
    Figure("mse_special_raw", "mse special", "MSE special", "", "low"),
    Figure("l0", "l0", "L0", "{:.1f}", None),
    Figure("explained_variance", "explained_variance", "expl. variance", "{:.3f}", "high"),
    Figure("dead_share", "dead_share", "dead", "{:.1%}", "low"),
    Figure("ce_recovered", "ce_recovered", "CE recovered", "{:.3f}", "high"),
)


def shown(figure: Figure, row: Mapping[str, float]) -> str:
    """A value as text, as in `-1.234 ± 0.012`; without the spread if there is none, `n/a` without a value."""
    value = float(row[figure.name])
    if not math.isfinite(value):
        return "n/a"
    if not figure.format:
        return number(value)
    spread = row.get(f"{figure.name}_spread", math.nan)
    return figure.format.format(value) + (f" ± {figure.format.format(spread)}" if math.isfinite(spread) else "")


def _best(rows: pd.DataFrame, figure: Figure) -> set[object]:
    """Index labels of the rows with the best value as shown; empty if fewer than two rows have one."""
    values = rows[figure.name].dropna()
    if figure.better is None or len(values) < 2:
        return set()
    best = shown(figure, {figure.name: values.min() if figure.better == "low" else values.max()})
    return {label for label, value in values.items() if shown(figure, {figure.name: value}) == best}


def in_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `compared` or `at_matched_l0` sorted by settings, lambda and method; raw MSE is added beside log2."""
    rank = rows["method"].map(_place)
    by = [name for name in [*GROUP, "sparsity"] if name in rows]
    raw = {f"mse_{of}_raw": 2.0 ** rows[f"mse_{of}_by_sequence"] for of in ("all", "special")}
    ordered = rows.assign(**raw, rank=rank).sort_values([*by, "rank", "method"])
    return ordered.drop(columns="rank").reset_index(drop=True)


def _place(method: str) -> int:
    base = base_method(method)
    return len(METHODS) if base is None else list(METHODS).index(base)


def _in_words(name: str, value: object) -> str:
    match name:
        case "model":
            return Path(str(value)).name
        case "expansion":
            return f"x{value}"
        case "architecture":
            return ARCHITECTURES[str(value)]
    return f"{value:g}" if isinstance(value, float) else str(value)


def group_label(key: Sequence[object]) -> str:
    """Model, hook point, expansion and architecture in words."""
    return " · ".join(_in_words(name, value) for name, value in zip(GROUP, key, strict=True))


def _differing(rows: pd.DataFrame) -> list[str]:
    return [name for name in GROUP if rows[name].nunique() > 1]


def shared_settings(rows: pd.DataFrame) -> str:
    """The settings that all rows share, in words; `results_html` leaves them out."""
    return " · ".join(_in_words(name, rows[name].iloc[0]) for name in GROUP if name not in _differing(rows))


def results_html(rows: pd.DataFrame, *, mark_best: bool) -> str:
    """A table of figures with their spread, in HTML, one row per row of `in_order`.

    Args:
        mark_best: whether the best value of each figure is in bold.
    """
    words = {name: escape(_HEADINGS[name]) for name in _differing(rows)}
    numbers = {"sparsity": term_link("sparsity", "lambda or k"), "seeds": term_link("spread", "seeds")}
    numbers = {name: heading for name, heading in numbers.items() if name in rows}
    best = {figure: _best(rows, figure) if mark_best else set() for figure in FIGURES}
    heads = [f'<th style="{_CELL}">{heading}</th>' for heading in ("method", *words.values())]
    headings = [*numbers.values(), *(term_link(figure.term, figure.label) for figure in FIGURES)]
    heads += [f'<th style="{_CELL};text-align:right">{heading}</th>' for heading in headings]
    body = []
    for label, row in rows.iterrows():
        cells = [f'<th scope="row" style="{_CELL}">{_method_cell(row["method"])}</th>']
        cells += [f'<th style="{_CELL}">{escape(_in_words(name, row[name]))}</th>' for name in words]
        cells += [f'<td style="{_CELL}">{row[name]:g}</td>' for name in numbers]
        for figure in FIGURES:
            marked = "ss-best" if label in best[figure] else ""
            cells.append(f'<td class="{marked}" style="{_CELL}">{shown(figure, row)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    table = f"<thead><tr>{''.join(heads)}</tr></thead><tbody>{''.join(body)}</tbody>"
    return f'<div style="overflow-x:auto"><table class="ss-figures">{table}</table></div>'


def _method_cell(method: str) -> str:
    title = (
        escape(method_title(method)) if (base := base_method(method)) is None else term_link(base, method_title(method))
    )
    return f'<span class="ss-case" style="background:{method_colour(method)}"></span>{title}'
