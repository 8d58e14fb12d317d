"""The form in which a person rates neurons without knowing which they are: a digit key rates and goes on."""

from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError, StoreError
from core.interpretability.contexts import NeuronContexts, contexts_from_store
from core.interpretability.ratings import Rated, save
from core.interpretability.rubric import RUBRIC
from core.store.reader import Store
from pages.parts.interpretability.contexts import SEED, drawn, heading, show_contexts
from pages.parts.interpretability.rated import rating_store
from pages.shared.glossary.index import help_text
from pages.shared.messages import show_error
from pages.shared.resources import open_store, setups

PART_RATE = "Rate blind"  # the page's part with this form
_RATER, _SUMMARY, _POOL = "interpret_rater", "interpret_summary", "interpret_pool"
_SKIPPED, _LAST, _ERROR = "interpret_skipped", "interpret_last", "interpret_error"


@dataclass(frozen=True)
class Item:
    """A neuron in the queue."""

    setup: str
    neuron: int


def _queue(stores: dict[str, Store]) -> list[Item]:
    """The drawn neurons of all setups, in turns and in an order that does not tell which is whose."""
    each = [[Item(name, neuron) for neuron in drawn(store)] for name, store in stores.items()]
    rng = np.random.default_rng(SEED)
    turns = [[item for item in turn if item is not None] for turn in zip_longest(*each)]
    return list(chain.from_iterable([turn[i] for i in rng.permutation(len(turn))] for turn in turns))


def _done(ratings: pd.DataFrame, rater: str) -> set[Item]:
    mine = ratings[(ratings["kind"] == "person") & (ratings["rater"] == rater)]
    return {Item(name, int(neuron)) for name, neuron in zip(mine["setup"], mine["neuron"], strict=True)}


def _pool(setup: Setup, store: Store) -> dict[str, Store]:
    """The setups whose neurons are mixed; by default the chosen one alone."""
    built = {setup.name: store}
    for name in setups():
        try:
            built[name] = open_store(name)
        except StoreError:  # not built: there is nothing to rate
            continue
    if len(built) == 1:
        return built
    chosen = st.multiselect(
        "Neurons of",
        list(built),
        [setup.name],
        key=_POOL,
        help="Several: mixed, and the form does not say which SAE a neuron is of",
    )
    return {name: built[name] for name in chosen or [setup.name]}


# ---- what the buttons do ----


def _rate(item: Item, shown: NeuronContexts, fingerprint: str, score: int) -> None:
    state = st.session_state
    rating = Rated(item.setup, fingerprint).rating(shown, "person", _rater(), score, " ".join(state[_SUMMARY].split()))
    try:
        save(rating_store(), [rating])
    except SteerscopeError as exc:
        state[_ERROR] = str(exc)
        return
    state.update({_LAST: item, _SUMMARY: "", "part": PART_RATE})  # where the form is, also once there are results


def _skip(item: Item) -> None:
    st.session_state.setdefault(_SKIPPED, set()).add(item)
    st.session_state.update({_LAST: item, _SUMMARY: ""})


def _back() -> None:
    st.session_state["interpret_open"] = st.session_state.pop(_LAST)


def _rater() -> str:
    return " ".join(st.session_state.get(_RATER, "").split())


# ---- the form ----


def show_form(setup: Setup, store: Store, ratings: pd.DataFrame) -> None:
    """One neuron's contexts, and the five scores to choose from."""
    left, right = st.columns([3, 2], gap="medium")
    with right:
        st.text_input(
            "Your name",
            key=_RATER,
            persist_state="session",
            max_chars=60,
            placeholder="stands with your ratings",
            help=help_text("rater"),
        )
        pool = _pool(setup, store)
        queue = _queue(pool)
        done = _done(ratings, _rater()) if _rater() else set()
        item = _next(queue, done | st.session_state.get(_SKIPPED, set()))
        st.caption(f"{len(done & set(queue)):,} of {len(queue):,} rated.", help=help_text("rated neurons"))
    if item is None:
        with left:
            st.markdown("All of these neurons are rated. The command draws more: `--neurons 256`.")
        return
    shown = contexts_from_store(pool[item.setup], item.neuron)
    with left:
        heading("What do the shaded tokens have in common?")
        show_contexts(shown)
    with right:
        _show_scores(item, shown, pool[item.setup].meta["fingerprint"])


def _next(queue: list[Item], past: set[Item]) -> Item | None:
    """The neuron to show: one that was gone back to, else the first that is neither rated nor skipped."""
    again: Item | None = st.session_state.pop("interpret_open", None)
    return again if again in queue else next((item for item in queue if item not in past), None)


def _show_scores(item: Item, shown: NeuronContexts, fingerprint: str) -> None:
    named = bool(_rater())
    st.text_input(
        "In one line (may stay empty)",
        key=_SUMMARY,
        max_chars=200,
        placeholder="names of rivers",
        help="What its active tokens, or what they stand in, have in common: becomes the neuron's label",
    )
    for score, meaning in RUBRIC.items():
        st.button(
            f"{score}  {meaning}",
            key=f"interpret_score_{score}",
            shortcut=str(score),
            width="stretch",
            wrap=True,
            disabled=not named,
            on_click=_rate,
            args=(item, shown, fingerprint, score),
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Skip", shortcut="S", on_click=_skip, args=(item,), help="Shows the next neuron")
        if _LAST in st.session_state:
            st.button(
                "Back", shortcut="B", on_click=_back, help="Shows the last neuron again; a new score replaces its"
            )
        keys = "Keys: 1 to 5, S, B; Tab leaves the line." if named else "Your name first: it stands with each rating."
        st.caption(keys, help=help_text("blind"))
    if (problem := st.session_state.pop(_ERROR, None)) is not None:
        show_error(problem)
