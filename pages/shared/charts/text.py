"""The chart of the text experiment: the mean of every way of steering, with its interval."""

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


def interval_dots(means: pd.DataFrame, figure_name: str, title: str) -> go.Figure:
    """One row per way of steering, in the order given: a dot with its 95% interval, and a line at the unsteered value.

    Args:
        means: rows of the table `text` for one topic and prompt set.
    """
    figure = go.Figure()
    for row in means.dropna(subset=[figure_name]).to_dict("records"):
        edit, mean = row["edit"], row[figure_name]
        colour = EDITS[CONTROLS.get(edit, edit)]
        figure.add_scatter(
            x=[mean],
            y=[TITLES[edit]],
            mode="markers",
            marker={
                "size": 11,
                "color": colour,
                "symbol": "circle-open" if edit in CONTROLS else "circle",
                "line": {"width": 2, "color": colour},
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "array": [row[f"{figure_name}_high"] - mean],
                "arrayminus": [mean - row[f"{figure_name}_low"]],
                "color": colour,
                "thickness": 2,
                "width": 0,
            },
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
