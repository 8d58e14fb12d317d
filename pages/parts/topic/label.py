"""The open neuron's name, and its label for the user to write."""

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.results.app_store import MAX_LABEL_CHARACTERS
from core.results.names import NeuronName
from core.store.reader import Store
from pages.shared.glossary.index import help_text
from pages.shared.messages import plain, show_error
from pages.shared.names import neuron_names
from pages.shared.resources import app_store

_SOURCES = {"user": "your label", "judge": "a judge's label", "tokens": "its top tokens"}


def _save(setup_name: str, neuron: int, key: str) -> None:
    try:
        app_store().save_labels(setup_name, {neuron: st.session_state[key]}, "user")
    except SteerscopeError as exc:
        st.session_state["label_error"] = str(exc)


def _edit(setup: Setup, name: NeuronName) -> None:
    key = f"label {setup.name} {name.neuron}"
    st.text_input(
        "Label",
        name.words if name.source == "user" else "",
        key=key,
        max_chars=MAX_LABEL_CHARACTERS,
        placeholder=name.words,
        on_change=_save,
        args=(setup.name, name.neuron, key),
        help="Stands beside the neuron's number on every page. Empty: a judge's label, or its top tokens.",
    )
    st.caption("Enter keeps it. Compare and export has all labels as a table, which can be imported again.")


def show_name(setup: Setup, store: Store, neuron: int) -> None:
    """Shows what the neuron is called, and by whom; a label can be written there."""
    if problem := st.session_state.pop("label_error", None):
        show_error(problem)
    try:
        name = neuron_names(store)[neuron]
    except SteerscopeError as exc:
        show_error(exc)
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        said = f" :small[:gray[{_SOURCES[name.source]}]]" if name.words else ""
        st.markdown(f"**{neuron}** {plain(name.words)}{said}", width="stretch", help=help_text("name"))
        with st.popover("Label", help="Give it a label of your own"):
            _edit(setup, name)
