"""Charts of the Layer output page: neurons changed, reconstruction delta against contamination, topic distances."""

from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from pages.shared.charts.colours import ALIGNED, EDITS, RAMP_STEPS, UNALIGNED, Theme, ramp
from pages.shared.charts.figures import hover, layout

SETS = {"aligned": ALIGNED, "unaligned": UNALIGNED}
INTRA, INTER = ALIGNED, UNALIGNED
_DRAWN = 2_000  # points at most
_ROW = 26  # pixels per topic


def changed_bars(changed: pd.DataFrame) -> go.Figure:
    """Share of each set's tokens by the number of neurons that the edit changed on them (Fig. 5).

    Args:
        changed: columns set, neurons_changed, share, tokens.
    """
    figure = go.Figure()
    for name, colour in SETS.items():
        mine = changed[changed["set"] == name]
        figure.add_bar(
            x=mine["neurons_changed"],
            y=mine["share"],
            marker={"color": colour},
            customdata=mine["tokens"],
            hovertemplate=f"%{{x}} neurons changed on %{{y:.1%}} of {name} tokens (%{{customdata:,}})<extra></extra>",
        )
    figure.update_xaxes(title="neurons changed on a token")
    if changed["neurons_changed"].nunique() == 1:  # clamp: one bar would fill the figure
        (only,) = changed["neurons_changed"].unique()
        figure.update_xaxes(range=[max(0, only - 5) - 0.5, only + 5.5], dtick=1)
    figure.update_yaxes(title="tokens", tickformat=".0%")
    return layout(figure, 320, barmode="group", bargap=0.15)


def _context(row: pd.Series) -> str:
    """The token in bold within its context; markup is escaped."""
    before, token, after = (hover(part) for part in (row["before"], row["token"], row["after"]))
    return f"{before} <b>{token or escape(repr(row['token']))}</b> {after}"


def delta_scatter(points: pd.DataFrame) -> go.Figure:
    """Reconstruction delta of tokens against contamination, by set (Fig. 6; Fig. 13 for weight).

    Args:
        points: rows of the table `layer-tokens` for one edit; of many, a sample is drawn.
    """
    drawn = points.sample(min(_DRAWN, len(points)), random_state=0)  # shuffled, so that no set covers the other
    figure = go.Figure(
        go.Scattergl(
            x=drawn["contamination"],
            y=drawn["reconstruction_delta"],
            mode="markers",
            marker={"size": 6, "color": drawn["set"].map(SETS), "opacity": 0.55},
            customdata=list(
                zip(drawn.apply(_context, axis=1), drawn["neurons_changed"].astype(int), drawn["set"], strict=True)
            ),
            hovertemplate="%{customdata[0]}<br>delta %{y:.3g}, contamination %{x:.3g}, %{customdata[1]} neurons "
            "changed<extra>%{customdata[2]}</extra>",
        )
    )
    if points["reconstruction_delta"].min() < np.ptp(points["reconstruction_delta"]):  # 0 is near enough to be shown
        figure.add_hline(y=0, line={"color": UNALIGNED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="contamination")
    figure.update_yaxes(title="reconstruction delta")
    return layout(figure, 320)


def special_bars(edits: pd.DataFrame) -> go.Figure:
    """Squared error by kind of token under each edit, log scale.

    Args:
        edits: rows of the table `reconstruction-edits` for one topic, or for all.
    """
    figure = go.Figure()
    for name, mine in edits.groupby("edit", sort=False):
        figure.add_bar(
            x=mine["kind"],
            y=mine["mse"],
            marker={"color": EDITS[str(name)]},
            customdata=mine["times_sae"],
            hovertemplate=f"{name}, %{{x}} tokens: MSE %{{y:.3g}}, %{{customdata:.3g}} times the SAE's<extra></extra>",
        )
    figure.update_yaxes(title="MSE", type="log", dtick=1)
    return layout(figure, 280, barmode="group", bargap=0.25)


def intra_inter(table: pd.DataFrame, titles: dict[str, str]) -> go.Figure:
    """Mean distance within each topic and to the other topics, with 95% intervals (Table 5), closest topic first.

    Args:
        table: rows of the table `distances` for one value of `among`.
        titles: titles of the topics by name.
    """
    ordered = table.sort_values("intra", ascending=False)
    figure = go.Figure()
    for column, colour, words in (("inter", INTER, "from the others"), ("intra", INTRA, "from each other")):
        figure.add_scatter(
            x=ordered[column],
            y=ordered["topic"],
            customdata=ordered["topic"].map(titles),
            mode="markers",
            marker={"size": 9, "color": colour},
            error_x={
                "array": ordered[f"{column}_high"] - ordered[column],
                "arrayminus": ordered[column] - ordered[f"{column}_low"],
                "color": colour,
                "thickness": 1.5,
                "width": 0,
            },
            hovertemplate=f"%{{customdata}}: %{{x:.3f}} {words}<extra></extra>",
        )
    figure.update_xaxes(title="mean distance of its prompts")
    return layout(figure, 70 + _ROW * len(ordered))


def distance_map(pairs: pd.DataFrame, titles: dict[str, str], theme: Theme) -> go.Figure:
    """Mean distance between all topics and within each; the nearer, the stronger the accent colour.

    Args:
        pairs: the table `distances-pairs`.
        titles: titles of the topics by name.
    """
    order = list(dict.fromkeys(pairs["topic"]))
    matrix = pairs.pivot(index="topic", columns="other", values="distance").loc[order, order]
    pair = [[f"{titles[first]} and {titles[second]}" for second in order] for first in order]
    scale = [(i / (RAMP_STEPS - 1), colour) for i, (colour, _) in enumerate(reversed(ramp(theme)))]
    figure = go.Figure(
        go.Heatmap(
            z=matrix.to_numpy(),
            x=order,
            y=order,
            customdata=pair,
            colorscale=scale,
            colorbar={"thickness": 10, "outlinewidth": 0, "tickformat": ".2f"},
            xgap=1,
            ygap=1,
            hovertemplate="%{customdata}: %{z:.3f}<extra></extra>",
        )
    )
    figure.update_yaxes(autorange="reversed", showgrid=False, dtick=1)
    figure.update_xaxes(showgrid=False, tickangle=-90, dtick=1)
    return layout(figure, 90 + _ROW * len(order))
