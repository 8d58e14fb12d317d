"""Charts of the SAE training page: errors against L0, losses, and the errors that the FAST paper published."""

from dataclasses import dataclass
from html import escape

import pandas as pd
import plotly.graph_objects as go

from pages.shared.charts.colours import UNALIGNED
from pages.shared.charts.figures import layout
from pages.shared.charts.methods import COLOURS, METHODS, method_colour, method_dash, method_title


def errors_against_l0(rows: pd.DataFrame, figure_name: str, title: str, l0: int | None) -> go.Figure:
    """One figure against L0, one line per method through its lambdas; bars are the spread over seeds.

    Args:
        rows: from `compared`, for one model, hook point, expansion and architecture.
        l0: the L0 at which the methods are compared, marked.
    """
    figure = go.Figure()
    for method, mine in rows.sort_values("l0").groupby("method"):
        figure.add_scatter(
            x=mine["l0"],
            y=mine[figure_name],
            mode="lines+markers",
            line={"color": method_colour(method), "width": 2, "dash": method_dash(method)},
            marker={"size": 7},
            error_x={"array": mine["l0_spread"].fillna(0), "thickness": 1, "width": 0},
            error_y={"array": mine[f"{figure_name}_spread"].fillna(0), "thickness": 1, "width": 0},
            customdata=mine["sparsity"],
            hovertemplate=f"<b>{escape(method_title(method))}</b> lambda %{{customdata:.3~g}}: L0 %{{x:.3~g}}, "
            "%{y:.4~g}<extra></extra>",
        )
    if l0 is not None:
        figure.add_vline(x=l0, line={"color": UNALIGNED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title="L0: active neurons a token")
    figure.update_yaxes(title=title)
    return layout(figure, 300)


@dataclass(frozen=True)
class Curve:
    """A quantity followed during training: a column of the table of losses."""

    title: str
    log: bool
    format: str = ""


_LOG_TICKS = [digit * 10.0**power for power in range(-3, 6) for digit in (1, 2, 5)]
CURVES = {
    "loss": Curve("training loss", log=True),
    "l0": Curve("L0", log=True),
    "dead": Curve("dead neurons", log=False, format=".0%"),
}


def loss_curves(losses: pd.DataFrame, column: str) -> go.Figure:
    """One line per SAE, over the number of activations it was trained on.

    Args:
        losses: columns name, method, tokens and `column`.
    """
    figure, curve = go.Figure(), CURVES[column]
    for (method, name), mine in losses.groupby(["method", "name"]):
        figure.add_scatter(
            x=mine["tokens"],
            y=mine[column],
            mode="lines",
            line={"color": method_colour(method), "width": 1.25, "dash": method_dash(method)},
            opacity=0.75,
            hovertemplate=f"<b>{escape(name)}</b><br>%{{x:,}} activations: %{{y:.3~g}}<extra></extra>",
        )
    figure.update_xaxes(title="activations trained on")
    figure.update_yaxes(title=curve.title, tickformat=curve.format)
    if curve.log:
        figure.update_yaxes(type="log", tickvals=_LOG_TICKS)
    return layout(figure, 300)


_DASHES = {8: "solid", 16: "dot"}


def published_layers(rows: pd.DataFrame, low: float, high: float) -> go.Figure:
    """Published log2 MSE of one model by layer, one line per method and expansion; the axis is `low` to `high`."""
    figure = go.Figure()
    for (method, expansion), mine in rows.groupby(["method", "expansion"]):
        figure.add_scatter(
            x=mine["layer"].astype(str),
            y=mine["log2_mse"],
            mode="lines+markers",
            line={"color": COLOURS[method], "width": 2, "dash": _DASHES[expansion]},
            marker={"size": 6},
            hovertemplate=f"<b>{METHODS[method]}</b> x{expansion}, layer %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    layers = [str(layer) for layer in sorted(rows["layer"].unique())]
    figure.update_xaxes(type="category", categoryorder="array", categoryarray=layers)
    figure.update_yaxes(range=[low, high])
    return layout(figure, 150)
