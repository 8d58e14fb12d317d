"""All tables of results that a setup has saved: to look at, and to download in every format."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.evaluation.experiments import EXPERIMENTS
from pages.shared.downloads import download_buttons
from pages.shared.experiments import experiment_command
from pages.shared.glossary.index import help_text
from pages.shared.messages import count, plain, show_error
from pages.shared.resources import app_store, saved_result

_PREVIEW_ROWS = 1_000
_FIRST = "text"  # opens, if it was saved: what steering does to texts
_TITLES = {printed.table: printed.title for experiment in EXPERIMENTS.values() for printed in experiment.printed}


def _show_table(setup: Setup, what: str, table: pd.DataFrame, saved_at: str) -> None:
    st.dataframe(table.head(_PREVIEW_ROWS), hide_index=True, placeholder="n/a")
    shown = f", the first {_PREVIEW_ROWS:,} shown" if len(table) > _PREVIEW_ROWS else ""
    saved = f"saved {saved_at.replace('T', ' ').removesuffix('+00:00')} UTC"
    title = f"{_TITLES[what]}. " if what in _TITLES else ""
    st.caption(plain(f"{title}{count(len(table), 'row')}{shown}; {saved}"))
    with st.container(horizontal=True):
        download_buttons(table, setup.name, what, key="result", help="The whole table, all digits in CSV")


def show_saved_tables(setup: Setup) -> None:
    """The tables that the setup has saved, one of them open; if there are none, how to make some."""
    st.header("Results", anchor=False, help=help_text("results"))
    try:
        saved = app_store().results()
        saved = saved[saved["setup"] == setup.name].set_index("what")["saved_at"]
        if saved.empty:
            st.markdown(
                f"No experiment has been run on **{plain(setup.name)}** yet. The pages offer theirs; the texts:"
            )
            st.code(experiment_command(setup, "text"), language=None, wrap_lines=True)
            return
        names = list(saved.index)
        first = names.index(_FIRST) if _FIRST in names else 0
        what = st.selectbox("Table", names, index=first, key="result", bind="query-params", width=320)
        table = saved_result(setup.name, what)
    except SteerscopeError as exc:
        show_error(exc)
        return
    if table is None:  # removed in the meantime
        st.rerun()
    _show_table(setup, what, table, saved[what])
