"""The part 'Special tokens' of the Layer output page: how well they are reconstructed, and under each edit."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.store.reader import Store
from pages.shared.charts.colours import EDITS
from pages.shared.charts.figures import CONFIG
from pages.shared.charts.layer import special_bars
from pages.shared.charts.methods import swatches
from pages.shared.columns import number
from pages.shared.comparison import COLUMNS
from pages.shared.experiments import experiment_tables, run_again, table_heading
from pages.shared.glossary.index import help_text
from pages.shared.messages import count

TABLES = ("reconstruction", "reconstruction-figures", "reconstruction-edits")
ALL_TOPICS = "all"
KINDS = {  # as the table says them, in its order
    "all": "all tokens",
    "special": "special tokens: role words and markers",
    "markers": "markers alone",
    "template": "all of the template, line breaks too",
    "first": "the first position",
}


def _show_sentence(edits: pd.DataFrame) -> None:
    times = edits.set_index(["edit", "kind"])["times_sae"]
    clamp, swap = (times[edit, "special"] for edit in ("clamp", "swap"))
    ordinary = times["clamp", "ordinary"]
    st.markdown(
        f"On special tokens clamp's error is **{number(clamp)} times** the SAE's own, on ordinary ones "
        f"{number(ordinary)} times; swap's on special tokens **{number(swap)} times**. The paper leaves special tokens "
        "out of its figures, as their error was very high under its edits.",
        help=help_text("special under edits"),
    )


def _show_kinds(setup: Setup, table: pd.DataFrame, figures: pd.Series) -> None:
    table_heading("Reconstruction by kind of token", "mse special", table, setup.name, "reconstruction")
    st.dataframe(
        table.assign(kind=table["kind"].map(KINDS)),
        hide_index=True,
        key="special_kinds",
        placeholder="n/a",
        column_config={
            "kind": st.column_config.TextColumn("over", width="medium"),
            "tokens": st.column_config.NumberColumn("tokens", format="localized"),
            "mse": st.column_config.NumberColumn("MSE", format="%.4g", help=help_text("mse")),
            "mse_log2": st.column_config.NumberColumn("log2", format="%.3f", help=help_text("mse")),
            "mse_pooled": st.column_config.NumberColumn("pooled over tokens", format="%.4g", help=help_text("mse")),
        },
    )
    st.caption(
        f"{count(int(figures['sequences']), 'conversation')}, {int(figures['tokens']):,} tokens. Explained variance "
        f"{figures['explained_variance']:.3f}, {figures['l0']:.1f} active neurons a token, {figures['dead_share']:.1%} "
        f"of the neurons never active there, cross-entropy recovered {figures['ce_recovered']:.3f}."
    )


def show_special_tokens(setup: Setup, store: Store) -> None:
    """Shows the part, or offers to compute it."""
    about = "It runs some thousand conversations, and edits 60 of them for 15 topics: some minutes on two free cores."
    tables = experiment_tables(setup, store, "reconstruction", TABLES, about)
    every = tables["reconstruction-edits"]
    edits = every[every["topic"] == ALL_TOPICS]
    _show_sentence(edits)
    st.html(swatches({COLUMNS[name]: EDITS[name] for name in edits["edit"].unique()}))
    st.plotly_chart(special_bars(edits), config=CONFIG, key="special_bars")
    st.caption(
        "Mean over topics of mean((x' - x)^2) a token, on a log scale; each edit with the settings of the paper."
    )
    _show_kinds(setup, tables["reconstruction"], tables["reconstruction-figures"].iloc[0])
    with st.container(horizontal=True, vertical_alignment="center"):
        table_heading("Every topic", "special under edits", every, setup.name, "special tokens under edits")
        run_again(setup, store, "reconstruction")
