"""Charts of the Distributions page: violins from saved quantiles, and Kendall's tau as a heat map."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from jaxtyping import Float

from pages.shared.charts.colours import ACCENT, RAMP_STEPS, UNALIGNED, Theme, ramp
from pages.shared.charts.figures import FAINT, layout

_ROW, _CELL = 46, 38  # pixels: height of a violin, and of a row of the heat map
_LABEL_CHARACTERS = 20  # in a line beside a violin
_FEW_RANKINGS = 6  # with more rankings, a cell has room for two digits only


@dataclass(frozen=True)
class Spread:
    """One distribution: its evenly spaced quantiles, and the number of neurons that they represent."""

    name: str
    values: Float[np.ndarray, "quantile"]
    n_scored: int

    @property
    def label(self) -> str:
        """The name, broken into short lines for an axis; its markup is escaped."""
        return "<br>".join(escape(line) for line in textwrap.wrap(self.name, _LABEL_CHARACTERS))

    @property
    def bandwidth(self) -> float:
        """Bandwidth of the kernel density of all the neurons (Scott 1992, as Plotly has it), not of the quantiles."""
        lower, upper = np.quantile(self.values, [0.25, 0.75])
        width = min(float(self.values.std()), float(upper - lower) / 1.349)
        return float(1.059 * width * self.n_scored**-0.2)


def violins(spreads: Sequence[Spread], title: str) -> go.Figure:
    """The distributions one below the other, the first on top, each with its median marked."""
    figure = go.Figure()
    for spread in spreads:
        figure.add_violin(
            x=spread.values,
            y=[spread.label] * len(spread.values),
            orientation="h",
            bandwidth=spread.bandwidth or None,
            points=False,
            spanmode="hard",
            scalemode="width",
            width=0.9,
            line={"color": UNALIGNED, "width": 1},
            fillcolor=FAINT,
            hoverinfo="skip",
        )
    quartiles = [np.quantile(spread.values, [0.25, 0.5, 0.75]) for spread in spreads]
    figure.add_scatter(
        x=[median for _, median, _ in quartiles],
        y=[spread.label for spread in spreads],
        mode="markers",
        marker={"symbol": "line-ns", "size": 16, "line": {"width": 2.5, "color": ACCENT["dark"]}},
        customdata=[
            (lower, upper, spread.n_scored) for (lower, _, upper), spread in zip(quartiles, spreads, strict=True)
        ],
        hovertemplate="%{y}: median %{x:.3f}, quartiles %{customdata[0]:.3f} and %{customdata[1]:.3f}, "
        "%{customdata[2]:,} neurons<extra></extra>",
    )
    figure.update_xaxes(title=title)
    figure.update_yaxes(categoryorder="array", categoryarray=[spread.label for spread in spreads][::-1])
    return layout(figure, 70 + _ROW * len(spreads))


def tau_matrix(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The pairs (first, second, tau) among `names` as a square matrix with 1 on the diagonal."""
    matrix = pd.DataFrame(np.eye(len(names)), index=list(names), columns=list(names))
    for first, second, tau in table[["first", "second", "tau"]].itertuples(index=False):
        if first in matrix and second in matrix:
            matrix.loc[first, second] = matrix.loc[second, first] = tau
    return matrix


def tau_heat_map(matrix: pd.DataFrame, theme: Theme) -> go.Figure:
    """Kendall's tau between rankings, shaded from 0 (and below) to 1."""
    steps = ramp(theme)
    crowded = len(matrix) > _FEW_RANKINGS
    names = [name.replace(", ", ",<br>") for name in matrix.index]
    figure = go.Figure(
        go.Heatmap(
            z=matrix.to_numpy(),
            x=names,
            y=names,
            zmin=0,
            zmax=1,
            colorscale=[(i / (RAMP_STEPS - 1), colour) for i, (colour, _) in enumerate(steps)],
            showscale=False,
            xgap=1,
            ygap=1,
            hovertemplate="%{y} and %{x}: tau %{z:.3f}<extra></extra>",
        )
    )
    for (i, j), tau in np.ndenumerate(matrix.to_numpy()):
        if np.isfinite(tau):
            text = f"{tau:.2f}".replace("0.", ".") if crowded else f"{tau:.2f}"
            colour = steps[round(min(1.0, max(0.0, tau)) * (RAMP_STEPS - 1))][1]
            font = {"color": colour, "size": 10 if crowded else 12}
            figure.add_annotation(x=names[j], y=names[i], text=text, showarrow=False, font=font)
    axis = {"tickmode": "linear", "dtick": 1, "showgrid": False, "tickfont": {"size": 10 if crowded else 12}}
    figure.update_yaxes(autorange="reversed", **axis)
    figure.update_xaxes(side="top", **axis)
    return layout(figure, 90 + _CELL * len(matrix))
