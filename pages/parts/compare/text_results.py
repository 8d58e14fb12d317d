"""The text experiment on a page: a figure of the means of one topic and prompt set, and the paired differences."""

from typing import Any

import pandas as pd
import streamlit as st

from core.evaluation.experiments import ALL_TOPICS
from pages.shared.charts.figures import CONFIG
from pages.shared.charts.text import TITLES, interval_dots
from pages.shared.glossary.index import TERMS, help_text
from pages.shared.messages import count
from pages.shared.topics import topic_title

# figures that can be shown, with their glossary terms
SHOWN = {
    "distance": "text distance",
    **{name: name for name in ("topic_percentile", "perplexity", "accepted", "contamination", "contamination_share")},
    **{name: name for name in ("distinct_2", "distinct_3", "repetition", "concept", "fluency", "concept_fluency")},
}
_TABLE = {"metaphors": 2, "aligned": 7, "unaligned": 8}  # of the Topic Alignment paper


def _bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": f"results_{key}", "bind": "query-params"}


def _choose(means: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """The rows of the chosen topic and prompt set, and the figure to show."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        topic = st.selectbox(
            "Topic",
            means["topic"].unique(),
            format_func=lambda name: "All topics" if name == ALL_TOPICS else topic_title(name),
            width=220,
            help=help_text("topic"),
            **_bound("topic"),
        )
        means = means[means["topic"] == topic]
        prompts = st.selectbox(
            "Prompts",
            means["prompts"].unique(),
            format_func=str.capitalize,
            width=160,
            help=help_text("text prompts"),
            **_bound("prompts"),
        )
        measured = [name for name in SHOWN if means[name].notna().any()]
        figure = st.selectbox(
            "Figure",
            measured,
            format_func=lambda name: TERMS[SHOWN[name]].title,
            width=220,
            help=help_text("text interval"),
            **_bound("figure"),
        )
    return means[means["prompts"] == prompts], figure


def difference_words(row: pd.Series) -> str:
    """A paired difference in words, as in `Swap less SAE: -0.012 (-0.03 to +0.01), 12 prompts`."""
    first, second = TITLES[row["first"]], TITLES[row["second"]]
    span = f"{row['difference']:+.3g} ({row['low']:+.3g} to {row['high']:+.3g})"
    clear = "" if row["low"] <= 0 <= row["high"] else ", beyond chance"
    return f"{first} less {second}: **{span}**{clear}"


def show_text(means: pd.DataFrame, pairs: pd.DataFrame | None) -> None:
    """The figure of the means, and below it the differences paired by prompt, if they were saved."""
    mine, figure = _choose(means)
    title = TERMS[SHOWN[figure]].title
    st.plotly_chart(interval_dots(mine, figure, title.lower()), config=CONFIG, key="text_means")
    first = mine.iloc[0]
    table = _TABLE.get(first["prompts"])
    st.caption(
        f"Mean over {count(first['n'], 'prompt')} x {count(first['seeds'], 'seed')} with its 95% bootstrap interval; "
        "dotted: the original. " + (f"Table {table} of the Topic Alignment paper." if table else "")
    )
    if pairs is None:
        return
    rows = pairs[
        (pairs["topic"] == first["topic"]) & (pairs["prompts"] == first["prompts"]) & (pairs["figure"] == figure)
    ]
    if len(rows):
        st.markdown("Paired by prompt: " + "; ".join(rows.apply(difference_words, axis=1)) + ".")
