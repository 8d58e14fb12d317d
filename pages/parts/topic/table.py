"""The ranking as a table: a click anywhere in a row opens its neuron, ticked rows are a set to steer with."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from core.scoring.scores import DENSE
from pages.parts.topic.ranking import ranking
from pages.parts.topic.shown import SHOWN_NEURONS, Shown
from pages.shared.glossary.index import help_text
from pages.shared.links import steering_query
from pages.shared.messages import count, plain
from pages.shared.names import neuron_names

TOKEN_CHARACTERS = 25  # of a row's tokens, so that none is cut
DENSE_AMONG = 64  # best neurons, of which the dense ones are counted
_OPENED_BY = "neuron"  # the column that marks the open neuron's row


def fitting(tokens: Sequence[str], width: int = TOKEN_CHARACTERS) -> str:
    """As many of the tokens as fit into so many characters; the first in any case."""
    shown = ""
    for token in (token.strip() for token in tokens):
        if shown and len(shown) + 1 + len(token) > width:
            break
        shown = f"{shown} {token}".strip()
    return shown[:width]


def _on_select() -> None:
    """Opens the neuron of a clicked cell; a second click on it, which deselects it, leaves it open."""
    state = st.session_state
    selected = state["ranking"]["selection"]
    state["chosen_neurons"] = [state["ranked"][row] for row in selected["rows"]]
    if selected["cells"]:
        state["neuron"] = state["ranked"][selected["cells"][0][0]]


def _listed(shown: Shown) -> pd.DataFrame:
    """The rows of the table: the best neurons, or those that were searched for."""
    wanted = st.session_state.get("find", "").strip()
    if not wanted:
        return ranking(shown.store, shown.scored.scores, SHOWN_NEURONS, *shown.more)
    found = neuron_names(shown.store).find(wanted)
    whole = ranking(shown.store, shown.scored.scores, None, *shown.more)
    return whole[whole["neuron"].isin(found)].head(SHOWN_NEURONS).reset_index(drop=True)


def show_ranking(shown: Shown, neuron: int) -> None:
    """Shows the table, with a search above it and what the ticked rows may be used for below."""
    st.text_input(
        "Find neurons",
        key="find",
        bind="query-params",
        placeholder="Find neurons by a token or a label",
        label_visibility="collapsed",
        help="Enter lists the scored neurons that fire on this token, or whose label has this text.",
    )
    table, names = _listed(shown), neuron_names(shown.store)
    table["tokens_shown"] = [
        fitting(tokens) if names[n].source == "tokens" else names[n].short
        for n, tokens in zip(table["neuron"], table["top_tokens"], strict=True)
    ]
    if "case" in table:
        table["case"] = table["case"].replace("not told apart", "")
    neurons, state = table["neuron"].tolist(), st.session_state
    chosen = [n for n in state.get("chosen_neurons", []) if n in neurons]
    state.update(ranked=neurons, chosen_neurons=chosen)
    state["ranking"] = {
        "selection": {
            "rows": [neurons.index(n) for n in chosen],
            "columns": [],
            "cells": [(neurons.index(neuron), _OPENED_BY)] if neuron in neurons else [],
        }
    }
    _draw(table)
    if state["find"].strip():
        st.caption(f"{count(len(table), 'scored neuron')} of that token or label.")
    elif shown.n_scored > len(table):
        best = shown.scored.scores.ranked(DENSE_AMONG)["neuron"]
        dense = int((shown.store.density()[best] > DENSE).sum())
        st.caption(
            f"The best {len(table):,} of {shown.n_scored:,}; the CSV has all. Tick rows to steer with a set. "
            f"{dense or 'None'} of the best {DENSE_AMONG} {'are' if dense > 1 else 'is'} dense.",
            help=help_text("dense"),
        )
    _offer_steering(shown, chosen or [neuron])


def _draw(table: pd.DataFrame) -> None:
    def number(label: str, term: str, width: int, format: str) -> object:
        return st.column_config.NumberColumn(label, format=format, width=width, help=help_text(term))

    st.dataframe(
        table,
        hide_index=True,
        height=528,
        key="ranking",
        on_select=_on_select,
        selection_mode=["multi-row", "single-cell"],
        column_order=("rank", "neuron", "score", "tokens_shown", "case", "output_score", "strawman", "prompts"),
        column_config={
            "rank": st.column_config.NumberColumn("#", width=34),
            "neuron": number("neuron", "neuron", 58, "%d"),
            "score": number("score", "score", 50, "%.3f"),
            "tokens_shown": st.column_config.TextColumn("top tokens", width=176, help=help_text("top tokens")),
            "case": st.column_config.TextColumn("case", width=76, help=help_text("case")),
            "output_score": number("output", "output score", 58, "%.1e"),
            "strawman": number("strawman", "strawman", 72, "percent"),
            "prompts": number("prompts", "prompts", 60, "localized"),
        },
    )


def _offer_steering(shown: Shown, neurons: list[int]) -> None:
    """A link to Generate, which opens on these neurons added, with a slider of their strength."""
    if not all(0 <= neuron < shown.store.d_sae for neuron in neurons):
        return
    name = neuron_names(shown.store)[neurons[0]]
    st.page_link(
        "pages/generate.py",
        label=f"Steer with neuron {plain(str(name))}" if len(neurons) == 1 else f"Steer with these {len(neurons)}",
        query_params=steering_query(neurons),
        help="Opens Generate with what these neurons write added, and a slider of how strongly",
    )
