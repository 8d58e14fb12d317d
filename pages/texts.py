"""The Texts page: what each way of steering does to text, topic by topic, beside the paper's figures."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from pages.parts.texts.examples import show_examples
from pages.parts.texts.means import SHOWN, Chosen, choose, interval, show_figure, show_plane, show_sentence
from pages.parts.texts.published import show_published
from pages.parts.texts.running import show_running
from pages.shared.charts.text import TITLES
from pages.shared.entry import enter
from pages.shared.experiments import saved_tables, table_heading
from pages.shared.glossary.index import TERMS, help_text
from pages.shared.links import link_button
from pages.shared.setups import open_chosen_store

TABLES = ("text", "text-pairs", "text-rows")


def _show_means(setup: Setup, chosen: Chosen) -> None:
    measured = [name for name in SHOWN if chosen.means[name].notna().any()]
    table_heading("Every figure", "text interval", chosen.means, setup.name, "text means")
    cells = {figure: chosen.shown.apply(interval, axis=1, figure=figure) for figure in measured}
    table = pd.DataFrame({"edit": chosen.shown["edit"].map(TITLES), **cells})
    st.dataframe(
        table,
        hide_index=True,
        key="texts_table",
        height=38 + 35 * len(table),
        column_config={
            "edit": st.column_config.TextColumn("edit", pinned=True),
            **{
                name: st.column_config.TextColumn(TERMS[SHOWN[name]].title.lower(), help=help_text(SHOWN[name]))
                for name in measured
            },
        },
    )


def main() -> None:
    enter("What does each way of steering write?")
    setup, store = open_chosen_store()
    tables = saved_tables(setup, TABLES)
    if tables is None:
        st.markdown("No texts have been written for this setup yet.")
        show_running(setup, store)
        return
    chosen = choose(tables["text"])
    show_sentence(chosen)
    left, right = st.columns(2, gap="medium")
    with left:
        show_plane(chosen)
    with right:
        show_figure(chosen, tables["text-pairs"])
    show_published(setup, chosen)
    show_examples(setup, tables["text-rows"], chosen)
    _show_means(setup, chosen)
    link_button()
    show_running(setup, store)


main()
