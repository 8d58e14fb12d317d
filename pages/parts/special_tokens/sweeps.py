"""Alpha sweeps on a page: reading the saved ones, and running more."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from core.catalog import Setup
from core.errors import SteerscopeError, UsageError
from core.store.reader import Store
from core.sweep.request import SweepSettings, means_table, rows_table, swept_neurons
from pages.shared.messages import show_error
from pages.shared.resources import app_store, saved_result, workbench


@dataclass(frozen=True)
class SavedSweep:
    """The saved results of one neuron's sweep, which may be unfinished."""

    rows: pd.DataFrame  # one per answer
    means: pd.DataFrame  # one per alpha


def saved_sweeps(setup: Setup, neurons: Sequence[int]) -> dict[int, SavedSweep]:
    """The saved sweeps of these neurons, in that order; those without one are left out."""
    found = {}
    for neuron in dict.fromkeys(neurons):
        rows, means = saved_result(setup.name, rows_table(neuron)), saved_result(setup.name, means_table(neuron))
        if rows is not None and means is not None:
            found[neuron] = SavedSweep(rows, means)
    return found


def neurons_with_sweep(setup: Setup) -> list[int]:
    """The neurons of this setup with a saved sweep."""
    saved = app_store().results()
    return swept_neurons(saved.loc[saved["setup"] == setup.name, "what"].tolist())


def parse_neurons(text: str) -> list[int]:
    """Neuron numbers from text, separated by commas or spaces.

    Raises:
        UsageError: a word is not a number.
    """
    words = text.replace(",", " ").split()
    if wrong := [word for word in words if not word.isdecimal()]:
        raise UsageError(f"neurons are numbers separated by commas, as in 12, 500; '{wrong[0]}' is none")
    return list(dict.fromkeys(map(int, words)))


def sweep_command(setup: Setup, neurons: Sequence[int], alphas: str) -> str:
    """The command that runs the same sweeps."""
    words = ["python", "-m", "core", "sweep", setup.name]
    for neuron in neurons:
        words += ["--neuron", str(neuron)]
    return shlex.join([*words, "--alphas", alphas.strip()])


def largest_alpha(setup: Setup, store: Store, neuron: int) -> float:
    """The alpha at which the neuron's decoder row shifts the residual stream by twice its mean norm.

    Raises:
        SteerscopeError: the setup cannot be loaded.
    """
    from core.sweep.run import sweep_alphas

    norm = _residual_norm(setup.name, store.meta["fingerprint"], setup, store)
    return sweep_alphas(workbench(setup, store), neuron, SweepSettings(), norm)[-1]


@st.cache_data(max_entries=8, show_spinner=False)
def _residual_norm(setup_name: str, fingerprint: str, _setup: Setup, _store: Store) -> float:
    """The residual stream's mean norm on the bundled questions: a forward pass for each, so once for all neurons."""
    from core.sweep.run import mean_residual_norm

    return mean_residual_norm(workbench(_setup, _store), SweepSettings().questions)


def run_sweeps(setup: Setup, store: Store, neurons: Sequence[int], settings: SweepSettings) -> None:
    """Sweeps the neurons in turn, with a progress bar. Any other use of the page stops it; a later run continues."""
    from core.sweep.run import available_measures, run_sweep

    bar = st.progress(0.0, "Sweep")
    st.button("Stop", key="stop sweep", help="What is done is kept: the same sweep goes on where it was")

    try:
        bench, measures = workbench(setup, store), available_measures()
        for number, neuron in enumerate(neurons):

            def report(stage: str, share: float, number: int = number) -> None:
                done = f"{stage}, {number + 1} of {len(neurons)}: {share:.0%} of the questions"
                bar.progress(min(1.0, (number + share) / len(neurons)), done)

            run_sweep(bench, neuron, settings, app_store(), setup.name, measures=measures, progress=report)
    except SteerscopeError as exc:
        show_error(exc)
        return
    st.rerun()
