"""Charts of the Top-k page: the curves of one topic, and small ones of every topic."""

import math

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from pages.shared.charts.colours import ACCENT, ALIGNED, UNALIGNED
from pages.shared.charts.figures import layout

SMALL_WIDTH, SMALL_HEIGHT = 168, 124  # pixels: two side by side on a phone, five beside the sidebar
_TEXTS = {"aligned": ("the topic's text", ALIGNED), "unaligned": ("unaligned text", UNALIGNED)}
_ROOM = 0.15  # share of tokens that a label needs below its line
_DIFFERENCE = ACCENT["dark"]  # visible on both themes' backgrounds
_DIFFERENCE_FILL = "rgba(141, 133, 232, 0.25)"  # the same colour, a quarter opaque


def _shares(table: pd.DataFrame, prefix: str, width: float, hover: str) -> list[go.Scatter]:
    return [
        go.Scatter(
            x=table["k"],
            y=table[f"{prefix}{name}"],
            mode="lines",
            line={"color": colour, "width": width},
            name=title,
            hovertemplate=f"k = %{{x:,}}: %{{y:.1%}} {hover} {title}<extra></extra>",
        )
        for name, (title, colour) in _TEXTS.items()
    ]


def _label_lines(figure: go.Figure, widest: pd.Series, **place: object) -> None:
    """Names both share lines instead of a legend, at the row `widest`, where they are farthest apart."""
    higher = max(widest["aligned"], widest["unaligned"])
    for name, (title, colour) in _TEXTS.items():
        upper = widest[name] == higher
        below = _ROOM < widest[name] < higher
        figure.add_annotation(
            x=math.log10(widest["k"]),  # annotations on a logarithmic axis take the log
            y=widest[name],
            text=title,
            showarrow=False,
            font={"color": colour},
            xanchor="right" if upper else "left",
            yanchor="top" if below else "bottom",
            xshift=-6 if upper else 6,
            yshift=0 if below else 3,
            **place,
        )


def topk_curves(table: pd.DataFrame, k: int) -> go.Figure:
    """Share of each text's tokens on which one of the k best neurons fires (above), and the difference (below).

    Args:
        table: the curves, one row for each k to draw.
        k: the k to mark.
    """
    figure = make_subplots(2, 1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.05)
    figure.add_traces(_shares(table, "", 2.5, "of the tokens of"), rows=1, cols=1)
    figure.add_scatter(
        x=table["k"],
        y=table["difference"],
        mode="lines",
        line={"color": _DIFFERENCE, "width": 1.5},
        fill="tozeroy",
        fillcolor=_DIFFERENCE_FILL,
        hovertemplate="k = %{x:,}: %{y:+.1%}<extra></extra>",
        row=2,
        col=1,
    )
    _label_lines(figure, table.loc[table["difference"].abs().idxmax()], row=1, col=1)
    figure.add_vline(x=k, line={"color": UNALIGNED, "width": 1, "dash": "dot"})
    figure.update_xaxes(type="log")
    figure.update_xaxes(title="k, best-scored neurons", row=2)
    figure.update_yaxes(tickformat=".0%", title="tokens", rangemode="tozero", row=1)
    figure.update_yaxes(tickformat="+.0%", title="difference", row=2)
    return layout(figure, 380)


def topk_neurons(table: pd.DataFrame, k: int) -> go.Figure:
    """Share of the k best neurons that fire anywhere in each text."""
    figure = go.Figure(_shares(table, "neurons_", 2, "of the k best neurons fire on"))
    figure.add_vline(x=k, line={"color": UNALIGNED, "width": 1, "dash": "dot"})
    figure.update_xaxes(type="log", title="k, best-scored neurons")
    figure.update_yaxes(tickformat=".0%", title="neurons", range=[0, 1.03])
    return layout(figure, 230)


def topk_small(table: pd.DataFrame) -> go.Figure:
    """The curves of one topic as a small chart: no titles, the same axes for all topics."""
    figure = go.Figure(_shares(table, "", 1.75, "of the tokens of"))
    figure.update_xaxes(type="log", tickvals=[1, 10, 100, 1_000, 10_000], ticktext=["1", "10", "100", "1k", "10k"])
    figure.update_yaxes(tickformat=".0%", range=[0, 1.03], tickvals=[0, 0.5, 1])
    return layout(figure, SMALL_HEIGHT, hoverlabel={"font": {"size": 11}})
