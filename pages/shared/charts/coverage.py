"""Charts of the Coverage page: neurons reached, tokens per neuron, smaller reference sets, coactivation."""

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from core.evaluation.reference import DISJOINT, N_TOP, UNSEEN
from core.results.names import Names
from pages.shared.charts.colours import ACCENT, EDITS, UNALIGNED, Theme, ramp
from pages.shared.charts.figures import FAINT, layout
from pages.shared.names import hover_name

SETUP_COLOURS = (
    ACCENT["dark"],
    *(EDITS[name] for name in ("vector", "ft", "swap", "clamp", "weight", "sae", "prompt")),
)
DESIGN_COLOURS = {
    "random": EDITS["ft"],
    "per task": EDITS["sae"],
    "farthest points": EDITS["weight"],
    "contrastive": EDITS["swap"],
    UNSEEN: EDITS["vector"],
    DISJOINT: UNALIGNED,
}


@dataclass(frozen=True)
class Measure:
    """A measure by which a smaller reference set is compared with the whole."""

    title: str
    about: str
    tick_format: str


MEASURES = {
    "tau": Measure("Kendall's tau", "Kendall's tau between the set's ranking and the whole set's", ".1f"),
    "top": Measure(f"best {N_TOP} kept", f"Share of the whole set's {N_TOP} best neurons among the set's", ".0%"),
    "share": Measure("neurons scored", "Share of the neurons scored by the whole set that the set scores too", ".0%"),
}
_BAR = {"thickness": 1, "width": 3}
_DODGE = 1.035  # factor between two designs' bars at one size, as the axis is logarithmic


def _size_axis(figure: go.Figure, sizes: pd.Series) -> None:
    """Labels every second power of two, so that the labels fit on a phone."""
    ticks = [2**power for power in range(0, 40, 2) if sizes.min() <= 2**power <= sizes.max()]
    figure.update_xaxes(type="log", title="reference prompts", tickvals=ticks, ticktext=[f"{tick:,}" for tick in ticks])


def coverage_curves(summaries: Mapping[str, pd.DataFrame], share: str) -> go.Figure:
    """Share of neurons reached against the number of prompts, one line per setup, bars from lowest to highest (Fig. 3).

    Args:
        summaries: tables `coverage-summary` by setup, at most as many as SETUP_COLOURS.
        share: share_1 or share_20.
    """
    figure = go.Figure()
    for (setup, table), colour in zip(summaries.items(), SETUP_COLOURS, strict=False):
        drawn, whole = table[table["samples"] > 0], table[table["samples"] == 0]
        figure.add_scatter(
            x=drawn["size"],
            y=drawn[share],
            mode="lines+markers",
            line={"color": colour, "width": 2},
            marker={"size": 6},
            error_y={
                "array": drawn[f"{share}_high"] - drawn[share],
                "arrayminus": drawn[share] - drawn[f"{share}_low"],
                "color": colour,
                **_BAR,
            },
            customdata=drawn[["prompts", f"{share}_low", f"{share}_high"]],
            hovertemplate=f"<b>{escape(setup)}</b> %{{x:,}} drawn, %{{customdata[0]:,.0f}} different<br>"
            "%{y:.1%} of the neurons (%{customdata[1]:.1%} to %{customdata[2]:.1%})<extra></extra>",
        )
        figure.add_scatter(
            x=whole["size"],
            y=whole[share],
            mode="markers",
            marker={"symbol": "diamond-open", "size": 11, "color": colour, "line": {"width": 2}},
            hovertemplate=f"<b>{escape(setup)}</b> all %{{x:,}}, each once<br>%{{y:.1%}} of the neurons<extra></extra>",
        )
    _size_axis(figure, pd.concat([table["size"] for table in summaries.values()]))
    figure.update_yaxes(title="neurons", tickformat=".0%", range=[0, 1.03])
    return layout(figure, 300)


def neuron_histogram(bins: pd.DataFrame) -> go.Figure:
    """How many neurons are active on how many tokens or prompts (Fig. 8), with dead ones apart in grey.

    Args:
        bins: rows of the table `coverage-tokens` for one measure.
    """
    measure = bins["measure"].iloc[0]
    labels = [
        f"{low:,}" if low == high else f"{low:,} to {high:,}"
        for low, high in zip(bins["low"], bins["high"], strict=True)
    ]
    figure = go.Figure(
        go.Bar(
            x=np.arange(len(bins)),
            y=bins["neurons"],
            marker={"color": [UNALIGNED if low == 0 else ACCENT["dark"] for low in bins["low"]]},
            customdata=labels,
            hovertemplate=f"%{{y:,}} neurons are active on %{{customdata}} {measure}<extra></extra>",
        )
    )
    labelled = {0, *(16**power for power in range(1, 10))}  # few enough for a phone
    ticks = [i for i, low in enumerate(bins["low"]) if low in labelled]
    figure.update_xaxes(
        title=f"{measure} on which a neuron is active",
        tickvals=ticks,
        ticktext=[f"{bins['low'].iloc[i]:,}" for i in ticks],
        tickangle=0,
    )
    figure.update_yaxes(title="neurons")
    return layout(figure, 260, bargap=0.08)


