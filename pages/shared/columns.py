"""A comparison as HTML: one column per edit, with shaded tokens and figures, the best of each row in bold."""

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Literal

from core.results.names import Names
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


def best_columns(columns: Sequence[Column], figure: str, better: str | None) -> set[int]:
    """Indices of the columns with the best value of a figure as shown; empty if fewer than two have one."""
    shown = {i: c.figures[figure] for i, c in enumerate(columns) if math.isfinite(c.figures.get(figure, math.nan))}
    if better is None or len(shown) < 2:
        return set()
    best = number((min if better == "low" else max)(shown.values()))
    return {i for i, value in shown.items() if number(value) == best}


def _shade(figures: "TokenFigures", shading: Shading) -> float | None:
    return figures.contamination_share if shading == "contamination" else figures.neurons_changed


def _tip(figures: "TokenFigures", names: Names) -> str:
    if figures.neurons_changed is None:
        return ""
    delta = number(figures.reconstruction_delta)
    lines = [f"{count(figures.neurons_changed, 'neuron')} changed", f"reconstruction delta {delta}"]
    if figures.contamination is not None:
        share = number(figures.contamination_share)
        lines.insert(0, f"contamination {number(figures.contamination)}, share {share}")
    if figures.top_neurons:
        lines += ["strongest neurons:", *(f"{names[neuron]}: {number(a)}" for neuron, a in figures.top_neurons)]
    return "\n".join(lines)


def largest_shade(columns: Sequence[Column], shading: Shading) -> float:
    """The figure that gets the full accent colour: a share of 1, or the most neurons changed on a token so far."""
    if shading == "contamination":
        return 1.0
    made = [column.generation for column in columns if column.generation is not None]
    return max((figures.neurons_changed or 0 for generation in made for figures in generation.figures), default=0)


def _text(generation: "Generation", shading: Shading, largest: float, names: Names) -> str:
    tokens = [
        Shaded(token, _shade(figures, shading), _tip(figures, names))
        for token, figures in zip(generation.tokens, generation.figures, strict=True)
    ]
    return token_spans(tokens, largest, prefix=generation.prefix + generation.prompt)


def _table(column: Column, columns: Sequence[Column]) -> str:
    rows = []
    for figure, key, better in FIGURES:
        best = ' class="ss-best"' if columns.index(column) in best_columns(columns, figure, better) else ""
        label = term_link(key, TERMS[key].title)
        rows.append(f"<tr><th>{label}</th><td{best}>{number(column.figures[figure])}</td></tr>")
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


def _column(column: Column, comparison: Comparison, shading: Shading, largest: float, names: Names) -> str:
    """Name, text, proof and figures of a column: four cells, which line up with those of the other columns."""
    text = f'<p class="ss-problem">{escape(column.problem)}</p>' if column.problem else ""
    if column.generation is not None:
        text += _text(column.generation, shading, largest, names)
    proof = figures = ""
    if column.figures and column.generation is not None:
        proof = f'<p class="ss-proof">{_proof(column, column.generation, comparison.request.generation.seed)}</p>'
        figures = _table(column, comparison.columns)
    return (
        f'<section><h3 style="border-color:{EDITS[column.edit]}">{COLUMNS[column.edit]}</h3>'
        f"<div>{text}</div><div>{proof}</div><div>{figures}</div></section>"
    )


def comparison_html(comparison: Comparison, shading: Shading, names: Names) -> str:
    """The legend and all columns, with the text generated so far; `names` are those of the setup's neurons."""
    largest = largest_shade(comparison.columns, shading)
    label = "contamination share of a token" if shading == "contamination" else "neurons changed on a token"
    shown = {column.edit: column for column in comparison.columns}
    cells = "".join(
        _column(shown.get(edit, Column(edit)), comparison, shading, largest, names) for edit in comparison.request.edits
    )
    n = len(comparison.request.edits)
    side_by_side = n if n <= _MOST_SIDE_BY_SIDE else -(-n // 2)  # otherwise in two rows
    return f'{legend("0", f"{largest:g}", label)}<div class="ss-columns" style="--columns:{side_by_side}">{cells}</div>'
