"""Plotly charts used by several pages. Fonts, grid and background follow Streamlit's theme."""

import textwrap
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from core.scoring.scores import prompt_summaries
from core.settings import ScoreSettings
from pages.shared.charts.colours import ALIGNED, EDITS, UNALIGNED

CONFIG = {"displayModeBar": False}
_MAX_POINTS = 2_000  # drawn in one figure
_HOVER_CHARACTERS = 240
FAINT = "rgba(127, 127, 127, 0.35)"  # between background and text in both themes


def layout(figure: go.Figure, height: int, **more: object) -> go.Figure:
    """Gives a chart the margins and axes that all charts of the app share; `height` in pixels."""
    figure.update_layout(height=height, margin={"l": 8, "r": 8, "t": 8, "b": 8}, showlegend=False, **more)
    figure.update_xaxes(automargin=True, zeroline=False)
    figure.update_yaxes(automargin=True, zeroline=False)
    return figure


def _quantiles(values: Float[np.ndarray, "value"], n: int) -> Float[np.ndarray, "at_most_n"]:
    """The values, or `n` evenly spaced quantiles of them if there are more: about the same distribution."""
    ordered = np.sort(values)
    return ordered[np.linspace(0, len(ordered) - 1, n).round().astype(int)] if len(ordered) > n else ordered


def hover(text: str) -> str:
    """A prompt wrapped for a hover label; its markup is escaped."""
    return "<br>".join(escape(line) for line in textwrap.wrap(textwrap.shorten(text, _HOVER_CHARACTERS), 60))


def score_violin(scores: Float[np.ndarray, "scored"], marked: float | None, neuron: int) -> go.Figure:
    """Distribution of all scores on one axis, with the open neuron marked."""
    figure = go.Figure(
        go.Violin(
            x=_quantiles(scores, _MAX_POINTS),
            orientation="h",
            side="positive",
            points=False,
            spanmode="hard",
            line={"color": UNALIGNED, "width": 1},
            fillcolor=FAINT,
            hoverinfo="skip",
            y0=0,
        )
    )
    if marked is not None and np.isfinite(marked):
        figure.add_vline(x=marked, line={"color": ALIGNED, "width": 2})
        figure.add_annotation(
            x=marked,
            y=1,
            yref="paper",
            text=f"neuron {neuron:,}",
            showarrow=False,
            xanchor="right" if marked > 0.5 else "left",
            yanchor="top",
            xshift=-6 if marked > 0.5 else 6,
        )
    figure.update_xaxes(title="score", range=[-0.02, 1.02])
    figure.update_yaxes(showticklabels=False, showgrid=False, range=[0, 0.55])
    return layout(figure, 150)


def summary_against_distance(
    rows: pd.DataFrame, distances: Float[np.ndarray, "prompt"], settings: ScoreSettings
) -> go.Figure:
    """Each reference prompt on which a neuron is active: its distance from the topic and the neuron's summary (Fig. 9).

    Args:
        rows: from `Store.neuron_rows`.
        distances: of every reference prompt from the topic.
    """
    table = rows.assign(summary=prompt_summaries(rows, settings), distance=distances[rows["prompt"]])
    if len(table) > _MAX_POINTS:  # the score depends mostly on the strongest
        table = table.nlargest(_MAX_POINTS, "summary")
    nearest, farthest = np.quantile(distances, [0.25, 0.75])
    colours = np.where(table["distance"] <= nearest, ALIGNED, UNALIGNED)
    figure = go.Figure(
        go.Scatter(
            x=table["distance"],
            y=table["summary"],
            mode="markers",
            marker={"size": 6, "color": colours, "opacity": 0.55},
            customdata=np.column_stack([table["text"].map(hover), table["group"].map(escape)]),
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b> distance %{x:.3g}, summary %{y:.3g}"
            "<extra></extra>",
        )
    )
    for edge, label, anchor in ((nearest, "nearest quarter", "right"), (farthest, "farthest quarter", "left")):
        figure.add_vline(x=edge, line={"color": UNALIGNED, "width": 1, "dash": "dot"})
        figure.add_annotation(
            x=edge, y=1, yref="paper", yanchor="bottom", text=label, showarrow=False, xanchor=anchor, font={"size": 11}
        )
    figure.update_xaxes(title="distance of the prompt from the topic")
    figure.update_yaxes(title=f"summary ({settings.summary})", rangemode="tozero")
    figure = layout(figure, 280)
    return figure.update_layout(margin_t=22)


def activation_histogram(histogram: Sequence[int], largest: float) -> go.Figure:
    """Tokens by a neuron's activation on them, in equal bins from 0 to its largest (histogram of `Store.neurons`)."""
    edges = np.linspace(0, largest, len(histogram) + 1)
    figure = go.Figure(
        go.Bar(
            x=(edges[:-1] + edges[1:]) / 2,
            y=list(histogram),
            width=np.diff(edges),
            marker={"color": ALIGNED, "line": {"width": 0}},
            customdata=np.column_stack([edges[:-1], edges[1:]]),
            hovertemplate="%{y:,} tokens between %{customdata[0]:.3g} and %{customdata[1]:.3g}<extra></extra>",
        )
    )
    figure.update_xaxes(title="activation", rangemode="tozero")
    figure.update_yaxes(title="tokens")
    return layout(figure, 170, bargap=0.08)


def group_bars(shares: pd.DataFrame) -> go.Figure:
    """A neuron's share of activation in each group of prompts, beside that of all neurons.

    Args:
        shares: columns group, share, share_all.
    """
    table = shares.iloc[::-1]
    figure = go.Figure(
        [
            go.Bar(
                x=table["share"],
                y=table["group"],
                orientation="h",
                marker={"color": ALIGNED},
                name="this neuron",
                hovertemplate="%{y}: %{x:.3p} of this neuron<extra></extra>",
            ),
            go.Scatter(
                x=table["share_all"],
                y=table["group"],
                mode="markers",
                marker={"symbol": "line-ns", "size": 14, "line": {"width": 2, "color": UNALIGNED}},
                name="all neurons",
                hovertemplate="%{y}: %{x:.3p} of all neurons<extra></extra>",
            ),
        ]
    )
    figure.update_xaxes(title="share of activation (bar: this neuron, tick: all neurons)", tickformat=".0%")
    return layout(figure, 70 + 20 * len(table), bargap=0.3)


def figure_strip(rows: pd.DataFrame, figure_name: str, title: str, columns: Mapping[str, str]) -> go.Figure:
    """One figure of collected texts, by edit; each text is a point.

    Args:
        columns: titles by edit.
    """
    chart = go.Figure()
    rows = rows.dropna(subset=[figure_name])
    for edit, mine in rows.groupby("edit"):
        chart.add_scatter(
            x=mine[figure_name],
            y=mine["edit"].map(columns),
            mode="markers",
            marker={"size": 10, "color": EDITS[edit], "opacity": 0.75},
            customdata=np.column_stack([mine["text"].map(hover), mine["topic"].map(escape)]),
            hovertemplate="%{customdata[0]}<br><b>%{customdata[1]}</b> %{x:.3g}<extra></extra>",
        )
    chart.update_xaxes(title=title)
    chart.update_yaxes(categoryorder="array", categoryarray=list(columns.values())[::-1])
    return layout(chart, 70 + 32 * rows["edit"].nunique())
