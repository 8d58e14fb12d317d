"""What carries this topic? Ranked neurons, and one of them in detail."""

from html import escape

import numpy as np
import streamlit as st

from core.catalog import Setup
from core.errors import NeuronRangeError, SteerscopeError
from core.prompts import Topic
from core.store import Store
from pages.shared import charts
from pages.shared.entry import enter
from pages.shared.glossary import help_text
from pages.shared.links import file_name, link_button
from pages.shared.messages import count, show_error
from pages.shared.neuron import (
    choose_neuron,
    collect_button,
    open_neuron,
    show_contexts,
    show_figures,
    show_groups,
    show_summaries,
    show_tokens,
)
from pages.shared.ranking import ranking, ranking_csv
from pages.shared.resources import ScoredIn, score
from pages.shared.setups import open_chosen_store
from pages.shared.topics import chosen_topic, score_settings, topic_controls

SHOWN_NEURONS = 200
SHOWN_PROMPTS = 5  # at either end
_CASES = ("aligned", "polysemantic", "unaligned", "too rare")


def _show_line(setup: Setup, store: Store, topic: Topic, scored: ScoredIn) -> None:
    cases = scored.scores.table["case"].value_counts()
    n_scored = int(scored.scores.table["score"].notna().sum())
    parts = [f"{count(n_scored, 'neuron')} scored in {1_000 * scored.seconds:,.0f} ms"]
    parts += [f"{cases.get(case, 0):,} {case}" for case in _CASES]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(" · ".join(parts), width="stretch", help=help_text("case"))
        st.download_button(
            "CSV",
            lambda: ranking_csv(store, scored.scores),
            file_name(setup.name, topic.title, "ranking", suffix="csv"),
            "text/csv",
            on_click="ignore",
            help=f"All {n_scored:,} scored neurons, best first",
        )
        link_button("A link cannot carry a file." if st.session_state.get("file_topic") else "")


def _on_select() -> None:
    state = st.session_state
    rows = state["ranking"]["selection"]["rows"]
    if rows != state["shown_rows"]:  # called, too, when the page itself marked another row
        state["neuron"] = state["ranked"][rows[0]] if rows else None


def _show_ranking(store: Store, scored: ScoredIn, neuron: int) -> None:
    table = ranking(store, scored.scores, SHOWN_NEURONS)
    table["top_tokens"] = table["top_tokens"].map(lambda tokens: " ".join(token.strip() for token in tokens))
    neurons = table["neuron"].tolist()
    rows = [neurons.index(neuron)] if neuron in neurons else []
    st.session_state.update(ranked=neurons, shown_rows=rows)
    st.session_state["ranking"] = {"selection": {"rows": rows, "columns": [], "cells": []}}
    st.dataframe(
        table,
        hide_index=True,
        height=528,
        key="ranking",
        on_select=_on_select,
        selection_mode="single-row",
        column_order=("rank", "neuron", "score", "top_tokens", "prompts", "case", "histogram", "g"),
        column_config={
            "rank": st.column_config.NumberColumn("#", width=30),
            "neuron": st.column_config.NumberColumn("neuron", format="%d", width=56, help=help_text("neuron")),
            "score": st.column_config.NumberColumn("score", format="%.3f", width=52, help=help_text("score")),
            "top_tokens": st.column_config.TextColumn("top tokens", width=116, help=help_text("top tokens")),
            "prompts": st.column_config.NumberColumn(
                "prompts", format="localized", width=60, help=help_text("prompts")
            ),
            "case": st.column_config.TextColumn("case", width=94, help=help_text("case")),
            "histogram": st.column_config.BarChartColumn("activations", width=72, help=help_text("histogram")),
            "g": st.column_config.NumberColumn("g", format="%.3f", width=50, help=help_text("g")),
        },
    )
    n_scored = int(scored.scores.table["score"].notna().sum())
    if n_scored > len(table):
        st.caption(f"The best {len(table):,} of {n_scored:,}. Any other neuron can be typed; the CSV has all.")


def _show_distribution(store: Store, scored: ScoredIn, neuron: int) -> None:
    scores = scored.scores.table["score"]
    marked = scores[neuron] if 0 <= neuron < store.d_sae else None
    st.plotly_chart(charts.score_violin(scores.dropna().to_numpy(), marked, neuron), config=charts.CONFIG, key="violin")


def _show_ends(store: Store, scored: ScoredIn) -> None:
    """The reference prompts nearest to the topic, and farthest from it."""
    texts, distances = store.prompts()["text"], scored.scores.distances
    order = np.argsort(distances, kind="stable")
    for label, ids in (("Nearest", order[:SHOWN_PROMPTS]), ("Farthest", order[: -SHOWN_PROMPTS - 1 : -1])):
        st.markdown(f"**{label} reference prompts**", help=help_text("nearest"))
        st.html("".join(f'<p class="ss-prompt"><b>{distances[i]:.2f}</b>{escape(texts[i])}</p>' for i in ids))


def _show_neuron(setup: Setup, store: Store, topic: Topic, scored: ScoredIn) -> None:
    """The ranking and the open neuron, side by side; below, what to read of it."""
    scores = scored.scores
    left, right = st.columns([5, 4], gap="medium")
    with right:
        header = st.container(horizontal=True, vertical_alignment="bottom")
    with header:
        number = choose_neuron(store, int(scores.ranked(1)["neuron"][0]))
    with left:
        _show_ranking(store, scored, number)
        _show_distribution(store, scored, number)
    try:
        neuron = open_neuron(store, scores, number)
    except NeuronRangeError as exc:
        with right:
            show_error(exc)
        return
    with header:
        collect_button(setup, topic, neuron)
    with right:
        show_figures(neuron, scores.settings.min_prompts)
        show_summaries(store, scores, neuron)
        show_tokens(neuron)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        show_contexts(store, neuron)
    with right:
        show_groups(store, neuron)
        _show_ends(store, scored)


def main() -> None:
    enter("What carries this topic?")
    setup, store = open_chosen_store()
    topic_controls()
    try:
        topic = chosen_topic()
        scored = score(setup, store, topic, score_settings())
    except SteerscopeError as exc:
        show_error(exc)
        return
    _show_line(setup, store, topic, scored)
    _show_neuron(setup, store, topic, scored)


main()
