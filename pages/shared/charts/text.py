"""Charts of the text experiment: the mean of every way of steering, with its interval."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from core.evaluation.experiments import KEPT, MULTIPLIERS, SHARPNESSES, SHUFFLED_SHARPNESSES
from pages.shared.charts.colours import EDITS, UNALIGNED
from pages.shared.charts.figures import layout
from pages.shared.comparison import COLUMNS

_SWAPS = {
    "swap-shuffled": "Swap, shuffled",
    "swap-keep-error": "Swap, error kept",
    "swap-matched": "Swap, matched count",
    "swap-in-reach": "Swap, in reach",
    "swap-min-1": "Swap, 1 prompt",
    "swap-min-100": "Swap, 100 prompts",
}
_CLAMPS = {
    "clamp-tuned": "Clamp, tuned",
    "clamp-keep-error": "Clamp, error kept",
    "clamp-tuned-keep-error": "Tuned, error kept",
    "clamp-tuned-1": "Clamp of 1, tuned",
    "clamp-tuned-20": "Clamp of 20, tuned",
    "random": "Random neurons",
    "strawman": "Strawman",
    "output": "Output score",
}
for _kept, _said in (("", ""), (KEPT, ", error kept")):
    _SWAPS |= {f"swap-s{s}{_kept}": f"Swap, sharpness {s}{_said}" for s in SHARPNESSES}
    _CLAMPS |= {f"clamp-x{m}{_kept}": f"Clamp at {m} ×{_said}" for m in MULTIPLIERS}
_SWAPS |= {f"swap-shuffled-s{s}{KEPT}": f"Shuffled, sharpness {s}, error kept" for s in SHUFFLED_SHARPNESSES}
# controls and variants: open markers in the colour of the column that they are compared with
CONTROLS = dict.fromkeys(_SWAPS, "swap") | dict.fromkeys(_CLAMPS, "clamp")
TITLES = {"ft": "Fine-tuned", **COLUMNS, **_SWAPS, **_CLAMPS}
_ROW = 30  # pixels per way of steering


def _marker(edit: str) -> dict[str, object]:
    """The marker of a way of steering: open where it is a control or a variant of another."""
    colour = EDITS[CONTROLS.get(edit, edit)]
    symbol = "circle-open" if edit in CONTROLS else "circle"
    return {"size": 11, "color": colour, "symbol": symbol, "line": {"width": 2, "color": colour}}


def _error(row: Mapping[str, Any], figure_name: str) -> dict[str, object]:
    """The 95% interval of a mean, as Plotly draws it."""
    mean, low, high = row[figure_name], row[f"{figure_name}_low"], row[f"{figure_name}_high"]
    colour = EDITS[CONTROLS.get(row["edit"], row["edit"])]
    sides = {"symmetric": False, "array": [high - mean], "arrayminus": [mean - low]}
    return {"type": "data", **sides, "color": colour, "thickness": 2, "width": 0}


def topic_plane(means: pd.DataFrame, best: str | None = None) -> go.Figure:
    """Every way of steering by its topic percentile and its perplexity, with both intervals.

    The lower left is where steering should lead: close to the topic, and still fluent. Dotted: the unsteered texts.
    Names stand beside the columns that are no variants, the best and the closest; the others say theirs on hover.

    Args:
        means: rows of the table `text` for one topic and prompt set.
        best: the best column.
    """
    figure = go.Figure()
    drawn = means.dropna(subset=["topic_percentile", "perplexity"]).sort_values("perplexity")
    named = {best, *drawn.nsmallest(1, "topic_percentile")["edit"], *(set(drawn["edit"]) - set(CONTROLS))}
    for place, row in enumerate(drawn.to_dict("records")):
        title = TITLES[row["edit"]]
        figure.add_scatter(
            x=[row["topic_percentile"]],
            y=[row["perplexity"]],
            mode="markers+text",
            text=[title if row["edit"] in named else ""],
            textposition=f"{('bottom', 'top')[place % 2]} {'left' if row['topic_percentile'] > 60 else 'right'}",
            textfont={"size": 11},
            marker=_marker(row["edit"]),
            error_x={**_error(row, "topic_percentile"), "thickness": 1},
            error_y={**_error(row, "perplexity"), "thickness": 1},
            hovertemplate=f"{title}: percentile %{{x:.3g}}, perplexity %{{y:.3g}}, {row['n']:,} prompts<extra></extra>",
        )
    for row in drawn[drawn["edit"] == "none"].to_dict("records"):
        line = {"color": UNALIGNED, "width": 1, "dash": "dot"}
        figure.add_vline(x=row["topic_percentile"], line=line)
        figure.add_hline(y=row["perplexity"], line=line)
    figure.update_xaxes(title="topic percentile (0: closest)", range=[-4, 104])
    figure.update_yaxes(title="perplexity", type="log", dtick="D2")
    return layout(figure, 420)


def interval_dots(means: pd.DataFrame, figure_name: str, title: str) -> go.Figure:
    """One row per way of steering, in the order given: a dot with its 95% interval, and a line at the unsteered value.

    Args:
        means: rows of the table `text` for one topic and prompt set.
    """
    figure = go.Figure()
    for row in means.dropna(subset=[figure_name]).to_dict("records"):
        figure.add_scatter(
            x=[row[figure_name]],
            y=[TITLES[row["edit"]]],
            mode="markers",
            marker=_marker(row["edit"]),
            error_x=_error(row, figure_name),
            customdata=[[row[f"{figure_name}_low"], row[f"{figure_name}_high"], row["n"]]],
            hovertemplate="%{y}: %{x:.3g} (%{customdata[0]:.3g} to %{customdata[1]:.3g}), %{customdata[2]:,} prompts"
            "<extra></extra>",
        )
    unsteered = means.loc[means["edit"] == "none", figure_name].dropna()
    if len(unsteered):
        figure.add_vline(x=float(unsteered.iloc[0]), line={"color": UNALIGNED, "width": 1, "dash": "dot"})
    figure.update_xaxes(title=title)
    figure.update_yaxes(
        categoryorder="array", categoryarray=[TITLES[edit] for edit in means["edit"]][::-1], type="category"
    )
    return layout(figure, 70 + _ROW * means[figure_name].notna().sum())
