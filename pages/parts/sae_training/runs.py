"""Results of training runs: figures as trained, figures at one L0, and losses during training."""

import math
from dataclasses import dataclass

import pandas as pd
import streamlit as st

from core.errors import SteerscopeError
from core.results.published import shipped_results
from core.training.method_comparison import at_matched_l0, compared, with_sparsity_in_force
from pages.parts.sae_training.controls import bound
from pages.parts.sae_training.table import GROUP, group_label, in_order, results_html, shared_settings
from pages.shared.charts import figures as charts
from pages.shared.charts import training
from pages.shared.charts.methods import method_swatches, method_title
from pages.shared.experiments import download_table
from pages.shared.glossary.index import help_text
from pages.shared.links import link_button
from pages.shared.messages import count, plain, show_error
from pages.shared.resources import app_store

COMMAND = "python -m core train data/configs/example_sae_grid.toml"
COMPARISON_COMMAND = "python -m core train data/configs/smollm2_comparison.toml --text FOLDER"
_FIGURES = {
    "mse_special_by_sequence": "log2 MSE, special tokens",
    "mse_all_by_sequence": "log2 MSE, all tokens",
    "mse_special_without_roles_by_sequence": "log2 MSE, special tokens without role words",
    "mse_template_by_sequence": "log2 MSE, the whole template",
    "mse_first_by_sequence": "log2 MSE, first position",
    "explained_variance": "explained variance",
    "ce_recovered": "cross-entropy recovered",
    "dead_share": "dead neurons, share",
}


@dataclass(frozen=True)
class _Run:
    """The tables of one training run, as `python -m core train` saves them."""

    name: str
    training: pd.DataFrame
    losses: pd.DataFrame | None


def _saved_names() -> list[str]:
    """Names of the training results in the app's store, the latest first."""
    saved = app_store().results()
    return list(saved[saved["what"] == "training"].sort_values("saved_at", ascending=False)["setup"])


def _show_commands(*, nothing_saved: bool, nothing_shipped: bool) -> None:
    """Says how to train what is not here."""
    if nothing_saved:
        st.markdown("Nothing trained here yet. This trains one SAE by each method, in a few minutes on two cores:")
        st.code(COMMAND, language=None, wrap_lines=True)
    if nothing_saved and nothing_shipped:
        st.markdown(
            "This compares the three methods on the default setup's model, in some hours; FOLDER holds the texts that "
            "the config names:"
        )
        st.code(COMPARISON_COMMAND, language=None, wrap_lines=True)


def _choose_run(saved: list[str]) -> _Run | None:
    """The run to show, out of `saved` and those that come with the app; None if there are none.

    Raises:
        SteerscopeError: the app's store cannot be read.
    """
    shipped = {f"{name} (shipped)": name for name in shipped_results("training")}
    names = [*saved, *shipped]
    if not names:
        return None
    if (asked := st.query_params.get("training_run")) is not None and asked not in names:
        st.warning(plain(f"The link asks for a run '{asked}', which is not among these."))
    chosen = st.selectbox(
        "Run",
        names,
        help="What `python -m core train` saved here, by the name in its config, and what comes with the app",
        width=320,
        **bound("run"),
    )
    if chosen in shipped:
        name = shipped[chosen]
        return _Run(chosen, shipped_results("training")[name], shipped_results("losses").get(name))
    table = app_store().result(chosen, "training")
    assert table is not None  # it was just listed
    return _Run(chosen, table, app_store().result(chosen, "losses"))


def show_results() -> None:
    with st.container(horizontal=True, vertical_alignment="center"):
        st.header("Trained with Steerscope", anchor=False)
        link_button()
    saved: list[str] = []
    try:
        saved = _saved_names()
        _show_commands(nothing_saved=not saved, nothing_shipped=not shipped_results("training"))
    except SteerscopeError as exc:  # the runs that come with the app can still be shown
        show_error(exc)
    try:
        run = _choose_run(saved)
    except SteerscopeError as exc:
        show_error(exc)
        return
    if run is not None:
        _show_run(run)


