"""Charts of the Interpretability page: the share of neurons rated 4 or 5, beside the published ones, and all scores."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from core.interpretability.agreement import SCORES
from pages.shared.charts.colours import ACCENT, UNALIGNED, Theme, ramp
from pages.shared.charts.figures import layout
from pages.shared.charts.methods import COLOURS

_SYMBOLS = {"fast": "circle", "btp": "square", "btf": "diamond"}
_DASHES = ("solid", "dot", "dash", "dashdot")
_ROW = 34  # pixels
_STEPS = (1, 3, 5, 7, 10)  # of the ramp, for scores 1 to 5


def method_colour(method: str | None) -> str:
    """The colour of a training method; the accent for an SAE of no such method."""
    return COLOURS.get(method or "", ACCENT["dark"])


def high_shares(rows: pd.DataFrame) -> go.Figure:
    """Share of neurons rated 4 or 5, a bar a row; ours with a 95% interval, published ones hollow.

    Args:
        rows: columns label, method, published, n (NaN where it is not ours), share_4_5, low, high; the first on top.
    """
    figure = go.Figure()
    for published, mine in rows.groupby("published", sort=False):
        colours = [method_colour(method) for method in mine["method"]]
        ends = {"array": mine["high"] - mine["share_4_5"], "arrayminus": mine["share_4_5"] - mine["low"]}
        figure.add_bar(
            orientation="h",
            x=mine["share_4_5"],
            y=mine["label"],
            marker={
                "color": "rgba(0, 0, 0, 0)" if published else colours,
                "line": {"color": colours, "width": 2 if published else 0},
            },
            error_x=None if published else {**ends, "color": UNALIGNED, "thickness": 1.5, "width": 4},
            hovertemplate="<b>%{y}</b><br>%{x:.1%} rated 4 or 5<extra></extra>",
        )
    right = rows["high"].fillna(rows["share_4_5"])
    figure.add_scatter(
        x=right,
        y=rows["label"],
        mode="text",
        text=[f" {share:.1%}" for share in rows["share_4_5"]],
        textposition="middle right",
        hoverinfo="skip",
    )
    room = 1.2 * right.max() if len(right) else 1.0  # for the figures beside the bars
    figure.update_xaxes(tickformat=".0%", range=[0, room or 1.0], title="neurons rated 4 or 5")
    labels = rows["label"].tolist()
    figure.update_yaxes(categoryorder="array", categoryarray=labels[::-1], ticks="", showgrid=False)
    return layout(figure, 70 + _ROW * len(rows), bargap=0.35, barmode="overlay")


def score_shares(rows: pd.DataFrame, theme: Theme) -> go.Figure:
    """How the scores are spread: a bar a row, divided from 1 on the left to 5 on the right.

    Args:
        rows: columns label and share_1 to share_5; the first on top.
    """
    figure = go.Figure()
    for score, step in zip(SCORES, _STEPS, strict=True):
        background, text = ramp(theme)[step]
        shares = rows[f"share_{score}"]
        figure.add_bar(
            orientation="h",
            x=shares,
            y=rows["label"],
            marker={"color": background, "line": {"color": UNALIGNED, "width": 0.5}},
            text=[str(score) if share >= 0.05 else "" for share in shares],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            textfont={"color": text},
            hovertemplate=f"<b>%{{y}}</b><br>%{{x:.1%}} rated {score}<extra></extra>",
        )
    figure.update_xaxes(tickformat=".0%", range=[0, 1], title="neurons by score, 1 to 5")
    figure.update_yaxes(categoryorder="array", categoryarray=rows["label"].tolist()[::-1], ticks="", showgrid=False)
    return layout(figure, 70 + _ROW * len(rows), bargap=0.35, barmode="stack")


def cumulative(rows: pd.DataFrame, published: pd.DataFrame) -> go.Figure:
    """Share of neurons rated a score or lower (Fig. 5), a line a row; lower is better. Published points are hollow.

    Args:
        rows: columns label, method, rater and share_1 to share_5; a method has a mark, a rater a dash.
        published: columns label, method, score, share.
    """
    figure = go.Figure()
    raters = rows["rater"].drop_duplicates().tolist()
    for row in rows.to_dict("records"):
        dash = _DASHES[raters.index(row["rater"]) % len(_DASHES)]
        figure.add_scatter(
            x=SCORES,
            y=np.cumsum([row[f"share_{score}"] for score in SCORES]),
            mode="lines+markers",
            line={"color": method_colour(row["method"]), "width": 2, "dash": dash},
            marker={"size": 8, "symbol": _SYMBOLS.get(row["method"] or "", "star")},
            hovertemplate=f"<b>{escape(row['label'])}</b><br>%{{y:.1%}} rated %{{x}} or lower<extra></extra>",
        )
    for point in published.to_dict("records"):
        figure.add_scatter(
            x=[point["score"]],
            y=[point["share"]],
            mode="markers",
            marker={
                "size": 11,
                "symbol": f"{_SYMBOLS[point['method']]}-open",
                "color": method_colour(point["method"]),
                "line": {"width": 2},
            },
            hovertemplate=f"<b>{escape(point['label'])}</b><br>%{{y:.1%}} rated %{{x}} or lower<extra></extra>",
        )
    figure.update_xaxes(tickvals=SCORES, range=[0.8, 5.2], title="score")
    figure.update_yaxes(tickformat=".0%", range=[0, 1.03], title="neurons rated so or lower")
    return layout(figure, 280)
