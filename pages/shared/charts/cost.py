"""The chart of the Cost page: seconds of every task, here and as published."""

import pandas as pd
import plotly.graph_objects as go

from pages.shared.charts.colours import EDITS
from pages.shared.charts.figures import layout
from pages.shared.charts.text import TITLES

_ROW = 32  # pixels
_TASKS = {"set-up": "set-up", "per topic": "a topic", "per prompt": "a prompt"}


def row_title(task: str, edit: str) -> str:
    """What a row of the chart is called, as in `a prompt, Swap`."""
    return f"{_TASKS[task]}, {TITLES[edit]}"


def seconds_dots(cost: pd.DataFrame) -> go.Figure:
    """One row per task and way of steering on a logarithmic axis: our seconds with interval, a ring for the paper's.

    Args:
        cost: the table `cost`; rows of 0 seconds (a task that a way does not need) are left out.
    """
    drawn = cost[(cost["seconds"] > 0) | cost["seconds"].isna()]
    figure = go.Figure()
    for row in drawn.to_dict("records"):
        colour, title = EDITS[row["edit"]], row_title(row["task"], row["edit"])
        if pd.notna(row["seconds"]):
            figure.add_scatter(
                x=[row["seconds"]],
                y=[title],
                mode="markers",
                marker={"size": 11, "color": colour},
                error_x={
                    "symmetric": False,
                    "array": [row["high"] - row["seconds"]],
                    "arrayminus": [row["seconds"] - row["low"]],
                    "color": colour,
                    "thickness": 2,
                    "width": 0,
                },
                hovertemplate=f"{title}: %{{x:.3g}} s here, {row['n']:,} measured<extra></extra>",
            )
        if pd.notna(row["published"]):
            figure.add_scatter(
                x=[row["published"]],
                y=[title],
                mode="markers",
                marker={"size": 11, "symbol": "circle-open", "color": colour, "line": {"width": 2}},
                hovertemplate=f"{title}: %{{x:.3g}} s in the paper<extra></extra>",
            )
    titles = [row_title(task, edit) for task, edit in zip(drawn["task"], drawn["edit"], strict=True)]
    figure.update_xaxes(title="seconds", type="log")
    figure.update_yaxes(categoryorder="array", categoryarray=titles[::-1], type="category")
    return layout(figure, 70 + _ROW * len(titles))
