"""The means beside those that the paper published (Topic Alignment paper, Tables 2, 7 and 8)."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.results.published import published
from pages.parts.texts.means import SHOWN, Chosen, interval
from pages.shared.charts.text import TITLES
from pages.shared.experiments import table_heading
from pages.shared.glossary.index import TERMS

TABLES = {"metaphors": 2, "continuations": 2, "aligned": 7, "unaligned": 8}
_LAYERS = {0: "paper, layer 0", 6: "paper, layer 6"}
_OTHERS = "The paper's are GPT-2's, on medicine; ± is its 95% normal interval. "
_PROMPTS = {
    "metaphors": "The 12 prompts are the paper's own.",
    "continuations": "The paper's Table 2 is of metaphors, which exist for medicine alone; these are openings.",
    "aligned": "The paper's prompts are 20 that are aligned already; these are the topic's own, held out.",
    "unaligned": "The paper's unaligned prompts are others.",
}


def beside_published(means: pd.DataFrame, prompts: str) -> pd.DataFrame:
    """One row per figure and edit of the paper's table: our mean with its interval (if measured), and the paper's.

    Args:
        means: rows of the table `text` for one topic and set of prompts.

    Returns:
        Columns figure, edit, here, and one for each layer of the paper; models without an SAE have the same in both.
    """
    paper = published("topic_tables").query("table == @TABLES[@prompts]")
    ours = means.set_index("edit")
    rows = []
    for (figure, edit), values in paper.groupby(["row", "column"], sort=False):
        known = edit in ours.index
        row = {"figure": figure, "edit": edit, "here": interval(ours.loc[edit], figure) if known else "not run"}
        for layer, title in _LAYERS.items():
            theirs = values[values["layer"].isna() | (values["layer"] == layer)].iloc[0]
            row[title] = f"{_short(theirs['value'])} ± {_short(theirs['plus_minus'])}"
        rows.append(row)
    return pd.DataFrame(rows)


def _short(value: float) -> str:
    """Three significant figures, as the paper prints them."""
    return f"{value:,.0f}" if 1_000 <= value < 1e6 else f"{value:.3g}"


def show_published(setup: Setup, chosen: Chosen) -> None:
    """Our figures beside the paper's, in one table."""
    table = beside_published(chosen.means, chosen.prompts)
    title = f"Beside the paper's Table {TABLES[chosen.prompts]}"
    table_heading(title, "published texts", table, setup.name, "texts beside the paper")
    shown = table.assign(
        figure=table["figure"].map(lambda name: TERMS[SHOWN[name]].title), edit=table["edit"].map(TITLES)
    )
    st.dataframe(
        shown,
        hide_index=True,
        key="texts_published",
        height=38 + 35 * len(shown),
        column_config={
            "figure": st.column_config.TextColumn("figure", width=140),
            "edit": st.column_config.TextColumn("edit", width=90),
            "here": st.column_config.TextColumn("here", help="Mean with its 95% bootstrap interval"),
        },
    )
    st.caption(_OTHERS + _PROMPTS[chosen.prompts])
