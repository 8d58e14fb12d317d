"""A comparison as HTML: one column per edit, with shaded tokens and figures."""

import math
from collections.abc import Callable, Iterable
from html import escape
from typing import TYPE_CHECKING, Literal

import numpy as np

from core.results.names import Names
from core.results.statistics import Interval
from pages.shared.charts.colours import EDITS
from pages.shared.comparison import COLUMNS, Column, Comparison
from pages.shared.glossary.index import TERMS, term_link
from pages.shared.messages import count
from pages.shared.tokens import Shaded, legend, token_spans

if TYPE_CHECKING:
    from core.steering.generated import Generation, TokenFigures

Shading = Literal["contamination", "neurons changed"]
_MOST_SIDE_BY_SIDE = 4

# figure, its glossary term, and its better direction (None: neither)
FIGURES: tuple[tuple[str, str, Literal["low", "high"] | None], ...] = (
    ("distance", "text distance", "low"),
    ("topic_percentile", "topic_percentile", "low"),
    ("perplexity", "perplexity", "low"),
    ("contamination", "contamination", "low"),
    ("contamination_share", "contamination_share", "low"),
    ("neurons_changed", "neurons_changed", None),
    ("reconstruction_delta", "reconstruction_delta", "low"),
    ("distinct_2", "distinct_2", "high"),
    ("repetition", "repetition", "low"),
)


def number(value: float) -> str:
    """The value with three significant figures; `n/a` if it is not defined."""
    if not math.isfinite(value):
        return "n/a"
    return f"{value:,.0f}" if abs(value) >= 1_000 else f"{value:#.3g}".rstrip(".")


def interval_cell(interval: Interval) -> str:
    """A mean as HTML, with its 95% interval below where it has one."""
    if interval.n < 2:
        return number(interval.mean)
    return f"{number(interval.mean)}<small> {number(interval.low)} to {number(interval.high)}</small>"


# ---- tokens ----


def _shade(figures: "TokenFigures", shading: Shading) -> float | None:
    if shading == "neurons changed":
        return figures.neurons_changed
    return figures.own_share if figures.contamination_share is None else figures.contamination_share


def _tip(figures: "TokenFigures", names: Names) -> str:
    lines = []
    if figures.own_share is not None:
        lines.append(f"not edited; contamination share of its own neurons {number(figures.own_share)}")
    if figures.contamination is not None:
        share = number(figures.contamination_share or 0.0)
        lines.append(f"contamination {number(figures.contamination)}, share {share}")
    if figures.neurons_changed is not None:
        lines.append(f"{count(figures.neurons_changed, 'neuron')} changed")
        lines.append(f"reconstruction delta {number(figures.reconstruction_delta or 0.0)}")
    if figures.top_neurons:
        lines.append("strongest neurons:")
        lines += [f"{names[neuron]}: {number(a)}" for neuron, a in figures.top_neurons]
    return "\n".join(lines)


def shade_range(generations: Iterable["Generation"], shading: Shading) -> tuple[float, float]:
    """The figures that get the background's colour and the full accent colour.

    For contamination the 2nd and 98th percentile of all tokens shown, since its shares lie close together; for the
    neurons changed 0 and the most.
    """
    told = [figures for generation in generations for figures in generation.figures]
    values = [value for figures in told if (value := _shade(figures, shading)) is not None]
    if shading == "neurons changed":
        return 0.0, float(max(values, default=0))
    if not values:
        return 0.0, 1.0
    low, high = np.percentile(values, (2, 98))
    return float(low), float(high)


def shaded_text(
    generation: "Generation", shading: Shading, bounds: tuple[float, float], names: Names, *, prefix: str = ""
) -> str:
    """The tokens of a continuation, each shaded and with its figures on hover, after a prefix in a muted colour."""
    tokens = [
        Shaded(token, _shade(figures, shading), _tip(figures, names))
        for token, figures in zip(generation.tokens, generation.figures, strict=True)
    ]
    return token_spans(tokens, bounds[1], least=bounds[0], prefix=prefix)


def shading_legend(shading: Shading, bounds: tuple[float, float]) -> str:
    """The ramp with the figures at its ends."""
    if shading == "neurons changed":
        return legend("0", f"{bounds[1]:g}", "neurons changed on a token")
    return legend(f"{bounds[0]:.2f} or less", f"{bounds[1]:.2f} or more", "contamination share of a token")


# ---- columns ----


def figure_table(cells: Iterable[tuple[str, str, bool]]) -> str:
    """Figures of a text as a table (HTML).

    Args:
        cells: glossary term, the value as HTML, and whether it is the best of its row.
    """
    rows = []
    for term, value, best in cells:
        label, mark = term_link(term, TERMS[term].title), ' class="ss-best"' if best else ""
        rows.append(f"<tr><th>{label}</th><td{mark}>{value}</td></tr>")
    return f'<table class="ss-figures">{"".join(rows)}</table>'


def _proof(column: Column, generation: "Generation", seed: int) -> str:
    """What can be checked about a column: where it was edited, and its text at zero strength, if that was run."""
    parts = [
        f"{generation.positions_edited} of {generation.positions_run} positions edited",
        f"seed {seed}",
        f"{len(generation.tokens)} new tokens",
    ]
    if column.proof is not None:
        unsteered = COLUMNS[column.proof.unsteered]
        where = " at the same positions" if column.proof.unsteered == "sae" else ""
        parts.append(
            f"at zero strength {'identical to' if column.proof.identical else 'DIFFERS from'} {unsteered}{where}"
        )
    return " · ".join(parts)


def section(title: str, edit: str, *cells: str) -> str:
    """A column: its title (HTML) under a line of the edit's colour, and cells that line up with other columns'."""
    inner = "".join(f"<div>{cell}</div>" for cell in cells)
    return f'<section><h3 style="border-color:{EDITS[edit]}">{title}</h3>{inner}</section>'


def columns_html(sections: Iterable[str], *, stale: bool = False) -> str:
    """Columns side by side, in two rows where there are many; dimmed where they are stale."""
    shown = list(sections)
    n = len(shown)
    side_by_side = n if n <= _MOST_SIDE_BY_SIDE else -(-n // 2)
    dimmed = " ss-stale" if stale else ""
    return f'<div class="ss-columns{dimmed}" style="--columns:{side_by_side}">{"".join(shown)}</div>'


def comparison_html(
    comparison: Comparison,
    shading: Shading,
    names: Names,
    table: Callable[[str], str],
    *,
    stale: bool = False,
) -> str:
    """The legend and all columns, with the text generated so far.

    Args:
        table: the figures of the column of an edit, as HTML; empty where there are none yet.
    """
    shown = {column.edit: column for column in comparison.columns}
    made = [column.generation for column in comparison.columns if column.generation is not None]
    bounds = shade_range(made, shading)

    def cells(column: Column) -> tuple[str, str, str]:
        text = f'<p class="ss-problem">{escape(column.problem)}</p>' if column.problem else ""
        proof, generation = "", column.generation
        if generation is not None:
            text += shaded_text(generation, shading, bounds, names, prefix=generation.prefix + generation.prompt)
        if column.figures and generation is not None:
            proof = f'<p class="ss-proof">{_proof(column, generation, comparison.request.generation.seed)}</p>'
        return text, proof, table(column.edit)

    sections = [
        section(COLUMNS[edit], edit, *cells(shown.get(edit, Column(edit)))) for edit in comparison.request.edits
    ]
    return shading_legend(shading, bounds) + columns_html(sections, stale=stale)
