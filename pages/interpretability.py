"""The Interpretability page: how well neurons can be read, by judges and people, beside the published figures."""

from typing import Any

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.store.reader import Store
from pages.parts.interpretability.ask import show_command
from pages.parts.interpretability.blind import PART_RATE, show_form
from pages.parts.interpretability.neurons import show_neurons
from pages.parts.interpretability.rated import current_ratings, say_others, show_agreement, show_shares
from pages.shared.entry import enter
from pages.shared.links import choose_part
from pages.shared.messages import plain, show_error
from pages.shared.setups import open_chosen_store

PARTS = ("Results", "Rated neurons", PART_RATE)


def _bound(key: str) -> dict[str, Any]:
    """Arguments that give a widget this key and keep its value in the link."""
    return {"key": key, "bind": "query-params"}


def _show_results(setup: Setup, store: Store, ratings: pd.DataFrame) -> None:
    """What ratings say; while there are none, what is to be rated, and what the paper found."""
    if ratings.empty:
        st.markdown(
            f"No neuron is rated yet. One of **{plain(setup.name)}** is below: rate it here, or let a language model "
            "rate 128 of them by the command at the end of this page."
        )
        show_form(setup, store, ratings)
        st.header("Found by the paper", anchor=False)
    show_shares(ratings)
    show_agreement(ratings)
    show_command(setup, store)


def main() -> None:
    enter("How well can neurons be read?")
    setup, store = open_chosen_store()
    part = choose_part(PARTS, "What ratings say, the neurons rated, or a form to rate in", **_bound("part"))
    try:
        ratings, others = current_ratings()
        if part == PARTS[0]:
            _show_results(setup, store, ratings)
        elif part == PARTS[1]:
            show_neurons(store, ratings[ratings["setup"] == setup.name])
        else:
            show_form(setup, store, ratings)
        say_others(others)
    except SteerscopeError as exc:
        show_error(exc)


main()