def _show_run(run: _Run) -> None:
    """Shows the failed jobs, the figures as trained and at one L0, and the losses."""
    failed = run.training[run.training["error"].notna()]
    if len(failed):
        first, of_all = failed.iloc[0], count(len(run.training), "job")
        st.warning(plain(f"{len(failed)} of {of_all} failed. {first['name']}: {first['error']}"))
    results = with_sparsity_in_force(run.training[run.training["folder"].notna()])
    if results.empty:
        return
    _show_as_trained(run, results)
    st.subheader("At one L0", anchor=False, help=help_text("matched l0"))
    with st.container(horizontal=True, gap="medium"):
        title, group = _choose_group(results)
        figure = _choose_figure()
        l0 = _choose_l0(group)
    _show_matched(run, group, figure, l0)
    _show_losses(run, group, title)


def _show_table(rows: pd.DataFrame, *name: str, mark_best: bool) -> None:
    """Shows rows of `compared` as a table, with the settings that they share below it."""
    rows = in_order(rows)
    st.html(results_html(rows, mark_best=mark_best))
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plain(shared_settings(rows)), width="stretch")
        download_table(rows, *name)


def _show_as_trained(run: _Run, results: pd.DataFrame) -> None:
    st.subheader(
        "As trained", anchor=False, help="Mean ± spread over seeds, on held-out text, the same for all methods"
    )
    _show_table(compared(results), run.name, "as trained", mark_best=False)


def _choose_group(results: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The results of one model, hook point, expansion and architecture, and a title for them."""
    groups = {group_label(key): rows for key, rows in results.groupby(GROUP)}
    label = st.selectbox("SAEs", list(groups), width=370, help="Which SAEs are compared here", **bound("group"))
    return label, groups[label]


def _choose_figure() -> str:
    figure: str = st.selectbox(
        "Figure",
        list(_FIGURES),
        format_func=lambda name: _FIGURES[name],
        width=270,
        help="What the picture shows",
        **bound("figure"),
    )
    return figure


def _choose_l0(group: pd.DataFrame) -> int | None:
    """The L0 to compare at; None if no method and seed has two SAEs to interpolate between."""
    reach = group.groupby(["method", "seed"])["l0"].agg(["min", "max"])
    reach = reach[reach["min"] < reach["max"]]
    low, high = reach["min"].min(), reach["max"].max()
    if reach.empty or math.ceil(low) >= math.floor(high):
        return None
    middle = (reach["min"].max() + reach["max"].min()) / 2  # of the range that all reach, if there is one
    default = round(min(max(middle, low), high))
    chosen: int = st.slider(
        "L0", math.floor(low), math.ceil(high), default, help=help_text("matched l0"), width=220, **bound("l0")
    )
    return chosen


def _show_matched(run: _Run, group: pd.DataFrame, figure: str, l0: int | None) -> None:
    st.html(method_swatches("bars: spread over seeds"))
    picture = training.errors_against_l0(compared(group), figure, _FIGURES[figure], l0)
    st.plotly_chart(picture, config=charts.CONFIG, key="training_frontier")
    if l0 is None:
        st.caption(
            "No method has two SAEs of one seed and different L0 here, so there is nothing to interpolate between. "
            "A grid with several lambdas has."
        )
        return
    matched = at_matched_l0(group, l0)
    if len(matched):
        _show_table(matched, run.name, f"at L0 {l0}", mark_best=True)
    absent = set(group["method"]) - set(matched["method"])
    if titles := [method_title(method) for method in sorted(absent)]:
        st.caption(f"No figures for {', '.join(titles)}: all SAEs lie on one side of this L0.")


def _show_losses(run: _Run, group: pd.DataFrame, title: str) -> None:
    st.subheader("While training", anchor=False)
    if run.losses is None or run.losses.empty:
        st.caption("No losses were saved with this run.")
        return
    curve = st.segmented_control(
        "Curve",
        list(training.CURVES),
        default="loss",
        required=True,
        format_func=lambda name: training.CURVES[name].title,
        help=help_text("training loss"),
        **bound("curve"),
    )
    losses = run.losses.merge(group[["name", "method", "architecture", "sparsity", "seed"]], on="name")
    st.html(method_swatches("a line an SAE"))
    st.plotly_chart(training.loss_curves(losses, curve), config=charts.CONFIG, key="training_losses")
    with st.container(horizontal=True, vertical_alignment="center"):
        st.caption(plain(title), width="stretch")
        download_table(losses, run.name, "losses")
