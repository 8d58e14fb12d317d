"""Texts of the text experiment to read: one prompt, and what each way of steering wrote after it."""

import re
from html import escape

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.evaluation.experiments import ALL_TOPICS
from pages.parts.texts.means import Chosen, bound, topic_name
from pages.shared.charts.colours import EDITS
from pages.shared.charts.text import CONTROLS, TITLES
from pages.shared.columns import number
from pages.shared.experiments import table_heading

_SIDE_BY_SIDE = 4
_EMPTY_LINES = re.compile(r"\s*\n(?:[^\S\n]*\n){2,}\s*")  # three line breaks or more with nothing between them


def folded(text: str) -> str:
    """The text with long runs of line breaks, which some edits write, told by their number."""
    return _EMPTY_LINES.sub(lambda found: f"\n↵ × {found[0].count(chr(10))}\n", text)


def _card(row: pd.Series) -> str:
    """The text under its way of steering, and its figures below."""
    figures = f"percentile {number(row['topic_percentile'])} · perplexity {number(row['perplexity'])}"
    if not pd.isna(row["accepted"]):
        figures += " · accepted" if row["accepted"] else " · not accepted"
    colour = EDITS[CONTROLS.get(row["edit"], row["edit"])]
    written = f'<span class="ss-prefix">{escape(row["prompt"])}</span>{escape(folded(row["text"]))}'
    text = f'<p class="ss-text" dir="auto">{written}'
    return (
        f'<section><h3 style="border-color:{colour}">{escape(TITLES[row["edit"]])}</h3>'
        f'<div>{text}</p></div><div><p class="ss-proof">{figures}</p></div><div></div></section>'
    )


def show_examples(setup: Setup, rows: pd.DataFrame, chosen: Chosen) -> None:
    """The continuations of one prompt side by side; over all topics, those of a topic to choose."""
    rows = rows[rows["prompts"] == chosen.prompts]
    table_heading("Texts to read", "text prompts", rows, setup.name, "every text")
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        topic = chosen.topic
        if topic == ALL_TOPICS:
            topic = st.selectbox(
                "Topic of the texts",
                rows["topic"].unique().tolist(),
                format_func=topic_name,
                width=240,
                **bound("read_topic"),
            )
        rows = rows[rows["topic"] == topic]
        prompts = rows["prompt"].unique().tolist()
        longest = rows.groupby("prompt")["n_tokens"].sum().idxmax()  # opens: a text that ends at once says little
        prompt = st.selectbox(
            "Prompt", prompts, prompts.index(longest), width=480, help="Every column continues it", **bound("prompt")
        )
        mine = rows[(rows["prompt"] == prompt) & rows["edit"].isin(chosen.edits)]
        seeds = sorted(mine["seed"].unique().tolist())
        seed = seeds[0]
        if len(seeds) > 1:
            seed = st.segmented_control("Seed", seeds, default=seeds[0], required=True, **bound("seed"))
    cards = "".join(_card(row) for _, row in mine[mine["seed"] == seed].iterrows())
    st.html(f'<div class="ss-columns" style="--columns:{_SIDE_BY_SIDE}">{cards}</div>')
