"""Charts of the Special tokens page: one figure of the answers against alpha, with the open neuron's windows."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.graph_objects as go

from core.results.names import Names
from core.sweep.windows import Windows
from pages.shared.charts.colours import ALIGNED, EDITS
from pages.shared.charts.figures import layout

HEIGHT = 230  # pixels
_OTHERS = (EDITS["ft"], EDITS["weight"], EDITS["sae"], EDITS["prompt"])
_HARMLESS = "rgba(0, 158, 115, 0.13)"  # ALIGNED, faint on both themes' backgrounds
_IMPROVED = "rgba(0, 158, 115, 0.22)"  # drawn on top of the harmless window
_BAND = "rgba(170, 68, 153, 0.18)"  # in the open neuron's colour
_COLLAPSE = EDITS["clamp"]
_HOVER = "<b>%{fullData.name}</b> alpha %{x:.4~g}: %{y:.3~g}<extra></extra>"


@dataclass(frozen=True)
class Line:
    """How a neuron's curve is drawn."""

    title: str
    colour: str
    dash: str = "solid"


def neuron_lines(neuron: int, others: list[int], control: int | None, names: Names) -> dict[int, Line]:
    """The curve of each neuron: the open one, those beside it, and the random control, dotted."""
    lines = {neuron: Line(str(names[neuron]), EDITS["add"])}
    for i, other in enumerate(others):
        lines.setdefault(other, Line(str(names[other]), _OTHERS[i % len(_OTHERS)]))
    if control is not None:
        lines.setdefault(control, Line(f"{names[control]} (random)", EDITS["none"], "dot"))
    return lines


def figure_over_alpha(
    means: Mapping[int, pd.DataFrame], lines: Mapping[int, Line], name: str, title: str, windows: Windows, *, log: bool
) -> go.Figure:
    """One figure against alpha, one line per neuron; the open neuron has its interval as a band and its windows shaded.

    Args:
        means: from `core.sweep.windows.means_by_alpha`, by neuron, the open one first.
    """
    figure = go.Figure()
    open_neuron = next(iter(means))
    _shade(figure, windows)
    table = means[open_neuron]
    figure.add_scatter(
        x=[*table["alpha"], *table["alpha"][::-1]],
        y=[*table[f"{name}_high"], *table[f"{name}_low"][::-1]],
        mode="lines",
        fill="toself",
        fillcolor=_BAND,
        line={"width": 0},
        hoverinfo="skip",
    )
    for neuron, rows in means.items():
        line = lines[neuron]
        figure.add_scatter(
            x=rows["alpha"],
            y=rows[name],
            mode="lines+markers",
            name=escape(line.title),
            line={"color": line.colour, "width": 2, "dash": line.dash},
            marker={"size": 6},
            hovertemplate=_HOVER,
        )
    figure.update_xaxes(title="alpha")
    figure.update_yaxes(title=title, type="log" if log else "linear", rangemode="normal" if log else "tozero")
    return layout(figure, HEIGHT).update_layout(margin_t=18)


def _shade(figure: go.Figure, windows: Windows) -> None:
    for window, colour in ((windows.harmless, _HARMLESS), (windows.improved, _IMPROVED)):
        if window is not None and window[0] < window[1]:
            figure.add_vrect(*window, fillcolor=colour, line_width=0, layer="below")
        elif window is not None and window[0]:  # the window is a single alpha
            figure.add_vline(window[0], line={"color": ALIGNED, "width": 2}, layer="below")
    for alpha in windows.collapse:
        figure.add_vline(alpha, line={"color": _COLLAPSE, "width": 1.5, "dash": "dash"})
        figure.add_annotation(
            x=alpha, y=1, yref="paper", yanchor="bottom", text="collapse", showarrow=False,
            font={"color": _COLLAPSE, "size": 11},
        )  # fmt: skip


def legend_colours(lines: Mapping[int, Line]) -> dict[str, str]:
    """What the colours of the curves and of the shaded windows mean."""
    return {line.title: line.colour for line in lines.values()} | {
        "harmless": _HARMLESS,
        "improved": _IMPROVED,
        "collapse": _COLLAPSE,
    }
