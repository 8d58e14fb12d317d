"""The My text page: what fires on a text of the user's own, token by token and over the whole."""

import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.inspection import Fired, inspection_of
from core.store.reader import Store
from pages.parts.my_text.fired import Asked, asked, may_load, run, saved, text_controls
from pages.parts.my_text.neurons import choose_neuron, collect_button, export_popover, show_neurons
from pages.parts.my_text.tokens import SHADINGS, shades, text_html
from pages.shared.entry import enter
from pages.shared.glossary.index import help_text
from pages.shared.links import link_button
from pages.shared.messages import show_error
from pages.shared.names import neuron_names
from pages.shared.resources import score
from pages.shared.setups import open_chosen_store
from pages.shared.topics import chosen_topic, score_settings, topic_controls

LINKED_CHARACTERS = 4_000  # of a text; addresses are cut beyond some 8,000 bytes


def _note(text: str) -> str:
    notes = ["A link cannot carry a file."] if st.session_state.get("file_topic") else []
    if len(text) > LINKED_CHARACTERS:
        notes.append("This text may be too long for a link: some programs cut long addresses.")
    return " ".join(notes)


def _show(setup: Setup, store: Store, text: Asked, fired: Fired) -> None:
    topic = chosen_topic()
    scores = score(setup, store, topic, score_settings()).scores
    found, names = inspection_of(fired, scores), neuron_names(store)
    if found.neurons.empty:
        st.markdown("No neuron fires on a word of this text.")
        return
    with st.container(horizontal=True, vertical_alignment="bottom"):
        shading = st.segmented_control(
            "Shade by",
            SHADINGS,
            default="topic score",
            required=True,
            key="shade_text",
            bind="query-params",
            help=help_text("text shading"),
        )
        neuron = choose_neuron(found, store.d_sae)
        name = names[neuron]
        collect_button(setup, topic, text.text, found, neuron, names)
        link_button(_note(text.text))
        export_popover(setup, found, names)
    st.html(text_html(found, shades(fired, found, shading, name, store.d_sae), names))
    show_neurons(found, names, int(scores.table["score"].notna().sum()))


def main() -> None:
    enter("What fires on this text?")
    setup, store = open_chosen_store()
    left, right = st.columns([5, 4], gap="medium")
    with left:
        text_controls()
    with right:
        topic_controls()
    try:
        text = asked()
        fired = saved(setup, text)
        if fired is None:
            if not may_load(setup):
                return
            fired = run(setup, store.meta["built_at"], text, store)
        _show(setup, store, text, fired)
    except SteerscopeError as exc:
        show_error(exc)


main()
