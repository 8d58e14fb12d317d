"""The Topic page: the neurons ranked for a topic, and one of them in detail."""

from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import NeuronRangeError, SteerscopeError
from core.store.reader import Store
from core.text.prompts import Topic
from pages.parts.topic.label import show_name
from pages.parts.topic.neuron import (
    choose_neuron,
    collect_button,
    open_neuron,
    show_contexts,
    show_figures,
    show_groups,
    show_histogram,
    show_ranks,
    show_summaries,
    show_tokens,
)
from pages.parts.topic.output import (
    measured,
    offer_measuring,
    offer_output,
    output_facts,
    output_of,
    saved_output,
    show_measured,
    show_similar,
)
from pages.parts.topic.ranking import ranking, ranking_csv
from pages.shared.charts import figures as charts
from pages.shared.entry import enter
from pages.shared.glossary.index import help_text
from pages.shared.links import file_name, link_button
from pages.shared.messages import count, show_error
from pages.shared.names import neuron_names
from pages.shared.resources import ScoredIn, score
from pages.shared.setups import open_chosen_store
from pages.shared.topics import chosen_topic, score_settings, topic_controls

SHOWN_NEURONS = 200
SHOWN_PROMPTS = 5  # at either end
_CASES = ("aligned", "polysemantic", "unaligned", "too rare")


@dataclass(frozen=True)
class Shown:
    """What the page shows: a topic scored in a setup."""

    setup: Setup
    store: Store
    topic: Topic
    scored: ScoredIn
    output: pd.DataFrame | None  # output scores, if they were computed

    @property
    def more(self) -> list[pd.DataFrame]:
        """Extra columns of the ranking, beside the scores."""
        return [] if self.output is None else [self.output[["neuron", "output_score", "output_rank"]]]


def _show_line(shown: Shown) -> None:
    setup, store, topic, scored = shown.setup, shown.store, shown.topic, shown.scored
    cases = scored.scores.table["case"].value_counts()
    n_scored = int(scored.scores.table["score"].notna().sum())
    parts = [f"{count(n_scored, 'neuron')} scored in {1_000 * scored.seconds:,.0f} ms"]
    parts += [f"{cases.get(case, 0):,} {case}" for case in _CASES]
    with st.container(horizontal=True, vertical_alignment="center"):
        st.markdown(" · ".join(parts), width="stretch", help=help_text("case"))
        st.download_button(
            "CSV",
            lambda: ranking_csv(store, scored.scores, *shown.more),
            file_name(setup.name, topic.title, "ranking", suffix="csv"),
            "text/csv",
            on_click="ignore",
            help=f"All {n_scored:,} scored neurons, best first",
        )
        link_button("A link cannot carry a file." if st.session_state.get("file_topic") else "")


def _on_select() -> None:
    state = st.session_state
    rows = state["ranking"]["selection"]["rows"]
    if rows != state["shown_rows"]:  # also called when the page itself has selected another row
        state["neuron"] = state["ranked"][rows[0]] if rows else None


def _show_ranking(shown: Shown, neuron: int) -> None:
    table = ranking(shown.store, shown.scored.scores, SHOWN_NEURONS, *shown.more)
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
        column_order=("rank", "neuron", "score", "output_score", "top_tokens", "prompts", "case", "histogram", "g"),
        column_config={
            "rank": st.column_config.NumberColumn("#", width=30),
            "neuron": st.column_config.NumberColumn("neuron", format="%d", width=52, help=help_text("neuron")),
            "score": st.column_config.NumberColumn("score", format="%.3f", width=48, help=help_text("score")),
            "output_score": st.column_config.NumberColumn(
                "output", format="%.1e", width=56, help=help_text("output score")
            ),
            "top_tokens": st.column_config.TextColumn("top tokens", width=92, help=help_text("top tokens")),
            "prompts": st.column_config.NumberColumn(
                "prompts", format="localized", width=54, help=help_text("prompts")
            ),
            "case": st.column_config.TextColumn("case", width=90, help=help_text("case")),
            "histogram": st.column_config.BarChartColumn("activations", width=64, help=help_text("histogram")),
            "g": st.column_config.NumberColumn("g", format="%.3f", width=50, help=help_text("g")),
        },
    )
    n_scored = int(shown.scored.scores.table["score"].notna().sum())
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


def _show_output(shown: Shown, number: int) -> None:
    """What the open neuron makes the model write, as far as it was measured, and buttons to measure the rest."""
    if shown.output is None:
        offer_output(shown.setup, shown.store)
    show_similar(shown.output, number, neuron_names(shown.store))
    listed = shown.scored.scores.ranked(SHOWN_NEURONS)["neuron"].tolist()
    try:
        found = measured(shown.setup, shown.store, shown.topic, tuple(dict.fromkeys([*listed, number])))
    except SteerscopeError as exc:
        show_error(exc)
        return
    if found is None:
        offer_measuring(shown.setup)
    else:
        show_measured(found, number)


def _show_neuron(shown: Shown) -> None:
    """The ranking and the open neuron side by side, and below them contexts and prompts."""
    store, scores = shown.store, shown.scored.scores
    left, right = st.columns([5, 4], gap="medium")
    with right:
        header = st.container(horizontal=True, vertical_alignment="bottom")
    with header:
        number = choose_neuron(store, int(scores.ranked(1)["neuron"][0]))
    with left:
        _show_ranking(shown, number)
        _show_distribution(store, shown.scored, number)
    try:
        neuron = open_neuron(store, scores, number)
    except NeuronRangeError as exc:
        with right:
            show_error(exc)
        return
    writes = output_of(shown.output, number)
    with header:
        collect_button(shown.setup, shown.topic, neuron, None if writes is None else float(writes["output_score"]))
    with left:
        show_histogram(neuron)
        show_ranks(shown.setup, store, shown.topic, scores.settings, neuron)
    with right:
        show_name(shown.setup, store, number)
        show_figures(neuron, scores.settings.min_prompts, output_facts(shown.output, number))
        show_summaries(store, scores, neuron)
        show_tokens(neuron)
        _show_output(shown, number)
    left, right = st.columns([5, 4], gap="medium")
    with left:
        show_contexts(store, neuron)
    with right:
        show_groups(store, neuron)
        _show_ends(store, shown.scored)


def main() -> None:
    enter("What carries this topic?")
    setup, store = open_chosen_store()
    topic_controls()
    try:
        topic = chosen_topic()
        scored = score(setup, store, topic, score_settings())
        shown = Shown(setup, store, topic, scored, saved_output(setup, store))
    except SteerscopeError as exc:
        show_error(exc)
        return
    _show_line(shown)
    _show_neuron(shown)


main()
