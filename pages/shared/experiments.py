"""Results of experiments on a page: read from the app's store, computed here if missing, and downloaded."""

import shlex

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError
from core.evaluation.experiments import EXPERIMENTS, ExperimentOptions
from core.evaluation.running import run_and_save
from core.results.export import export_bytes
from core.store.reader import Store
from pages.shared.glossary.index import help_text
from pages.shared.links import file_name
from pages.shared.messages import show_error
from pages.shared.resources import app_store, saved_result, scorer, workbench


def experiment_command(setup: Setup, name: str) -> str:
    """The command line that runs the experiment."""
    return shlex.join(["python", "-m", "core", "evaluate", setup.name, "--what", name])


def experiment_tables(
    setup: Setup, store: Store, name: str, tables: tuple[str, ...], about: str, options: ExperimentOptions | None = None
) -> dict[str, pd.DataFrame]:
    """The saved tables of an experiment. If one is missing, offers to run it and ends the run of the page.

    Args:
        tables: names that the experiment saves under.
        about: one sentence on what the experiment costs.
    """
    if (known := saved_tables(setup, tables)) is not None:
        return known
    st.markdown(f"Not computed for this setup yet. {about} The same as a command:")
    st.code(experiment_command(setup, name), language=None, wrap_lines=True)
    if st.button("Compute", type="primary", key=f"run {name}", help="Runs here; leave this page open"):
        run_experiment(setup, store, name, options)
    st.stop()


def saved_tables(setup: Setup, tables: tuple[str, ...]) -> dict[str, pd.DataFrame] | None:
    """The saved tables by name, or None if one is missing. If they cannot be read, says so and ends the page's run."""
    try:
        found = {table: saved_result(setup.name, table) for table in tables}
    except SteerscopeError as exc:
        show_error(exc)
        st.stop()
    known = {table: frame for table, frame in found.items() if frame is not None}
    return known if len(known) == len(tables) else None


def is_saved(setup: Setup, tables: tuple[str, ...]) -> bool:
    """Whether all these tables are saved; False if they cannot be read, which `experiment_tables` then says."""
    try:
        return all(saved_result(setup.name, table) is not None for table in tables)
    except SteerscopeError:
        return False


def run_again(setup: Setup, store: Store, name: str, options: ExperimentOptions | None = None) -> None:
    """A button that runs the experiment again and replaces its saved tables."""
    if st.button(
        "Compute again", key=f"again {name}", help="Replaces these results; needed after the store was rebuilt"
    ):
        run_experiment(setup, store, name, options)


def run_experiment(setup: Setup, store: Store, name: str, options: ExperimentOptions | None = None) -> None:
    """Runs an experiment with a progress bar. Any other use of the page stops it, and nothing is saved."""
    experiment = EXPERIMENTS[name]
    bar = st.progress(0.0, experiment.title)
    st.button("Stop", key=f"stop {name}", help="Nothing of an unfinished experiment is kept")

    def report(stage: str, share: float) -> None:
        bar.progress(min(1.0, share), f"{experiment.title}, {stage}: {share:.0%}")

    try:
        bench = workbench(setup, store) if experiment.needs_model else scorer(setup, store)
        run_and_save(name, bench, options or ExperimentOptions(), app_store(), setup.name, report)
    except SteerscopeError as exc:
        show_error(exc)
        return
    st.rerun()


def table_heading(title: str, term: str, table: pd.DataFrame, *name: str) -> None:
    """A heading with a help text, and a button that downloads the table below it."""
    with st.container(horizontal=True, vertical_alignment="center"):
        st.subheader(title, anchor=False, help=help_text(term), width="content")
        download_table(table, *name)


def download_table(table: pd.DataFrame, *name: str) -> None:
    """A button that downloads a table as CSV with all digits; `name` gives the parts of the file's name."""
    file = file_name(*name, suffix="csv")
    st.download_button(
        "CSV", export_bytes(table, "csv"), file, "text/csv", key=f"download {file}", on_click="ignore", help=file
    )