def design_curves(means: pd.DataFrame, measure: str, n_prompts: int) -> go.Figure:
    """Agreement with the whole reference set against size, one line per design; tau has bars over topics.

    Args:
        means: from `core.evaluation.reference.by_size`.
        measure: a key of MEASURES.
        n_prompts: number of prompts in the whole set.
    """
    figure = go.Figure()
    for number, (design, colour) in enumerate(DESIGN_COLOURS.items()):
        table, bars = means[means["design"] == design], {}
        if measure == "tau":
            ends = {"array": table["tau_high"] - table["tau"], "arrayminus": table["tau"] - table["tau_low"]}
            bars = {"error_y": {**ends, "color": colour, **_BAR}}
        figure.add_scatter(
            x=table["size"] * _DODGE ** (number - 2.5),
            y=table[measure],
            mode="lines+markers",
            line={"color": colour, "width": 2, "dash": "dot" if design == DISJOINT else "solid"},
            marker={"size": 6},
            customdata=table[["size", "tau", "top", "share"]],
            hovertemplate=f"<b>{escape(design)}</b>, %{{customdata[0]:,}} prompts<br>tau %{{customdata[1]:.3f}}, "
            f"best {N_TOP} kept %{{customdata[2]:.0%}}, scored %{{customdata[3]:.0%}}<extra></extra>",
            **bars,
        )
    figure.add_vline(x=n_prompts, line={"color": UNALIGNED, "width": 1, "dash": "dot"})
    _size_axis(figure, means["size"])
    shown = MEASURES[measure]
    figure.update_yaxes(title=shown.title, tickformat=shown.tick_format, range=[None, 1.03])
    return layout(figure, 340)


def coactivation_map(pairs: pd.DataFrame, names: Names, theme: Theme) -> go.Figure:
    """Jaccard index of every two of a topic's best neurons, best first, from the background to the accent colour.

    Args:
        pairs: rows of the table `reference-coactivation` for one topic.
        names: of the setup's neurons, for the hover label.
    """
    ranked = pairs[["rank_first", "first"]].set_axis(["rank", "neuron"], axis=1)
    ranked = pd.concat([ranked, pairs[["rank_second", "second"]].set_axis(["rank", "neuron"], axis=1)])
    neurons = ranked.drop_duplicates().sort_values("rank")["neuron"].tolist()
    jaccard = np.full((len(neurons), len(neurons)), np.nan)
    hover = np.full(jaccard.shape, "", dtype=object)
    for row in pairs.itertuples():
        i, j = row.rank_first - 1, row.rank_second - 1
        jaccard[i, j] = jaccard[j, i] = row.jaccard
        hover[i, j] = hover[j, i] = (
            f"{hover_name(names[row.first])}<br>{row.prompts_first:,} prompts<br>"
            f"{hover_name(names[row.second])}<br>{row.prompts_second:,} prompts<br>"
            f"both on {row.both:,}: Jaccard {row.jaccard:.3f}"
        )
    numbers = [str(neuron) for neuron in neurons]
    steps = [colour for colour, _ in ramp(theme)]
    cells = {"x": numbers, "y": numbers, "xgap": 1, "ygap": 1, "hoverongaps": False}
    itself = np.where(np.eye(len(neurons)), 0.0, np.nan)
    figure = go.Figure(
        [
            go.Heatmap(
                z=jaccard,
                customdata=hover,
                zmin=0,
                colorscale=[[i / (len(steps) - 1), colour] for i, colour in enumerate(steps)],
                hovertemplate="%{customdata}<extra></extra>",
                colorbar={"title": "Jaccard", "thickness": 10, "outlinewidth": 0, "tickformat": ".2g"},
                **cells,
            ),
            go.Heatmap(z=itself, colorscale=[[0, FAINT], [1, FAINT]], showscale=False, hoverinfo="skip", **cells),
        ]
    )
    figure.update_xaxes(type="category", showgrid=False, tickangle=-90)
    figure.update_yaxes(type="category", showgrid=False, autorange="reversed")
    return layout(figure, 480)
