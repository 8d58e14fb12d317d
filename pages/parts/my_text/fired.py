"""The text that the controls give, and where neurons fire on it: saved, cached, or run through the model now."""

from dataclasses import dataclass

import streamlit as st

from core.catalog import Setup
from core.evaluation.inspected import EXAMPLE_TEXT, TABLES, restored
from core.inspection import Fired, fired_on
from core.store.reader import Store
from core.text.messages import parse_messages
from pages.shared.resources import saved_result, workbench
from pages.shared.setups import chosen_setup

AS_TEXT, AS_CHAT = "text", "chat"
HEIGHT = 150


@dataclass(frozen=True)
class Asked:
    """A text, and whether it is read as a chat."""

    text: str
    as_chat: bool


def text_controls() -> None:
    """Shows the text and how it is read; `asked` reads them."""
    st.text_area(
        "Text",
        EXAMPLE_TEXT,
        key="text",
        bind="query-params",
        height=HEIGHT,
        help="What the neurons are read on. Ctrl+Enter, or a click elsewhere, applies a change.",
    )
    setup, _ = chosen_setup()
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button("Inspect", type="primary", help="Runs the text through the model; a text that was run is kept")
        if setup.has_template:
            st.segmented_control(
                "Read as",
                (AS_TEXT, AS_CHAT),
                default=AS_TEXT,
                required=True,
                key="read_as",
                bind="query-params",
                label_visibility="collapsed",
                help="A chat goes through the chat template: lines that begin with `user:`, `assistant:` or `system:` "
                "begin a message; without any, the text is a user's message.",
            )


def asked() -> Asked:
    """What the controls ask for."""
    state, (setup, _) = st.session_state, chosen_setup()
    return Asked(state["text"], setup.has_template and state["read_as"] == AS_CHAT)


def may_load(setup: Setup) -> bool:
    """Whether the model may be loaded: an embedded one at once, another when asked, as it may be large."""
    if setup.origin == "embedded" or st.session_state.get("text_loaded") == setup.name:
        return True
    st.markdown("This runs the text through the model: a moment, once it is loaded.")
    if not st.button("Run the model", help="Loads the language model and the SAE"):
        return False
    st.session_state["text_loaded"] = setup.name
    return True


def saved(setup: Setup, text: Asked) -> Fired | None:
    """Where neurons fire on the text that the page opens with, if that is asked for and comes with the setup."""
    if text != Asked(EXAMPLE_TEXT, as_chat=False) or setup.chat:
        return None
    tables = {name: table for name in TABLES if (table := saved_result(setup.name, name)) is not None}
    return restored(tables) if len(tables) == len(TABLES) else None


@st.cache_resource(max_entries=32, show_spinner="Running the text through the model ...")
def run(setup: Setup, built_at: str, text: Asked, _store: Store) -> Fired:
    """Where neurons fire on the text; kept for all sessions.

    Raises:
        SteerscopeError: the setup cannot be loaded, or the text is empty, too long, or no chat.
    """
    bench = workbench(setup, _store)
    return fired_on(bench, parse_messages(text.text) if text.as_chat else text.text)
