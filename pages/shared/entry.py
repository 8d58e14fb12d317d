"""The first call of every page."""

import runpy
from pathlib import Path

import streamlit as st

THROUGH_APP = "through_app"  # set by the app for the page that it runs
APP = Path(__file__).resolve().parents[2] / "app.py"


def enter(title: str) -> None:
    """Shows the page's title; every page calls it first.

    Until `st.navigation` has run once in a server, Streamlit serves a file of `pages/` on its own when a link leads
    there, without sidebar and setup. In that case the app is run from here, and the page within it.
    """
    if not st.session_state.pop(THROUGH_APP, False):
        runpy.run_path(str(APP))
        st.stop()
    st.title(title, anchor=False)
