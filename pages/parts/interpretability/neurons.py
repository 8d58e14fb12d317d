"""The rated neurons of the chosen setup, searched by what raters say of them."""

import pandas as pd
import streamlit as st

from core.interpretability.agreement import SCORES
from core.results.names import top_words
from core.store.reader import Store
from pages.parts.interpretability.contexts import contexts, heading, show_contexts
from pages.shared.experiments import download_table
from pages.shared.glossary.index import help_text
from pages.shared.messages import count, plain
from pages.shared.names import neuron_markdown, neuron_names

_TABLE = "interpret_neurons"


def _found(ratings: pd.DataFrame, words: str, scores: list[int]) -> pd.DataFrame:
    """The ratings whose summary has all the words, with one of the scores (none chosen: all)."""
    summaries = ratings["summary"].str.casefold()
    keep = pd.Series(True, index=ratings.index)
    for word in words.casefold().split():
        keep &= summaries.str.contains(word, regex=False)
    if scores:
        keep &= ratings["score"].isin(scores)
    return ratings[keep].sort_values(["score", "neuron"], ascending=[False, True], ignore_index=True)


def show_neurons(store: Store, ratings: pd.DataFrame) -> None:
    """The search, the table and the contexts of the chosen row."""
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        words = st.text_input("Summary has", key="words", bind="query-params", placeholder="such as river", width=260)
        scores = st.pills(
            "Score",
            SCORES,
            selection_mode="multi",
            key="scores",
            bind="query-params",
            help=help_text("interpretability"),
        )
        found = _found(ratings, words, scores)
        download_table(found, store.meta["name"], "rated neurons")
    if found.empty:
        st.markdown("No rated neuron has that." if len(ratings) else "No neuron of this setup is rated yet.")
        return
    left, right = st.columns([3, 2], gap="medium")
    with left:
        number = _show_table(found, store)
        st.caption(f"{count(found['neuron'].nunique(), 'neuron')}, a row a rating. A row opens its contexts.")
    with right:
        _show_neuron(store, found[found["neuron"] == number], number)


def _show_table(found: pd.DataFrame, store: Store) -> int:
    """The table; the neuron of its chosen row, or of the first."""
    known = store.neurons(found["neuron"].unique().tolist()).set_index("neuron")["top_tokens"]
    event = st.dataframe(
        found.assign(top_tokens=[top_words(known[neuron]) for neuron in found["neuron"]]),
        hide_index=True,
        key=_TABLE,
        on_select="rerun",
        selection_mode="single-row",
        height=420,
        column_order=("score", "neuron", "summary", "top_tokens", "rater"),
        column_config={
            "score": st.column_config.NumberColumn("score", width=50, help=help_text("interpretability")),
            "neuron": st.column_config.NumberColumn("neuron", format="%d", width=62, help=help_text("neuron")),
            "summary": st.column_config.TextColumn("summary", width=210),
            "top_tokens": st.column_config.TextColumn("top tokens", width=140, help=help_text("top tokens")),
            "rater": st.column_config.TextColumn("rater", width=80, help=help_text("rater")),
        },
    )
    rows = [row for row in event.selection.rows if row < len(found)]
    return int(found["neuron"][rows[0] if rows else 0])


def _show_neuron(store: Store, ratings: pd.DataFrame, number: int) -> None:
    st.markdown(neuron_markdown(neuron_names(store)[number]))
    for row in ratings.to_dict("records"):
        said = f"**{row['score']}** {plain(row['summary'])}" if pd.notna(row["score"]) else plain(row["problem"])
        st.markdown(f"{said} ({plain(row['rater'])})")
    heading("Its five contexts")
    show_contexts(contexts(store, number, ratings["source"].iloc[0]))
