"""The labels of the setup's neurons: a table to take away, and to bring back."""

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.results.names import parse_labels
from pages.shared.downloads import download_buttons
from pages.shared.glossary.index import help_text
from pages.shared.messages import count, plain, show_error
from pages.shared.names import NAME_COLUMN, linked, neuron_names
from pages.shared.resources import app_store, open_store


def _import(setup: Setup, d_sae: int) -> None:
    upload = st.session_state["labels_file"]
    if upload is None:
        return
    try:
        found = parse_labels(upload.getvalue(), d_sae)
        for source, labels in found.items():
            app_store().save_labels(setup.name, labels, source)
    except SteerscopeError as exc:
        st.session_state["labels_said"] = str(exc)
    else:
        st.session_state["labels_said"] = f"{count(sum(map(len, found.values())), 'label')} imported."


def show_labels(setup: Setup) -> None:
    """The labels, their export, and the import of a file of them."""
    st.header("Labels of neurons", anchor=False, help=help_text("name"))
    if said := st.session_state.pop("labels_said", None):
        st.info(plain(said))
    try:
        store = open_store(setup.name)
        labels, names = app_store().labels(setup.name), neuron_names(store)
    except SteerscopeError as exc:
        show_error(exc)
        return
    if labels.empty:
        st.markdown(
            f"None on **{plain(setup.name)}** yet. **Label** beside an open neuron on the page Topic gives it one."
        )
    else:
        st.dataframe(
            labels.assign(name=linked(names, labels["neuron"])),
            hide_index=True,
            column_order=("name", "label", "source", "saved_at"),
            column_config={"name": NAME_COLUMN},
        )
    with st.container(horizontal=True, vertical_alignment="center"):
        if not labels.empty:
            download_buttons(
                labels, setup.name, "labels", key="labels", help="All labels; the CSV can be imported again"
            )
        with st.popover("Import", help="A table of labels, such as the CSV of another machine"):
            st.file_uploader(
                "A .csv file with columns `neuron`, `label` and, if any, `source`",
                ["csv"],
                key="labels_file",
                on_change=_import,
                args=(setup, store.d_sae),
                help="Each label replaces the neuron's earlier one of the same source; an empty one removes it.",
            )
