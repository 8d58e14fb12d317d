"""Runs the text experiment from the page: what to write, what that costs, and a button."""

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import UsageError
from core.evaluation.experiments import COLUMN_GROUPS, PROMPT_SETS, TEXT_COLUMNS, ExperimentOptions
from core.settings import GenerationSettings
from core.store.reader import Store
from core.text.prompts import bundled_topics
from pages.shared.charts.text import TITLES
from pages.shared.experiments import experiment_command, run_experiment
from pages.shared.glossary.index import help_text
from pages.shared.messages import count, show_error
from pages.shared.resources import saved_result
from pages.shared.topics import topic_title

# on two cores that multiply bfloat16, with the embedded model; a run of the setup itself tells better
_SECONDS_A_TOKEN = 0.011
_SECONDS_A_TRAINING = 60.0
_PROMPTS_A_SET = {"main": 12, "aligned": 10, "unaligned": 20}  # at most, of a bundled topic


def texts_due(options: ExperimentOptions) -> tuple[int, int]:
    """How many texts a run writes at most, and how many models it fine-tunes."""
    sets = sum(min(options.n, _PROMPTS_A_SET[name]) for name in options.prompts)
    columns = set(options.columns) | {"none"}
    half = "aligned" in options.prompts  # of which a model of its own is fine-tuned
    trained = (half + (set(options.prompts) != {"aligned"})) * len(options.topics) if "ft" in columns else 0
    return sets * len(columns) * len(options.topics) * options.seeds, trained


def cost_words(options: ExperimentOptions, took: pd.DataFrame | None) -> str:
    """The expected time of a run, by the time that the saved run of this setup took, if that is known."""
    texts, trained = texts_due(options)
    a_token, by = _SECONDS_A_TOKEN, "on two free cores, with the embedded model"
    if took is not None:
        last = took.iloc[0]
        a_token, by = last["seconds"] / (last["texts"] * last["tokens"]), "as fast as the last run"
        trained = 0  # its time included what it trained
    minutes = (texts * options.generation.max_new_tokens * a_token + trained * _SECONDS_A_TRAINING) / 60
    said = f"At most {count(texts, 'text')}, about **{max(1, round(minutes))} min** {by}"
    return said + (f", {count(trained, 'fine-tuning')} among it." if trained else ".")


def _asked() -> ExperimentOptions:
    """What the controls ask for; `columns` and the like are kept as long as the page is open."""
    topics = bundled_topics()
    with st.container(horizontal=True, vertical_alignment="bottom", gap="medium"):
        names = st.multiselect(
            "Topics", list(topics), ["medical", "cooking"], format_func=topic_title, width=420, key="texts_run_topics"
        )
        sets = st.multiselect(
            "Prompts", PROMPT_SETS, ["main"], help=help_text("text prompts"), width=260, key="texts_run_prompts"
        )
        n = st.number_input("Prompts a set", 2, 24, 12, width=120, help=help_text("text n"), key="texts_run_n")
        seeds = st.number_input("Seeds", 1, 20, 1, width=100, help=help_text("text n"), key="texts_run_seeds")
        tokens = st.number_input("New tokens", 1, 256, 64, width=110, help=help_text("tokens"), key="texts_run_tokens")
    columns = st.multiselect(
        "Columns",
        TEXT_COLUMNS,
        [name for name in COLUMN_GROUPS["paper"] if name != "ft"] + ["swap-s2-keep-error", "clamp-x1-keep-error"],
        format_func=TITLES.__getitem__,
        help=help_text("text columns"),
        key="texts_run_columns",
    )
    if not (names and sets and columns):
        raise UsageError("name at least one topic, one set of prompts and one column")
    return ExperimentOptions(
        topics=tuple(topics[name] for name in names),
        n=int(n),
        seeds=int(seeds),
        columns=tuple(columns),
        prompts=tuple(name for name in PROMPT_SETS if name in sets),
        generation=GenerationSettings(max_new_tokens=int(tokens)),
    )


def show_running(setup: Setup, store: Store) -> None:
    """Offers to write the texts (again), with the cost before and Stop while it runs."""
    with st.expander("Write the texts again", expanded=saved_result(setup.name, "text") is None):
        try:
            options = _asked()
        except UsageError as exc:
            show_error(exc)
            return
        st.markdown(
            f"{cost_words(options, saved_result(setup.name, 'text-run'))} Replaces the saved texts when it is done."
        )
        if st.button(
            "Write",
            type="primary",
            key="texts_run",
            help="Runs here; leave this page open. A stopped run goes on from the topics that it finished",
        ):
            run_experiment(setup, store, "text", options)
        st.caption("On the command line, with every option:")
        st.code(experiment_command(setup, "text"), language=None, wrap_lines=True)
