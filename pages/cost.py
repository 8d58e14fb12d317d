"""The Cost page: how long each way of steering takes here, beside the paper's times (Tables 3 and 4)."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from pages.parts.cost.summary import show_sentence
from pages.shared.charts.cost import seconds_dots
from pages.shared.charts.figures import CONFIG
from pages.shared.charts.text import TITLES
from pages.shared.columns import number
from pages.shared.entry import enter
from pages.shared.experiments import experiment_tables, run_again, table_heading
from pages.shared.links import link_button
from pages.shared.setups import open_chosen_store

TABLES = ("cost", "cost-steps")
ABOUT = (
    "It times the scoring of 3 topics, fine-tunes on each, and writes 10 prompts in 5 ways: 5 minutes on free cores."
)


def _interval(row: pd.Series) -> str:
    if not row["n"]:
        return "not needed"
    if pd.isna(row["seconds"]):
        return "not known"
    if row["low"] == row["high"]:
        return number(row["seconds"])
    return f"{number(row['seconds'])} ({number(row['low'])} to {number(row['high'])})"


def _show_tasks(setup: Setup, cost: pd.DataFrame) -> None:
    table_heading("Tasks (Table 3)", "cost", cost, setup.name, "cost")
    table = cost.assign(here=cost.apply(_interval, axis=1), edit=cost["edit"].map(TITLES))
    st.dataframe(
        table,
        hide_index=True,
        key="cost_tasks",
        height=38 + 35 * len(table),
        placeholder="n/a",
        column_order=("task", "edit", "here", "n", "published"),
        column_config={
            "here": st.column_config.TextColumn("here, s", help="Mean with its 95% bootstrap interval"),
            "n": st.column_config.NumberColumn("measured", width=70, help="How often it was timed"),
            "published": st.column_config.NumberColumn("paper, s", format="%.3g", width=80),
        },
    )


def _show_steps(setup: Setup, steps: pd.DataFrame) -> None:
    table_heading("Steps (Table 4)", "cost steps", steps, setup.name, "cost steps")
    st.dataframe(
        steps,
        hide_index=True,
        key="cost_steps",
        height=38 + 35 * len(steps),
        placeholder="n/a",
        column_order=("step", "seconds", "published_seconds", "per_token", "published_per_token"),
        column_config={
            "seconds": st.column_config.NumberColumn("here, s", format="%.3g"),
            "published_seconds": st.column_config.NumberColumn("paper, s", format="%.3g"),
            "per_token": st.column_config.NumberColumn("here, s a token", format="%.2g"),
            "published_per_token": st.column_config.NumberColumn("paper, s a token", format="%.2g"),
        },
    )


def main() -> None:
    enter("What does steering cost?")
    setup, store = open_chosen_store()
    tables = experiment_tables(setup, store, "cost", TABLES, ABOUT)
    cost, steps = tables["cost"], tables["cost-steps"]
    show_sentence(cost)
    st.plotly_chart(seconds_dots(cost), config=CONFIG, key="cost_dots")
    st.caption(
        "Dot: here, with its 95% interval; ring: the paper's, GPT-2 on V100 GPUs. A prompt is 64 new tokens. Set-up "
        "was timed where the store was built."
    )
    left, right = st.columns(2, gap="medium")
    with left:
        _show_tasks(setup, cost)
    with right:
        _show_steps(setup, steps)
    st.caption(
        "The paper counts scores per topic for the original model and the SAE alike, though neither needs them; here "
        "they take nothing. Its fine-tuned model wrote without TransformerLens, which made its other columns 16 times "
        "as slow; here every column is written alike."
    )
    with st.container(horizontal=True, vertical_alignment="center"):
        link_button()
        run_again(setup, store, "cost")
        st.caption(ABOUT)


main()
